"""CIFAR's official archives: pickled batches, read with a restricted unpickler.

Unpickling can run any function. This unpickler allows only those that a batch needs: to build a numpy array, to
name its dtype, and to encode text as bytes. Any other function is rejected before it runs. The caller has already
verified the checksum; this is a second safeguard.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct
from numpy.typing import NDArray

from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.archive import read_members
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.sources.mirrors import Archive
from cifar_cli.core.limits import MAX_MEMBER_BYTES
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.regular import read_regular
from cifar_cli.errors import DataError

SIDE_PIXELS = 32
ROW_VALUES = 3 * SIDE_PIXELS * SIDE_PIXELS
OFFICIAL_REMEDY = "get the official archive with `cifar download`"

Batch = tuple[NDArray[np.uint8], list[int]]


def import_archive(
    path: Path, archive: Archive, *, source: str | None = None, on_progress: OnProgress = silent
) -> SourceImages:
    """Read an official archive whose checksum has been verified. Raises DataError when its content is not as expected.

    source: its origin, for the provenance; by default the path.
    """
    members = (
        (PurePosixPath(name).name, content)
        for name, content in read_members(path)
        if PurePosixPath(name).name in archive.batches and not name.endswith("/")
    )
    provenance = Provenance.now(source=source or str(path), checksum=f"md5:{archive.md5}")
    return _assemble(path, archive, members, provenance, on_progress)


def import_folder(
    folder: Path, archive: Archive, *, source: str | None = None, on_progress: OnProgress = silent
) -> SourceImages:
    """Read an extracted official archive; each file's MD5 is verified before it is unpickled.

    source: its origin, for the provenance; by default the path.
    Raises DataError when a file is missing or differs from the official one.
    """
    provenance = Provenance.now(source=source or str(folder), checksum="")
    return _assemble(folder, archive, _verified_files(folder, archive), provenance, on_progress)


def load_pickle(content: bytes, origin: str) -> Any:
    """Unpickle a CIFAR file. Raises DataError for a pickle of anything but plain values and arrays."""
    try:
        return _CifarUnpickler(io.BytesIO(content), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{origin}: {error.what}", remedy=error.remedy) from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise DataError(
            f"{origin} can't be read as a CIFAR batch ({error})", remedy="download the archive again"
        ) from error


class _CifarUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise DataError(
                f"the pickle calls {module}.{name}, which no CIFAR batch needs; it was not run",
                remedy="don't use this file; get the official archive with `cifar download`",
            )
        return allowed


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Python 3 encodes bytes for Python 2 as a call of this function. A batch needs no other codec."""
    if encoding != "latin1":
        raise ValueError(f"codec {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode_latin1,
}


def _verified_files(folder: Path, archive: Archive) -> Iterator[tuple[str, bytes]]:
    remedy = f"extract {archive.filename} again, or pass the archive itself with --from"
    for name, expected in archive.batches.items():
        file = folder / name
        try:
            content = read_regular(file, MAX_MEMBER_BYTES)
        except OSError as error:
            raise DataError(f"{file} can't be read ({error.strerror})", remedy=remedy) from error
        actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if actual != expected:
            raise DataError(
                f"{file} differs from the official file: its MD5 is {actual}, expected {expected}", remedy=remedy
            )
        yield name, content


def _assemble(
    path: Path, archive: Archive, files: Iterator[tuple[str, bytes]], provenance: Provenance, on_progress: OnProgress
) -> SourceImages:
    parts: dict[str, Any] = {}
    for name, content in files:
        loaded = load_pickle(content, f"{path}: {name}")
        if not isinstance(loaded, dict):
            loaded = {}
        if name not in archive.meta:
            parts[name] = _batch(f"{path}: {name}", archive, loaded)
        elif loaded.get(archive.names_key) == list(archive.classes):
            parts[name] = archive.classes
        else:
            raise DataError(
                f"{path} does not name the {len(archive.classes)} classes of {archive.dataset}", remedy=OFFICIAL_REMEDY
            )
        on_progress(Progress(task=f"read {path.name}", done=len(parts), total=len(archive.batches), unit="files"))
    for name in archive.batches:
        if name not in parts:
            raise DataError(f"{path} lacks {archive.folder}/{name}", remedy="get it again with `cifar download`")
    train, test = (_joined([parts.pop(name) for name in split]) for split in (archive.train, archive.test))
    return SourceImages(archive.classes, *train, *test, provenance=provenance)


def _batch(origin: str, archive: Archive, loaded: dict[Any, Any]) -> Batch:
    """The batch's rows, uint8 [N, 3072], and its N labels, after a check of types, shapes and values."""
    rows, labels = loaded.get("data"), loaded.get(archive.labels_key)
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.uint8
        or rows.shape[1:] != (ROW_VALUES,)
        or not isinstance(labels, list)
        or len(labels) != len(rows)
        or not all(type(label) is int and 0 <= label < len(archive.classes) for label in labels)
    ):
        raise DataError(f"{origin} is not a CIFAR batch", remedy=OFFICIAL_REMEDY)
    return rows, labels


def _joined(batches: list[Batch]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Join batches: images uint8 [N, 32, 32, 3] from rows of red, green and blue planes; labels int64 [N]."""
    rows, labels = zip(*batches, strict=True)
    images = np.empty((sum(map(len, rows)), SIDE_PIXELS, SIDE_PIXELS, 3), dtype=np.uint8)
    planes_NCHW = [each.reshape(-1, 3, SIDE_PIXELS, SIDE_PIXELS) for each in rows]
    np.concatenate([each.transpose(0, 2, 3, 1) for each in planes_NCHW], out=images)
    return images, np.concatenate(labels).astype(np.int64)
