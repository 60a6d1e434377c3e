"""The result of every source, ready to be written to a store: images in memory, or read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cifar_cli.core.data.config import SPLITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cifar_cli.core.data.results import LeftOut, Provenance

TENSORS = tuple(f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels"))
"""The tensors of a store file, in its order."""


@dataclass(frozen=True, eq=False, slots=True)
class SourceImages:
    """A dataset in memory. Images are uint8 [N, S, S, 3], RGB; labels are int64 [N], indices into `classes`."""

    classes: tuple[str, ...]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    provenance: Provenance
    """Its checksum is empty if there was no archive; the store then fills in the checksum of the content."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The tensors of a store file, by name and in its order."""
        return {name: getattr(self, name) for name in TENSORS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image of a dataset, before it is read."""

    split: Literal["train", "val", "test"]
    label: int
    """Index into the classes."""
    name: str
    """Its path in the source, with `/`."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class SourceStream:
    """A dataset that is read image by image, so that an import needs memory for one image."""

    classes: tuple[str, ...]
    img_size: int
    """Side of the store's images, in pixels."""
    encoded: bool
    """Whether images are kept as files (JPEG, PNG, …) of any shape, to be decoded in training, instead of as pixels."""
    rows: tuple[Row, ...]
    """Every image, in the order of the store: train, then val, then test; within a split by class, then by name."""
    images: Callable[[], Iterator[tuple[int, NDArray[np.uint8] | bytes]]]
    """Reads the source once, in its own order: index into `rows`, and uint8 [S, S, 3] or the bytes of a file.

    A row that is not yielded is left out. Raises DataError for a source that can't be read.
    """
    provenance: Callable[[], Provenance]
    """Called after the last image, when all counts are known."""
    left_out: Callable[[], tuple[LeftOut, ...]] = tuple
    """Called after the last image: what was left out, file by file."""
