"""The binary version of CIFAR's archives: files of records, each with its label and the planes of one image.

A record of CIFAR-10 is one byte with the label, then 3,072 with the red, the green and the blue plane of 32×32 pixels;
one of CIFAR-100 begins with the coarse label, then the fine one (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.archive import checksum_of, read_members
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.sources.layout import Shares, require_expected
from cifar_cli.core.data.sources.reading import ImportChoices, require_no_columns
from cifar_cli.core.data.sources.tables import require_class_names
from cifar_cli.core.limits import MAX_MEMBER_BYTES
from cifar_cli.core.progress import Progress
from cifar_cli.core.regular import read_regular
from cifar_cli.errors import DataError

SIDE_PIXELS = 32
ROW_VALUES = 3 * SIDE_PIXELS * SIDE_PIXELS
REMEDY = "get the archive again from https://www.cs.toronto.edu/~kriz/cifar.html, or run `cifar download`"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Version:
    """The files of one archive."""

    folder: str
    names: str
    """The file with the class names, a line each."""
    train: re.Pattern[str]
    test: re.Pattern[str]
    label_bytes: int
    """Bytes before the pixels of a record; the last of them is the label."""

    def holds(self, name: str) -> bool:
        """Whether a file is read."""
        return name == self.names or bool(self.train.fullmatch(name) or self.test.fullmatch(name))


VERSIONS = (
    _Version(
        folder="cifar-10-batches-bin",
        names="batches.meta.txt",
        train=re.compile(r"data_batch_(\d+)\.bin"),
        test=re.compile(r"test_batch\.bin"),
        label_bytes=1,
    ),
    _Version(
        folder="cifar-100-binary",
        names="fine_label_names.txt",
        train=re.compile(r"train\.bin"),
        test=re.compile(r"test\.bin"),
        label_bytes=2,
    ),
)


def binary_version(path: Path, top: str) -> tuple[_Version, Path] | None:
    """The version that is at `path`, or in a folder directly below it, and its place; None if there is none.

    top: the folder of an archive's first member.
    """
    for version in VERSIONS:
        if top == version.folder:
            return version, path
        for folder in (path, path / version.folder):
            if (folder / version.names).is_file() and any(folder.glob("*.bin")):
                return version, folder
    return None


def import_binary(version: _Version, path: Path, choices: ImportChoices) -> SourceImages:
    """Read an archive or a folder of the binary version.

    Raises DataError for one that is damaged or incomplete, and for choices that it leaves no room for.
    """
    if choices.img_size not in (None, SIDE_PIXELS):
        raise DataError(
            f"the images in {path} have {SIDE_PIXELS}×{SIDE_PIXELS} pixels and are stored in that size",
            remedy="leave out --img-size here and pass it to `cifar train`",
        )
    if choices.shares != Shares():
        raise DataError(
            f"{path} has a training and a test split of its own, which are kept",
            remedy="leave out --test-share, --val-share and --seed; training holds out a tenth for validation",
        )
    require_no_columns(path, choices)
    contents: dict[str, bytes] = {}
    for name, content in _files(version, path):
        if name in contents:
            raise DataError(f"{path} contains {name} twice", remedy=REMEDY)
        contents[name] = content
        choices.on_progress(Progress(task=f"read {path.name}", done=len(contents), unit="files"))
    classes = _classes(path, version, contents.pop(version.names, None))
    splits = []
    for pattern in (version.train, version.test):
        names = sorted((name for name in contents if pattern.fullmatch(name)), key=lambda name: (len(name), name))
        if not names:
            raise DataError(f"{path} lacks {pattern.pattern}".replace("\\", "").replace("(d+)", "1"), remedy=REMEDY)
        if pattern.groups and [name for name in names if name != f"data_batch_{names.index(name) + 1}.bin"]:
            raise DataError(f"{path} has {', '.join(names)}, so that a batch is missing", remedy=REMEDY)
        records = [_records(f"{path}: {name}", version, contents.pop(name), len(classes)) for name in names]
        splits.append((np.concatenate([each[0] for each in records]), np.concatenate([each[1] for each in records])))
    if choices.expected_classes is not None:
        require_expected(str(path), classes, choices.expected_classes)
        order = np.array([choices.expected_classes.index(name) for name in classes])
        classes = choices.expected_classes
        splits = [(images, order[labels]) for images, labels in splits]
    checksum = "" if path.is_dir() else checksum_of(path, "sha256", choices.on_progress)
    return SourceImages(
        classes, *splits[0], *splits[1], provenance=Provenance.now(source=choices.source, checksum=checksum)
    )


def _files(version: _Version, path: Path) -> Iterator[tuple[str, bytes]]:
    if not path.is_dir():
        for member, content in read_members(path):
            name = PurePosixPath(member).name
            if version.holds(name) and not member.endswith("/"):
                yield name, content
        return
    for file in sorted(path.iterdir()):
        if version.holds(file.name):
            try:
                yield file.name, read_regular(file, MAX_MEMBER_BYTES)
            except OSError as error:
                raise DataError(f"{file} can't be read ({error.strerror})", remedy=REMEDY) from error


def _classes(path: Path, version: _Version, content: bytes | None) -> tuple[str, ...]:
    if content is None:
        raise DataError(f"{path} lacks {version.names}, which names the classes", remedy=REMEDY)
    try:
        classes = tuple(line.strip() for line in content.decode().splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {version.names} is not a text", remedy=REMEDY) from error
    if not classes:
        raise DataError(f"{path}: {version.names} names no classes", remedy=REMEDY)
    require_class_names(f"{path}: {version.names}", classes)
    return classes


def _records(
    origin: str, version: _Version, content: bytes, classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images, uint8 [N, 32, 32, 3], and labels, int64 [N]. Raises DataError."""
    size = version.label_bytes + ROW_VALUES
    if not content or len(content) % size:
        raise DataError(
            f"{origin} has {len(content):,} bytes, which are not records of {size:,}; it may be truncated",
            remedy=REMEDY,
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, size)
    labels = records[:, version.label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise DataError(f"{origin} has the label {labels.max()}, but there are {classes} classes", remedy=REMEDY)
    planes = records[:, version.label_bytes :].reshape(-1, 3, SIDE_PIXELS, SIDE_PIXELS)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
