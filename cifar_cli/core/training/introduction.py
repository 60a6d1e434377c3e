"""What is trained, on what, and where: the first notes of a run."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from cifar_cli.core.data.balance import counts_in_words, imbalance
from cifar_cli.core.data.store import Store
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.balancing import training_counts
from cifar_cli.core.training.batches import Loaders
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.ranks import Ranks

SMALL_SIDE = 48  # pixels; networks made for 224 pixels end with one or two pixels a side


def introduce(
    config: TrainConfig, model: nn.Module, loaders: Loaders, store: Store, ranks: Ranks, note: Callable[[str], None]
) -> None:
    """Report model, dataset, device, slices of the batch and run directory."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    device = next(model.parameters()).device
    counts = training_counts(store, loaders)
    images = f"{sum(counts):,} images ({counts_in_words(store.classes, counts)})"
    if config.fast_dev_run:
        images = f"one batch of {sum(counts):,} images (--fast-dev-run)"
    note(
        f"training {config.model.label} ({parameters:,} parameters, recipe {config.recipe.name}) on "
        f"{images} of {dataset_line(store)}, {device}, "
        f"precision {config.precision}, {config.memory_format}; writing to {config.run_dir}"
    )
    # One batch of a dataset that is sorted by class has other numbers.
    if not config.fast_dev_run and (told := _of_classes(config, store, counts)):
        note(told)
    if config.model.img_size > store.img_size:
        note(enlarged(config.model.img_size, store))
    if told := lost_detail(config.model, model):
        note(told)
    if ranks.world_size > 1:
        batch, slices = config.recipe.batch, ranks.images_of(config.recipe.batch)
        even = batch % ranks.world_size == 0
        split = f"{ranks.world_size} × {slices}" if even else f"{slices} or {slices + 1} each"
        note(f"{ranks.world_size} processes share every batch: {batch} = {split}")
    left_out: tuple[str, ...] = getattr(model, "optional_prefixes", ())
    if left_out and config.model.trim_backbone:
        names = ", ".join(prefix.rstrip(".") for prefix in left_out)
        note(f"left out, because they never reach the logits: {names} (--full-backbone keeps them)")


def _of_classes(config: TrainConfig, store: Store, counts: list[int]) -> str | None:
    """What to know of the numbers of images in the classes."""
    if sum(count > 0 for count in counts) == 1:
        return one_class(store.classes[counts.index(max(counts))])
    return imbalance(store.classes, counts) if config.recipe.class_weights == "none" else None


def lost_detail(config: ModelConfig, model: nn.Module) -> str | None:
    """What to know of a timm model whose first layer shrinks small images."""
    if not config.is_from_timm or config.img_size > SMALL_SIDE:
        return None
    from cifar_cli.core.models.cnn import strided_first_convolution  # imports timm

    first = strided_first_convolution(model)
    if first is None:
        return None
    stride = max(first.stride)
    return (
        f"the first layer of {config.label} divides the side of images of {config.img_size} pixels by {stride}; "
        f"--small-images keeps their details, and takes up to {stride**2} times as long"
    )


def one_class(name: str) -> str:
    """What a training set of one class teaches."""
    return (
        f"all training images are of the class {name}: a model that always answers {name} scores 100 %, which says "
        "nothing about telling it from anything else. Import images of a second class"
    )


def enlarged(side: int, store: Store) -> str:
    """What to know of an --img-size that is larger than the dataset's."""
    if store.encoded:
        return (
            f"--img-size {side} is more than the {store.img_size} pixels that {store.name} was imported for; images "
            "with fewer pixels are enlarged, which adds no detail"
        )
    return f"--img-size {side} enlarges the images of {store.img_size} pixels, which adds no detail"


def dataset_line(store: Store) -> str:
    """The dataset's name and where its images come from."""
    kind = "synthetic, drawn by cifar: not real images" if store.synthetic else f"from {store.provenance.source}"
    return f"{store.name} ({kind})"
