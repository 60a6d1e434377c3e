"""Arrays in a .npz file, as Keras (x_train, y_train, …) and MedMNIST (train_images, train_labels, …) save them.

A .npz file is a zip archive of .npy files. Arrays of images are read image by image, and nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cifar_cli.core.data.sources.images import SourceStream
from cifar_cli.core.data.sources.layout import SPLIT_NAMES, Found, Split, is_are, listed
from cifar_cli.core.data.sources.reading import ImportChoices, require_no_columns
from cifar_cli.core.data.sources.tables import Table, composed, merged
from cifar_cli.core.data.sources.zip_archive import ZipMembers, open_zip
from cifar_cli.core.limits import MAX_ARRAY_HEADER_CHARACTERS, MAX_MEMBER_BYTES, MAX_PIXELS, MAX_SIDE
from cifar_cli.errors import DataError

REMEDY = "save x_train and x_test (uint8 [N, H, W, 3]) and y_train and y_test (int [N]) with numpy.savez"
_IMAGES = ("x", "images", "image", "data")
_LABELS = ("y", "labels", "label", "targets")
_SUFFIX = ".npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """The head of a .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Images:
    """An array of images in the file."""

    split: Split | None
    """None where the arrays have no split."""
    key: str
    header: _Header
    channels_at: int | None
    """The axis of the channels; None for grey images [N, H, W]."""

    @property
    def side(self) -> int:
        """The shorter side, in pixels."""
        return min(size for axis, size in enumerate(self.header.shape) if axis not in (0, self.channels_at))

    def name(self, row: int) -> str:
        return f"{self.key}/{row:07d}"


def import_npz(path: Path, choices: ImportChoices) -> SourceStream:
    """Read the arrays' heads and the labels; the images are read as the stream is.

    Images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels; labels are integers or texts, [N] or
    [N, 1]. Integers become class names as they are. Those that are not square are cropped as every other image is.
    Raises DataError for anything else.
    """
    require_no_columns(path, choices)
    with open_zip(path) as members:
        keys = {name.removesuffix(_SUFFIX): name for name in members.sizes if name.endswith(_SUFFIX)}
        pairs = _pairs(path, list(keys))
        found, sides, arrays = Found(origin=str(path)), {}, []
        if unused := sorted(set(keys) - {key for pair in pairs.values() for key in pair}):
            found.notes.append(f"{listed(unused)} in {path} {is_are(unused)} not used")
        values: set[int | str] = set()
        for split, (images_key, labels_key) in pairs.items():
            images = _images(path, members, split, images_key, keys[images_key])
            labels = _labels(path, members, labels_key, keys[labels_key])
            if len(labels) != images.header.shape[0]:
                counts = f"{images.header.shape[0]:,} images, but {labels_key} {len(labels):,} labels"
                raise DataError(f"{path}: {images_key} has {counts}", remedy=REMEDY)
            arrays.append(images)
            values.update(labels)
            for row, label in enumerate(labels):
                name = images.name(row)
                found.class_of[name], found.short[name] = composed(str(label)), name
                sides[name] = images.side
                if split is not None:
                    found.split_of[name] = split
    if len({type(value) for value in values}) > 1:
        raise DataError(f"{path} has labels that are numbers, and others that are texts", remedy=REMEDY)
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    classes = merged(map(str, ordered))

    def read() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        with open_zip(path) as members:
            for images in arrays:
                for row, pixels in enumerate(_pixels(members, keys[images.key], images)):
                    yield images.name(row), pixels

    return Table(path=path, found=found, classes=classes, sides=sides, read=read).stream(choices)


def _pairs(path: Path, keys: list[str]) -> dict[Split | None, tuple[str, str]]:
    """For each split, the keys of its images and labels; None stands for arrays without a split."""
    images: dict[Split | None, list[str]] = {}
    labels: dict[Split | None, list[str]] = {}
    for key in keys:
        words = [word for word in re.split(r"[_\W]+", key.lower()) if word]
        splits = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
        rest = [word for word in words if word not in SPLIT_NAMES]
        if len(rest) != 1 or len(splits) > 1:
            continue
        split = splits[0] if splits else None
        for kind, names in ((images, _IMAGES), (labels, _LABELS)):
            if rest[0] in names:
                kind.setdefault(split, []).append(key)
    if any(images):
        # Beside arrays of splits, those without one are for training, or something else.
        for found in (images, labels):
            others = found.pop(None, None)
            if others and "train" not in found:
                found["train"] = others
    pairs = {}
    for split in images:
        if len(images[split]) > 1 or len(labels.get(split, [])) != 1:
            break
        pairs[split] = images[split][0], labels[split][0]
    if not pairs or len(pairs) != len(images) or set(pairs) != set(labels):
        raise DataError(
            f"{path} doesn't hold one array of images and one of labels for each split; it holds "
            f"{listed(keys) or 'no arrays'}",
            remedy=REMEDY,
        )
    return pairs


