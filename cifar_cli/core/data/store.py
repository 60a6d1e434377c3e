"""The one file a dataset becomes: uint8 images and labels, mapped into memory instead of read.

The format is safetensors: raw tensors behind a JSON header, so opening a store executes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cifar_cli.core.data.config import Provenance
from cifar_cli.core.data.store_file import FORCE_REMEDY, SIDES, checksum_of_arrays, read_header, write_store_file
from cifar_cli.errors import DataError


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Part:
    """The images of one side of the official split.

    images_NHWC: uint8 [N, H, W, 3], RGB; rows of pixels lie together, so `.permute(0, 3, 1, 2)` is a free
    channels-last view. labels_N: int64 [N], values 0..K-1.
    """

    images_NHWC: Tensor
    labels_N: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images_NHWC, self.labels_N
        assert images.dtype == torch.uint8, images.dtype
        assert images.ndim == 4, images.shape
        assert images.shape[-1] == 3, images.shape
        assert labels.dtype == torch.int64, labels.dtype
        assert labels.shape == images.shape[:1], (labels.shape, images.shape)

    def __len__(self) -> int:
        return int(self.labels_N.shape[0])


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Store:
    """An opened dataset. `train` still holds the validation images: `splits` tells which they are."""

    name: str
    classes: tuple[str, ...]
    train: Part
    test: Part
    provenance: Provenance
    path: Path

    @property
    def img_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.train.images_NHWC.shape[1])

    @property
    def synthetic(self) -> bool:
        return self.provenance.synthetic


def write_store(
    path: Path, *, name: str, classes: tuple[str, ...], train: Part, test: Part, provenance: Provenance
) -> None:
    """Write a store; the final name appears only when the file is whole.

    Raises ResourceError when it can't be written (no space, no permission); what was there before stays.
    """
    arrays = {
        "train_images": train.images_NHWC.contiguous().numpy(),
        "train_labels": train.labels_N.contiguous().numpy(),
        "test_images": test.images_NHWC.contiguous().numpy(),
        "test_labels": test.labels_N.contiguous().numpy(),
    }
    content = checksum_of_arrays(arrays)
    write_store_file(path, name=name, classes=classes, arrays=arrays, content=content, provenance=provenance)


def open_store(path: Path) -> Store:
    """Map a store into memory; pixels are read from disk when they are first used.

    Raises DataError when there is none at `path`, the file is not a store, or it is cut short.
    """
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            train, test = (
                Part(images_NHWC=file.get_tensor(f"{side}_images"), labels_N=file.get_tensor(f"{side}_labels"))
                for side in SIDES
            )
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is broken ({error})", remedy=FORCE_REMEDY) from error
    return Store(
        name=header.name, classes=header.classes, train=train, test=test, provenance=header.provenance, path=path
    )
