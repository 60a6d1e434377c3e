"""The loaders of the three splits: data and augmentation as training uses them."""

from __future__ import annotations

from collections.abc import Callable
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
from cifar_cli.core.data.loader import BatchLoader, Transform
from cifar_cli.core.data.splits import split_of
from cifar_cli.core.data.store import Part, Store
from cifar_cli.core.data.worker_loader import PictureLoader, WorkerLoader
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.ranks import ALONE, Ranks

INITIALISED_FROM = 5000  # images; more change the result in the third digit
PLAIN_TRAIN_IMAGES = 2000  # enough for an accuracy within two points; the test has several times as many
INITIALISED_FROM_PIXELS = INITIALISED_FROM * 64**2  # so many at most: 400 images of 224 pixels
EVAL_BATCH = 512  # evaluation keeps no activations, so large batches cost little memory
EVAL_PIXELS = 32 * 224**2  # of a batch of decoded pictures, so that evaluation takes no more memory than training
EVAL_WORKERS = 2  # processes that decode where no number is asked for


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Loaders:
    """Batches of the three splits; only `train` is shuffled and augmented."""

    train: BatchLoader
    val: BatchLoader
    test: BatchLoader
    train_indices: Tensor
    val_indices: Tensor


def make_loaders(config: TrainConfig, store: Store, *, device: torch.device, ranks: Ranks = ALONE) -> Loaders:
    """Make the loaders. With the batched pipeline all pixels are copied to `device`; encoded images are decoded by
    worker processes.

    ranks: of several processes, each gets its slice of every training batch.

    Raises DataError when the training images can't be split, AugmentError and ConfigError for a bad policy.
    """
    split = split_of(store)
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
            device=device,
        ),
        val=eval_loader(
            on_device,
            val_indices,
            img_size=config.model.img_size,
            normalisation=config.normalised_by,
            workers=config.workers,
        ),
        test=loader_of_test(
            store,
            img_size=config.model.img_size,
            normalisation=config.normalised_by,
            device=device,
            images=only,
            workers=config.workers,
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
    device: torch.device | None = None,
) -> BatchLoader:
    """Shuffled and augmented batches of the rows `indices`, of this many classes.

    policy: a declared one, or a file of `A.save` for the albumentations pipeline. device: where that pipeline's batches
    go; None for where the images are, as with the batched one. Raises AugmentError for a bad file.
    """
    part = part.at_side(img_size)
    transform = _transform(
        policy, img_size, pipeline, normalisation, cropped=part.pictures is not None, device=part.images_NHWC.device
    )
    make: Callable[..., BatchLoader] = BatchLoader
    if pipeline == "albumentations":
        make = partial(WorkerLoader, workers=workers, device=device or part.images_NHWC.device)
    elif isinstance(transform, BatchedPipeline) and part.pictures is not None:
        make = partial(PictureLoader, workers=workers, framer=transform, persistent=True)
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
    """Training images of the split, normalised and on the CPU, for `initialise_from_images`."""
    side, normalised_by = config.model.img_size, config.normalised_by
    rows = _evenly(loaders.train_indices.cpu(), min(INITIALISED_FROM, INITIALISED_FROM_PIXELS // side**2))
    images = store.train.at_side(side).images_NHWC.index_select(0, rows)
    return EvalTransform(side, normalised_by.mean, normalised_by.std)(images)


def loader_of_test(
    store: Store,
    *,
    img_size: int,
    normalisation: Normalisation,
    device: torch.device,
    batch: int = EVAL_BATCH,
    images: int | None = None,
    workers: int = EVAL_WORKERS,
) -> BatchLoader:
    """The test images in their order, normalised only; `images` limits them to the first ones."""
    rows = torch.arange(len(store.test))[:images]
    return eval_loader(
        resident(store.test, device),
        rows,
        img_size=img_size,
        normalisation=normalisation,
        batch=batch,
        workers=workers,
    )


def plain_train_loader(store: Store, loaders: Loaders, config: TrainConfig, device: torch.device) -> BatchLoader:
    """PLAIN_TRAIN_IMAGES of the training images at even distances, normalised only."""
    chosen = _evenly(loaders.train_indices.cpu(), PLAIN_TRAIN_IMAGES)
    part = store.train
    if not store.encoded:  # only the chosen ones go to the device
        part, chosen = part.taken(chosen), torch.arange(len(chosen))
    return eval_loader(
        resident(part, device),
        chosen,
        img_size=config.model.img_size,
        normalisation=config.normalised_by,
        workers=config.workers,
    )


def eval_loader(
    part: Part,
    indices: Tensor,
    *,
    img_size: int,
    normalisation: Normalisation,
    batch: int = EVAL_BATCH,
    workers: int = EVAL_WORKERS,
) -> BatchLoader:
    """Images in the order of `indices`, resized to `img_size` where they differ, and normalised.

    A batch has EVAL_PIXELS at most. Encoded images are decoded by `workers` processes.
    """
    batch = min(batch, max(1, EVAL_PIXELS // img_size**2))
    transform = EvalTransform(img_size, normalisation.mean, normalisation.std)
    make: Callable[..., BatchLoader] = BatchLoader
    if part.pictures is not None:
        make = partial(PictureLoader, workers=workers)
    return make(
        part.at_side(img_size).images_NHWC,
        part.labels_N,
        indices,
        batch=batch,
        transform=transform,
        seed=0,
        shuffle=False,
    )


def resident(part: Part, device: torch.device) -> Part:
    """The pixels on a device; encoded images stay where they are, and their batches are put on the device."""
    return Part(images_NHWC=part.images_NHWC.to(device), labels_N=part.labels_N.to(device))


def _evenly(rows_N: Tensor, images: int) -> Tensor:
    """At most `images` of the rows, at even distances: a store of class folders is sorted by class."""
    return rows_N[torch.linspace(0, len(rows_N) - 1, min(images, len(rows_N)), dtype=torch.float64).round().long()]


def _transform(
    policy: Policy | Path,
    img_size: int,
    pipeline: PipelineName,
    normalisation: Normalisation,
    *,
    cropped: bool,
    device: torch.device,
) -> Transform:
    if pipeline == "batched":
        assert isinstance(policy, Policy), "TrainConfig refuses policy files for the batched pipeline"
        return BatchedPipeline(policy, img_size, normalisation.mean, normalisation.std, cropped=cropped, device=device)
    from cifar_cli.core.augment.per_image import PerImagePipeline, load_policy

    mean, std = normalisation.mean, normalisation.std
    loaded = load_policy(policy, mean=mean, std=std) if isinstance(policy, Path) else policy
    return PerImagePipeline(loaded, img_size, mean, std)