def _images(path: Path, members: ZipMembers, split: Split | None, key: str, member: str) -> _Images:
    with members.open(member) as file:
        header = _read_header(path, key, file, members.sizes[member])
    shape = header.shape
    channels_at = None
    if len(shape) == 4:
        channels_at = next((axis for axis in (3, 1) if shape[axis] in (1, 3)), None)
    elif len(shape) != 3:
        channels_at = -1
    sides = [size for axis, size in enumerate(shape) if axis not in (0, channels_at)]
    good = channels_at != -1 and len(sides) == 2 and all(1 <= side <= MAX_SIDE for side in sides)
    if not good or sides[0] * sides[1] > MAX_PIXELS:
        raise DataError(f"{path}: {key} has the shape {list(shape)}, which is not that of images", remedy=REMEDY)
    if header.dtype != np.uint8:
        raise DataError(f"{path}: {key} is {header.dtype}, not uint8", remedy="save pixels as uint8 values of 0 to 255")
    if not shape[0]:
        raise DataError(f"{path}: {key} is empty", remedy=REMEDY)
    if header.fortran:
        raise DataError(
            f"{path}: {key} is stored in Fortran's order, column by column",
            remedy="save numpy.ascontiguousarray of it",
        )
    return _Images(split=split, key=key, header=header, channels_at=channels_at)


def _labels(path: Path, members: ZipMembers, key: str, member: str) -> list[int] | list[str]:
    with members.open(member) as file:
        header = _read_header(path, key, file, members.sizes[member])
        if header.dtype.kind not in "iuU":
            raise DataError(f"{path}: {key} is {header.dtype}, neither integers nor texts", remedy=REMEDY)
        if header.shape[1:] not in ((), (1,)) or not header.shape:
            raise DataError(
                f"{path}: {key} has the shape {list(header.shape)}, but each image needs one label",
                remedy="save the numbers of the classes, int [N]; for one-hot labels, numpy.argmax(labels, axis=1)",
            )
        size = header.shape[0] * header.dtype.itemsize
        if size > MAX_MEMBER_BYTES:
            raise DataError(f"{path}: {key} has {size:,} bytes, more than labels should", remedy=REMEDY)
        content = file.read(size)
    labels = np.frombuffer(content, dtype=header.dtype)
    if header.dtype.kind != "U" and (labels < 0).any():
        raise DataError(
            f"{path}: {key} has the label {labels.min()}, which is no class", remedy="leave out images without a label"
        )
    return cast("list[int] | list[str]", labels.tolist())


def _read_header(path: Path, key: str, file: BinaryIO, member_bytes: int) -> _Header:
    """Read the head of a .npy file, and check that the file has as many bytes as it says."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = read(file, max_header_size=MAX_ARRAY_HEADER_CHARACTERS)
        if dtype.hasobject or dtype.fields or dtype.subdtype or dtype.itemsize < 1:
            raise DataError(f"{path}: {key} holds Python objects or records, not numbers", remedy=REMEDY)
        if any(size < 0 for size in shape):
            raise ValueError(f"the shape {shape}")
        size = dtype.itemsize
        for each in shape:  # integers of Python, which don't overflow
            size *= int(each)
        if file.tell() + size != member_bytes:
            raise ValueError(f"{member_bytes:,} bytes instead of {file.tell() + size:,}")
    except (ValueError, TypeError, OSError, EOFError, SyntaxError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: {key} is not a readable array ({error})", remedy=REMEDY) from error
    return _Header(shape=shape, dtype=dtype, fortran=bool(fortran) and len(shape) > 1)


def _pixels(members: ZipMembers, member: str, images: _Images) -> Iterator[NDArray[np.uint8]]:
    """The images one by one, uint8 [H, W, 3]."""
    shape = images.header.shape[1:]
    size = int(np.prod(shape))
    with members.open(member) as file:
        _read_header(members.path, images.key, file, members.sizes[member])
        for _ in range(images.header.shape[0]):
            content = file.read(size)
            if len(content) != size:
                raise DataError(f"{members.path} changed during the import", remedy="import it again")
            pixels = np.frombuffer(content, dtype=np.uint8).reshape(shape)
            if images.channels_at == 1:
                pixels = pixels.transpose(1, 2, 0)
            elif images.channels_at is None:
                pixels = pixels[..., None]
            yield np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
