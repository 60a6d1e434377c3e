"""The result of every source: images, labels and provenance in memory, ready to be written to a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import SPLITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cifar_cli.core.data.results import Provenance

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
