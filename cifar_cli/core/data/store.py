"""The one file a dataset becomes: uint8 images and labels, mapped into memory instead of read.

The format is safetensors: raw tensors behind a JSON header, so opening a store executes nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cifar_cli.core.data.config import Provenance
from cifar_cli.errors import DataError, ResourceError

FORMAT = "cifar-store-1"


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
    tensors = {
        "train_images": train.images_NHWC.contiguous(),
        "train_labels": train.labels_N.contiguous(),
        "test_images": test.images_NHWC.contiguous(),
        "test_labels": test.labels_N.contiguous(),
    }
    header = {
        "format": FORMAT,
        "name": name,
        "classes": json.dumps(classes),
        "provenance": json.dumps(provenance.to_dict()),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=header)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            f"the store {path} can't be written ({error})",
            remedy="free some space, or pass --data-dir for a folder you may write to",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def open_store(path: Path) -> Store:
    """Map a store into memory; pixels are read from disk when they are first used.

    Raises DataError when there is none at `path` or the file is not a store.
    """
    remedy = "fetch it with `cifar download`, or import images with `cifar download --from PATH`"
    if not path.is_file():
        raise DataError(f"there is no dataset at {path}", remedy=remedy)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise DataError(f"{path} is not a dataset that `cifar download` wrote", remedy=remedy)
            train, test = (
                Part(images_NHWC=file.get_tensor(f"{side}_images"), labels_N=file.get_tensor(f"{side}_labels"))
                for side in ("train", "test")
            )
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path} is broken ({error})", remedy="fetch or import it again with `cifar download --force`"
        ) from error
    return Store(
        name=header["name"],
        classes=tuple(json.loads(header["classes"])),
        train=train,
        test=test,
        provenance=Provenance(**json.loads(header["provenance"])),
        path=path,
    )
