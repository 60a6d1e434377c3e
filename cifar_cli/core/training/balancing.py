"""What the training images of each class count in the loss, and what their numbers mean."""

from __future__ import annotations

from cifar_cli.core.data.store import Store
from cifar_cli.core.training.batches import Loaders
from cifar_cli.core.training.config import TrainConfig


def training_counts(store: Store, loaders: Loaders) -> list[int]:
    """The training images of each class, without those held out for validation."""
    labels_N = store.train.labels_N[loaders.train_indices.cpu()]
    counts: list[int] = labels_N.bincount(minlength=len(store.classes)).tolist()
    return counts


def class_weights_of(config: TrainConfig, store: Store, loaders: Loaders) -> tuple[float, ...] | None:
    """The weights of the classes in the loss, whose mean over the training images is 1; None for equal ones.

    A class weighs the inverse of its share of the images. One without any, which can't be learned, weighs 1.
    """
    if config.recipe.class_weights == "none":
        return None
    counts = training_counts(store, loaders)
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 1.0 for count in counts)
