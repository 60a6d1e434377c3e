"""The interface between loader and augmentation. The loader makes the slices, the augmentation consumes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
    epoch: int = 0
    run_seed: int = 0
    """Seed of what stays the same for an image over all epochs."""
    images_B: Tensor | None = field(default=None, compare=False)
    """What tells the slice's images apart over all epochs: int64 [count] on the CPU; None for their positions."""

    @classmethod
    def complete(cls, *, seed: int, count: int) -> BatchSlice:
        """A batch of `count` images that is not divided."""
        return cls(seed=seed, first=0, count=count, total=count)


class Images(Protocol):
    """A uint8 tensor of images [N, S, S, 3], or what stands for one and decodes the rows that it is asked for."""

    @property
    def shape(self) -> Any: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


class Framer(Protocol):
    """A `Transform` in parts: what is decoded of each picture, the augmentation, the normalisation.

    Its random draws are a function of the slices alone.
    """

    def boxes(self, height_B: Tensor, width_B: Tensor, slices: Sequence[BatchSlice]) -> Tensor | None:
        """Top, left, height and width in pictures of these sizes, int64 [B, 4]; None for what evaluation sees."""
        ...

    def augmented(self, images_BHWC: Tensor, slices: Sequence[BatchSlice]) -> Tensor:
        """The decoded images, augmented: uint8 [B, S, S, 3]."""
        ...

    @property
    def normalise(self) -> Callable[[Tensor], Tensor]:
        """Turns them into float32 [B, 3, S, S]."""
        ...


class Mixer(Protocol):
    """Mixes normalised images with others; its random draws are a function of the seed alone."""

    def __call__(self, images_BCHW: Tensor, others_BCHW: Tensor, *, seed: int) -> tuple[Tensor, float]:
        """Returns the mixed images, and the share (0 to 1) of the labels that stays `images`' own."""
        ...


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
