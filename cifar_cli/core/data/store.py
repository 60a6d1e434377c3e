"""The one file that a dataset becomes: uint8 images and int64 labels, mapped into memory when it is opened.

The format is safetensors: eight bytes with the length of a JSON header, the header, then raw tensors. Opening a
store executes no code. Writing one and reading its header need neither torch nor safetensors, so that
`cifar download` answers at once when the dataset exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_cli.core.data.config import SPLITS
from cifar_cli.core.data.results import DatasetSummary, Provenance
from cifar_cli.core.data.sources.images import TENSORS
from cifar_cli.core.limits import MAX_STORE_HEADER_BYTES
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.errors import DataError, ResourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cifar_cli.core.data.sources.images import SourceImages
    from cifar_cli.core.data.store_schema import StoreContent

FORMAT = "cifar-store-1"
ALIGNMENT = 8
FORCE_REMEDY = "download or import it again with `cifar download --force`"
MISSING_REMEDY = "download it with `cifar download`, or import images with `cifar download --from PATH`"


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Part:
    """The training or the test images of a dataset."""

    images_NHWC: Tensor
    """uint8 [N, H, W, 3], RGB; `.permute(0, 3, 1, 2)` is a channels-last view without a copy."""
    labels_N: Tensor
    """int64 [N], values 0..K-1."""

    def __post_init__(self) -> None:
        import torch

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
    """An opened dataset."""

    name: str
    classes: tuple[str, ...]
    train: Part
    """Includes the validation images; `splits.py` selects them."""
    test: Part
    provenance: Provenance
    path: Path
    content: str
    """The content hash: "sha256:…"."""
    mean: tuple[float, ...] | None = None
    """Per channel of the training images, with values scaled to 0..1; None for a store of an earlier version."""
    std: tuple[float, ...] | None = None

    @property
    def img_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.train.images_NHWC.shape[1])

    @property
    def synthetic(self) -> bool:
        return self.provenance.synthetic


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHeader:
    """The header of a store file."""

    summary: DatasetSummary
    offsets: dict[str, tuple[int, int]]
    """First byte and one past the last byte of each tensor in the file."""


def write_store(path: Path, *, name: str, images: SourceImages) -> DatasetSummary:
    """Write a store. The file gets its final name only when it is complete and flushed to disk.

    Raises ResourceError when it can't be written (no space, no permission); an earlier file stays unchanged.
    """
    from cifar_cli.core.data.store_schema import parse_header

    header = _header_of(name, images)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)  # tensors start at a multiple of eight bytes
    content = parse_header(text)  # before writing, so that no store is written that can't be opened
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in images.arrays().values():
                file.write(array.data.cast("B"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(
            f"the store {path} can't be written ({error.strerror or error})",
            remedy="free some space, or pass --data-dir for a folder you may write to",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the folder is missing or not writable, as the ResourceError says
            temporary.unlink(missing_ok=True)
    return _summary(path, content)


def open_store(path: Path) -> Store:
    """Map a store into memory; pixels are read from disk when they are first used.

    Raises DataError when there is no file at `path`, or it is not a store, or it is damaged.
    """
    from safetensors import safe_open

    header = read_header(path)
    summary = header.summary
    for problem in content_problems(header):
        raise DataError(f"{path} is damaged: {problem}", remedy=FORCE_REMEDY)
    with safe_open(path, framework="pt") as file:
        train, test = (
            Part(images_NHWC=file.get_tensor(f"{split}_images"), labels_N=file.get_tensor(f"{split}_labels"))
            for split in SPLITS
        )
    return Store(
        name=summary.name,
        classes=summary.classes,
        train=train,
        test=test,
        provenance=summary.provenance,
        path=path,
        content=summary.content,
    )


def read_header(path: Path) -> StoreHeader:
    """Read a store's header, and check it and the length of the file.

    Raises DataError when there is no file at `path`, or it is not a store, or it is truncated.
    """
    from cifar_cli.core.data.store_schema import parse_header

    if not path.is_file():
        raise DataError(f"there is no dataset at {path}", remedy=MISSING_REMEDY)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_STORE_HEADER_BYTES):
                raise ValueError("it has no header")
            content = parse_header(file.read(length))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", remedy=FORCE_REMEDY) from error
    except ValueError as error:
        raise DataError(
            f"{path} is not a dataset that `cifar download` wrote: {error}", remedy=MISSING_REMEDY
        ) from error
    expected = 8 + length + content.data_bytes
    if size != expected:
        raise DataError(f"{path} is damaged: it has {size:,} bytes instead of {expected:,}", remedy=FORCE_REMEDY)
    offsets = {}
    for key in TENSORS:
        start, end = getattr(content, key).data_offsets
        offsets[key] = 8 + length + start, 8 + length + end
    return StoreHeader(summary=_summary(path, content), offsets=offsets)


def checksum_of_content(header: StoreHeader, on_progress: OnProgress = silent) -> str:
    """Hash all images and labels of a store on disk: "sha256:…". Raises DataError when it can't be read."""
    from cifar_cli.core.data.sources.archive import checksum_of

    first = min(start for start, _ in header.offsets.values())
    return checksum_of(header.summary.path, "sha256", on_progress, start=first)


def read_labels(header: StoreHeader, split: str) -> NDArray[np.int64]:
    """The labels of one split (train, test), int64 [N]."""
    import numpy as np

    start, end = header.offsets[f"{split}_labels"]
    return np.fromfile(header.summary.path, dtype="<i8", count=(end - start) // 8, offset=start)


def content_problems(header: StoreHeader) -> list[str]:
    """What makes a store unusable although its header is right, a sentence each. Reads the labels, but no pixels."""
    from safetensors import SafetensorError, safe_open

    last = len(header.summary.classes) - 1
    try:
        with safe_open(header.summary.path, framework="np") as file:
            labels = {split: file.get_tensor(f"{split}_labels") for split in SPLITS}
    except (SafetensorError, OSError) as error:
        return [f"safetensors can't read it ({error})"]
    wrong = [split for split in SPLITS if not 0 <= labels[split].min() <= labels[split].max() <= last]
    return [f"a {split} label lies outside 0..{last}" for split in wrong]


def _header_of(name: str, images: SourceImages) -> dict[str, Any]:
    """The header of a store file, before it is encoded."""
    header: dict[str, Any] = {}
    digest = hashlib.sha256()
    end = 0
    for key, array in images.arrays().items():
        digest.update(array.data.cast("B"))
        start, end = end, end + array.nbytes
        dtype = "U8" if key.endswith("_images") else "I64"
        header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    content = f"sha256:{digest.hexdigest()}"
    provenance = replace(images.provenance, checksum=images.provenance.checksum or content)
    metadata = {
        "format": FORMAT,
        "name": name,
        "classes": json.dumps(images.classes),
        "provenance": json.dumps(asdict(provenance)),
        "content": content,
    }
    return {"__metadata__": metadata, **header}


def _summary(path: Path, content: StoreContent) -> DatasetSummary:
    metadata = content.metadata
    return DatasetSummary(
        name=metadata.name,
        path=path,
        size_bytes=path.stat().st_size,
        classes=tuple(metadata.classes),
        img_size=content.img_size,
        train_images=content.train_images.shape[0],
        test_images=content.test_images.shape[0],
        provenance=metadata.provenance,
        content=metadata.content,
    )
