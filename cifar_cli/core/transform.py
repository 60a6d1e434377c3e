"""The interface between loader and augmentation. The loader makes the slices, the augmentation consumes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSlice:
    """Consecutive positions of one batch: all of it on one device, a share of it on each of several."""

    seed: int
    """Seed of the batch's random draws, the same for every slice of the batch."""
    first: int
    """Position in the batch of the slice's first image."""
    count: int
    """Images in the slice."""
    total: int
    """Images in the complete batch."""

    @classmethod
    def complete(cls, *, seed: int, count: int) -> BatchSlice:
        """A batch of `count` images that is not divided."""
        return cls(seed=seed, first=0, count=count, total=count)


class Transform(Protocol):
    """Augments and normalises images; its random draws are a function of the slices alone."""

    images_per_call: int
    """A loader joins consecutive batches up to this many images in one call; 1 keeps every batch by itself."""

    def __call__(self, images_BHWC: Tensor, slices: Sequence[BatchSlice]) -> Tensor:
        """Transform the images of several slices, one after another, exactly as each would be by itself.

        images_BHWC: uint8 [B, H, W, 3], where B is the sum of the slices' counts.
        Returns float32 [B, 3, S, S]; S is the transform's own image size.
        """
        ...
