"""What every source hands over: pixels and labels in memory, not yet a store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class ImportedImages:
    """Images and labels as they will lie in a store.

    *_images: uint8 [N, H, W, 3], RGB, H = W. *_labels: int64 [N], indices into `classes`.
    resized_images: how many had another size. skipped_images: how many were unreadable and left out.
    """

    classes: tuple[str, ...]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    resized_images: int = 0
    skipped_images: int = 0

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The tensors of a store file, by name."""
        return {
            "train_images": self.train_images,
            "train_labels": self.train_labels,
            "test_images": self.test_images,
            "test_labels": self.test_labels,
        }
