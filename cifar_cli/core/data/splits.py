"""Holds out part of the training images for validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cifar_cli.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cifar_cli.core.data.store import Store

VAL_FRACTION = 0.1
SPLIT_SEED = 42


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Split:
    """Two disjoint sets of rows that together are all training images: int64, sorted."""

    train_indices: Tensor
    val_indices: Tensor


def split_of(store: Store, *, fraction: float = VAL_FRACTION) -> Split:
    """The validation images that the dataset came with, else those that `stratified_split` holds out."""
    if not store.given_val:
        return stratified_split(store.train.labels_N, fraction=fraction)
    rows, first = torch.arange(len(store.train)), len(store.train) - store.given_val
    return Split(train_indices=rows[:first], val_indices=rows[first:])


def stratified_split(labels_N: Tensor, *, fraction: float = VAL_FRACTION, seed: int = SPLIT_SEED) -> Split:
    """Hold out `round(fraction * count)` images of every class, at least one and never all; of a single one none.

    labels_N: int64 [N]. Equal labels, fraction and seed give the same split on every machine.
    Raises ConfigError for a fraction outside 0..1 and DataError where no class has 2 images.
    """
    if not 0.0 < fraction < 1.0:
        raise ConfigError(
            f"a validation fraction of {fraction:g} leaves no images for training or for validation",
            remedy="choose one between 0 and 1, usually 0.1",
        )
    labels_N = labels_N.cpu()
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels_N), dtype=torch.bool)
    for label, count in enumerate(labels_N.bincount().tolist()):
        if count < 2:
            continue  # a class with test images only, or one whose only training image is needed for training
        rows = (labels_N == label).nonzero().squeeze(1)
        wanted = min(max(round(fraction * count), 1), count - 1)
        held_out[rows[torch.randperm(count, generator=generator)[:wanted]]] = True
    if not held_out.any():
        raise DataError(
            "no class has two training images, so that none can be held out for validation", remedy="add images"
        )
    return Split(train_indices=(~held_out).nonzero().squeeze(1), val_indices=held_out.nonzero().squeeze(1))
