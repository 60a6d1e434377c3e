"""The store as bytes on disk, read and written without torch so that a look at it takes milliseconds.

The format is safetensors: eight bytes with the length of a JSON header, the header, then raw tensors.
Opening one executes nothing, and torch maps it into memory (`store.open_store`).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_cli.core.data.config import Provenance
from cifar_cli.core.data.results import DatasetSummary
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import DataError, ResourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "cifar-store-1"
SIDES = ("train", "test")
TENSORS = tuple(f"{side}_{kind}" for side in SIDES for kind in ("images", "labels"))
ALIGNMENT = 8
MAX_HEADER_BYTES = 100_000_000  # what the safetensors library admits
CHUNK_BYTES = 4 << 20
FORCE_REMEDY = "fetch or import it again with `cifar download --force`"
MISSING_REMEDY = "fetch it with `cifar download`, or import images with `cifar download --from PATH`"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHeader:
    """What a store says about itself, before any pixel is read.

    content: "sha256:…" of all images and labels as they lie in the file. shapes: of each tensor in TENSORS.
    offsets: first and one-past-last byte of each tensor in the file. size_bytes: of the whole file.
    """

    path: Path
    name: str
    classes: tuple[str, ...]
    provenance: Provenance
    content: str
    shapes: dict[str, tuple[int, ...]]
    offsets: dict[str, tuple[int, int]]
    size_bytes: int

    def summary(self) -> DatasetSummary:
        """The header as a result."""
        return DatasetSummary(
            name=self.name,
            path=self.path,
            size_bytes=self.size_bytes,
            classes=self.classes,
            img_size=self.shapes["train_images"][1],
            train_images=self.shapes["train_images"][0],
            test_images=self.shapes["test_images"][0],
            provenance=self.provenance,
            content=self.content,
        )


def read_header(path: Path) -> StoreHeader:
    """Read and check a store's header, and that the file is as long as the header says.

    Raises DataError when there is none at `path`, the file is not a store, or it is cut short.
    """
    if not path.is_file():
        raise DataError(f"there is no dataset at {path}", remedy=MISSING_REMEDY)
    size = path.stat().st_size
    foreign = DataError(f"{path} is not a dataset that `cifar download` wrote", remedy=MISSING_REMEDY)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise foreign
            header: dict[str, Any] = json.loads(file.read(length))
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise foreign
        start = 8 + length
        result = StoreHeader(
            path=path,
            name=metadata["name"],
            classes=tuple(json.loads(metadata["classes"])),
            provenance=Provenance(**json.loads(metadata["provenance"])),
            content=metadata["content"],
            shapes={key: tuple(header[key]["shape"]) for key in TENSORS},
            offsets={
                key: (start + header[key]["data_offsets"][0], start + header[key]["data_offsets"][1]) for key in TENSORS
            },
            size_bytes=size,
        )
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", remedy=FORCE_REMEDY) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise foreign from error
    expected = max(end for _, end in result.offsets.values())
    if size != expected:
        raise DataError(f"{path} is broken: it has {size:,} bytes where {expected:,} belong", remedy=FORCE_REMEDY)
    return result


def write_store_file(
    path: Path,
    *,
    name: str,
    classes: tuple[str, ...],
    arrays: dict[str, NDArray[np.generic]],
    content: str,
    provenance: Provenance,
) -> None:
    """Write a store; the final name appears only when the file is whole and on the disk.

    arrays: TENSORS, C-contiguous: images uint8 [N, H, W, 3], labels int64 [N]. content: `checksum_of_arrays`.
    Raises ResourceError when it can't be written (no space, no permission); what was there before stays.
    """
    header = _header_bytes(
        {
            "format": FORMAT,
            "name": name,
            "classes": json.dumps(classes),
            "provenance": json.dumps(provenance.to_dict()),
            "content": content,
        },
        arrays,
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(header)
            for key in TENSORS:
                file.write(arrays[key].data.cast("B"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(
            f"the store {path} can't be written ({error.strerror or error})",
            remedy="free some space, or pass --data-dir for a folder you may write to",
        ) from error
    finally:
        _remove(temporary)


def checksum_of_arrays(arrays: dict[str, NDArray[np.generic]]) -> str:
    """Hash all images and labels, in the order of TENSORS: "sha256:…"."""
    digest = hashlib.sha256()
    for key in TENSORS:
        digest.update(arrays[key].data.cast("B"))
    return f"sha256:{digest.hexdigest()}"


def checksum_of_content(header: StoreHeader, on_progress: OnProgress = silent) -> str:
    """Hash all images and labels of a store on disk, as `checksum_of_arrays`.

    Raises DataError when it can't be read.
    """
    digest = hashlib.sha256()
    total, done = sum(end - start for start, end in header.offsets.values()), 0
    try:
        with header.path.open("rb") as file:
            for start, end in (header.offsets[key] for key in TENSORS):
                file.seek(start)
                while start < end:
                    block = file.read(min(CHUNK_BYTES, end - start))
                    if not block:
                        raise DataError(f"{header.path} is cut short", remedy=FORCE_REMEDY)
                    digest.update(block)
                    start += len(block)
                    done += len(block)
                    on_progress(Progress(task=f"check {header.name}", done=done, total=total, unit="bytes"))
    except OSError as error:
        raise DataError(f"{header.path} can't be read ({error.strerror})", remedy=FORCE_REMEDY) from error
    return f"sha256:{digest.hexdigest()}"


def read_labels(header: StoreHeader, side: str) -> NDArray[np.int64]:
    """Labels of one side (train, test), int64 [N]."""
    import numpy as np

    start, end = header.offsets[f"{side}_labels"]
    with header.path.open("rb") as file:
        file.seek(start)
        return np.frombuffer(file.read(end - start), dtype="<i8")


def _header_bytes(metadata: dict[str, str], arrays: dict[str, NDArray[np.generic]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for key in TENSORS:
        array = arrays[key]
        end = offset + array.nbytes
        dtype = "U8" if key.endswith("_images") else "I64"
        header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)  # tensors start on a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:  # the folder itself is not one, or not ours: the error above has said so
        return
