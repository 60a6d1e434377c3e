"""The loaders of the three splits: data and augmentation as training uses them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cifar_cli.core.augment.batched import BatchedPipeline, EvalTransform
from cifar_cli.core.augment.mixing import mixer_of
from cifar_cli.core.augment.policy import Policy, policy_of
from cifar_cli.core.choices import PipelineName
from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.loader import BatchLoader, Transform, WorkerLoader
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.data.store import Part, Store
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.ranks import ALONE, Ranks

INITIALISED_FROM = 5000  # images; more change the result in the third digit
PLAIN_TRAIN_IMAGES = 2000  # enough for an accuracy within two points; the test has several times as many
EVAL_BATCH = 512  # evaluation keeps no activations, so large batches cost little memory


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Loaders:
    """Batches of the three splits; only `train` is shuffled and augmented."""

    train: BatchLoader
    val: BatchLoader
    test: BatchLoader
    train_indices: Tensor
    val_indices: Tensor


def make_loaders(config: TrainConfig, store: Store, *, device: torch.device, ranks: Ranks = ALONE) -> Loaders:
    """Make the loaders. With the batched pipeline all images are copied to `device`.

    ranks: of several processes, each gets its slice of every training batch.

    Raises DataError when the training images can't be split, AugmentError and ConfigError for a bad policy.
    """
    split = stratified_split(store.train.labels_N)
    only = config.recipe.batch if config.fast_dev_run else None
    train_indices, val_indices = split.train_indices[:only], split.val_indices[:only]
    on_device = resident(store.train, device)
    return Loaders(
        train=train_loader(
            on_device if config.pipeline == "batched" else store.train,
            train_indices,
            policy=config.augment_file or policy_of(config.recipe.policy),
            img_size=config.model.img_size,
            normalisation=config.normalised_by,
            batch=config.recipe.batch,
            seed=config.seed,
            pipeline=config.pipeline,
            workers=config.workers,
            ranks=ranks,
            classes=len(store.classes),
        ),
        val=eval_loader(on_device, val_indices, img_size=config.model.img_size, normalisation=config.normalised_by),
        test=loader_of_test(
            store,
            img_size=config.model.img_size,
            normalisation=config.normalised_by,
            device=device,
            images=only,
        ),
        train_indices=train_indices,
        val_indices=val_indices,
    )


def train_loader(
    part: Part,
    indices: Tensor,
    *,
    policy: Policy | Path,
    img_size: int,
    normalisation: Normalisation,
    batch: int,
    seed: int,
    pipeline: PipelineName,
    workers: int,
    ranks: Ranks = ALONE,
    classes: int,
) -> BatchLoader:
    """Shuffled and augmented batches of the rows `indices`, of this many classes.

    policy: a declared one, or a file of `A.save` for the albumentations pipeline. Raises AugmentError for a bad file.
    """
    make, transform = BatchLoader, _transform(policy, img_size, pipeline, normalisation)
    if pipeline == "albumentations":
        make = partial(WorkerLoader, workers=workers)  # type: ignore[assignment]
    return make(
        part.images_NHWC,
        part.labels_N,
        indices,
        batch=batch,
        transform=transform,
        seed=seed,
        shuffle=True,
        rank=ranks.rank,
        world_size=ranks.world_size,
        mixer=mixer_of(policy.mix) if isinstance(policy, Policy) else None,
        classes=classes,
    )


def images_for_initialisation(store: Store, loaders: Loaders, config: TrainConfig) -> Tensor:
    """The first training images of the split, normalised and on the CPU, for `initialise_from_images`."""
    rows = loaders.train_indices[:INITIALISED_FROM].cpu()
    images = store.train.images_NHWC.index_select(0, rows)
    normalised_by = config.normalised_by
    return EvalTransform(config.model.img_size, normalised_by.mean, normalised_by.std)(images)


def loader_of_test(
    store: Store,
    *,
    img_size: int,
    normalisation: Normalisation,
    device: torch.device,
    batch: int = EVAL_BATCH,
    images: int | None = None,
) -> BatchLoader:
    """The test images in their order, normalised only; `images` limits them to the first ones."""
    rows = torch.arange(len(store.test))[:images]
    return eval_loader(resident(store.test, device), rows, img_size=img_size, normalisation=normalisation, batch=batch)


def plain_train_loader(store: Store, loaders: Loaders, config: TrainConfig, device: torch.device) -> BatchLoader:
    """PLAIN_TRAIN_IMAGES of the training images at even distances, normalised only."""
    rows = loaders.train_indices.cpu()
    chosen = rows[torch.linspace(0, len(rows) - 1, min(PLAIN_TRAIN_IMAGES, len(rows))).round().long()]
    part = Part(images_NHWC=store.train.images_NHWC[chosen], labels_N=store.train.labels_N[chosen])
    return eval_loader(
        resident(part, device),
        torch.arange(len(chosen)),
        img_size=config.model.img_size,
        normalisation=config.normalised_by,
    )


def eval_loader(
    part: Part, indices: Tensor, *, img_size: int, normalisation: Normalisation, batch: int = EVAL_BATCH
) -> BatchLoader:
    """Images in the order of `indices`, resized to `img_size` where they differ, and normalised."""
    transform = EvalTransform(img_size, normalisation.mean, normalisation.std)
    return BatchLoader(
        part.images_NHWC, part.labels_N, indices, batch=batch, transform=transform, seed=0, shuffle=False
    )


def resident(part: Part, device: torch.device) -> Part:
    """The images on a device."""
    return Part(images_NHWC=part.images_NHWC.to(device), labels_N=part.labels_N.to(device))


def _transform(policy: Policy | Path, img_size: int, pipeline: PipelineName, normalisation: Normalisation) -> Transform:
    if pipeline == "batched":
        assert isinstance(policy, Policy), "TrainConfig refuses policy files for the batched pipeline"
        return BatchedPipeline(policy, img_size, normalisation.mean, normalisation.std)
    from cifar_cli.core.augment.per_image import PerImagePipeline, load_policy

    loaded = load_policy(policy) if isinstance(policy, Path) else policy
    return PerImagePipeline(loaded, img_size, normalisation.mean, normalisation.std)
