"""Writes stores, as images come: the memory it takes is that of one image, the labels and the names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cifar_cli.core.data.config import SPLITS
from cifar_cli.core.data.results import DatasetSummary, Provenance
from cifar_cli.core.data.sources.images import SourceImages, SourceStream
from cifar_cli.core.data.store_schema import (
    FORMAT,
    FORMAT_WITH_NAMES,
    StoreLayout,
    parse_header,
    tensors_with_names,
)
from cifar_cli.core.limits import MAX_MEMBER_BYTES, MAX_STORE_HEADER_BYTES
from cifar_cli.errors import DataError, ResourceError
from cifar_cli.printable import has_control

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


ALIGNMENT = 8
HEADER_ROOM_BYTES = 64 << 10  # besides the classes; the longest provenance takes half of it
MEASURED_FILES = 10_000  # whose mean and std stand for all: they then differ in the third digit
_MEASURED_AT_ONCE = 1000  # images
_DIGITS = 4  # of mean and std, as CIFAR-10's are published


def write_store(path: Path, *, name: str, images: SourceImages | SourceStream) -> DatasetSummary:
    """Write a store. The file gets its final name only when it is complete and flushed to disk.

    Of a stream, rows that it does not yield are left out.
    Raises ResourceError when the file can't be written (no space, no permission), and DataError for a stream that
    can't be read or leaves a split without images; an earlier file stays unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _new_file(path, temporary) as file:
            if isinstance(images, SourceStream):
                layout = _StreamWriter(file, name, images).write()
            else:
                layout = _write_arrays(file, name, images)
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
    return summary_of(path, layout)


def summary_of(path: Path, layout: StoreLayout) -> DatasetSummary:
    """What a store contains, from its header."""
    metadata = layout.metadata
    return DatasetSummary(
        name=metadata.name,
        path=path,
        size_bytes=path.stat().st_size,
        classes=tuple(metadata.classes),
        img_size=layout.img_size,
        train_images=layout.train_images,
        test_images=layout.test_images,
        provenance=metadata.provenance,
        content=metadata.content,
        val_images=layout.given_val,
        encoded=layout.encoded,
        mean=None if metadata.mean is None else tuple(metadata.mean),
        std=None if metadata.std is None else tuple(metadata.std),
    )


class RowsHash:
    """The content hash of a store with names: a function of its rows alone, in order, not of where their bytes lie."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, *, split: str, label: int, name: str, content_digest: bytes) -> None:
        """split: train, val or test. content_digest: SHA-256 of the pixels or of the file."""
        self._digest.update(content_digest + f"{split}\n{label}\n{name}\n".encode())

    def __str__(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"


@dataclass
class _ChannelStatistics:
    """Sums over pixels, for their mean and std per channel."""

    pixels: int = 0
    sums: Any = 0.0
    squares: Any = 0.0

    def add(self, pixels_N3: NDArray[np.uint8]) -> None:
        import cv2

        mean, std = (each.ravel() for each in cv2.meanStdDev(pixels_N3[:, None]))
        self.pixels += len(pixels_N3)
        self.sums = self.sums + len(pixels_N3) * mean
        self.squares = self.squares + len(pixels_N3) * (std**2 + mean**2)

    def rounded(self) -> dict[str, str]:
        """`mean` and `std` of values scaled to 0..1, as metadata; nothing if there were no pixels."""
        if not self.pixels:
            return {}
        mean = self.sums / self.pixels
        std = (self.squares / self.pixels - mean**2).clip(0) ** 0.5
        values = {"mean": mean, "std": std}
        return {key: json.dumps([round(float(each) / 255, _DIGITS) for each in value]) for key, value in values.items()}


def _write_arrays(file: BinaryIO, name: str, images: SourceImages) -> StoreLayout:
    header: dict[str, Any] = {}
    digest = hashlib.sha256()
    end = 0
    for key, array in images.arrays().items():
        digest.update(array.data.cast("B"))
        start, end = end, end + array.nbytes
        dtype = "U8" if key.endswith("_images") else "I64"
        header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    statistics = _ChannelStatistics()
    for first in range(0, len(images.train_images), _MEASURED_AT_ONCE):
        statistics.add(images.train_images[first : first + _MEASURED_AT_ONCE].reshape(-1, 3))
    metadata = _metadata(FORMAT, name, images.classes, images.provenance, f"sha256:{digest.hexdigest()}")
    text = json.dumps({"__metadata__": metadata | statistics.rounded(), **header}).encode()
    text += b" " * (-len(text) % ALIGNMENT)  # tensors start at a multiple of eight bytes
    layout = parse_header(text)  # before writing, so that no store is written that can't be opened
    file.write(len(text).to_bytes(8, "little") + text)
    for array in images.arrays().values():
        file.write(array.data.cast("B"))
    return layout


@dataclass
class _StreamWriter:
    """Writes the images of a stream in the order they come, then labels and names, then the header before them."""

    file: BinaryIO
    name: str
    stream: SourceStream
    digests: dict[int, bytes] = field(default_factory=dict)
    """SHA-256 of each image that has come, by row."""
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Offset and length of each file that has come, by row."""
    statistics: _ChannelStatistics = field(default_factory=_ChannelStatistics)

    def write(self) -> StoreLayout:
        room = HEADER_ROOM_BYTES + len(json.dumps(json.dumps(self.stream.classes)))
        room += -room % ALIGNMENT
        self.file.write(room.to_bytes(8, "little") + b" " * room)
        data = 8 + room
        files_bytes = None
        if self.stream.encoded:
            files_bytes = self._write_files()
        else:
            self._write_pixels(data)
        self._require_every_split()
        header = self._header(files_bytes)
        text = json.dumps(header).encode()
        if len(text) > min(room, MAX_STORE_HEADER_BYTES):
            raise DataError(f"the names of {len(self.stream.classes):,} classes are too long for a store")
        try:
            layout = parse_header(text.ljust(room))
        except ValueError as error:
            raise DataError(f"the dataset {self.name} can't be stored: {error}") from error
        self._write_rows(data, layout)
        self.file.seek(8)
        self.file.write(text.ljust(room))
        return layout

    @cached_property
    def kept(self) -> dict[str, list[int]]:
        """Of each part of the store, the rows that have come; asked for when the stream has ended."""
        parts: dict[str, list[int]] = {split: [] for split in SPLITS}
        for index, row in enumerate(self.stream.rows):
            if index in self.digests:
                parts["test" if row.split == "test" else "train"].append(index)
        return parts

    def _write_files(self) -> int:
        """Append every file; returns their bytes."""
        from cifar_cli.core.data.pictures import decoded

        training = [index for index, row in enumerate(self.stream.rows) if row.split == "train"]
        measured = set(training[:: math.ceil(len(training) / MEASURED_FILES) or 1])
        end = 0
        for index, content in self.stream.images():
            assert isinstance(content, bytes)
            assert len(content) <= MAX_MEMBER_BYTES, len(content)
            self._came(index, content)
            self.file.write(content)
            self.places[index] = end, len(content)
            end += len(content)
            if index in measured:
                with contextlib.suppress(ValueError):  # whether all files can be decoded is the stream's business
                    self.statistics.add(decoded(content, self.stream.img_size).numpy().reshape(-1, 3))
        return end

    def _write_pixels(self, data: int) -> None:
        """Write every image into the place of its row, then close the gaps."""
        side = self.stream.img_size
        size = 3 * side * side
        for index, pixels in self.stream.images():
            assert not isinstance(pixels, bytes)
            assert pixels.shape == (side, side, 3), pixels.shape
            assert pixels.dtype == "uint8", pixels.dtype
            content = pixels.tobytes()
            self._came(index, content)
            self.file.seek(data + index * size)
            self.file.write(content)
            if self.stream.rows[index].split == "train":
                self.statistics.add(pixels.reshape(-1, 3))
        for place, index in enumerate(sorted(self.digests)):
            if place != index:
                self.file.seek(data + index * size)
                content = self.file.read(size)
                self.file.seek(data + place * size)
                self.file.write(content)
        self.file.truncate(data + len(self.digests) * size)

    def _came(self, index: int, content: bytes) -> None:
        assert index not in self.digests, f"row {index} came twice"
        self.digests[index] = hashlib.sha256(content).digest()

    def _require_every_split(self) -> None:
        for split, rows in self.kept.items():
            if not rows:
                raise DataError(
                    f"no {'test' if split == 'test' else 'training'} image of {self.name} can be read",
                    remedy="convert the images to PNG or JPEG",
                )

    def _header(self, files_bytes: int | None) -> dict[str, Any]:
        rows, hashed, parts = self.stream.rows, RowsHash(), self.kept
        for part in parts.values():
            for index in part:
                row = rows[index]
                assert not has_control(row.name), row.name
                digest = self.digests[index]
                hashed.add(split=row.split, label=row.label, name=row.name, content_digest=digest)
        provenance = self.stream.provenance()
        metadata = _metadata(FORMAT_WITH_NAMES, self.name, self.stream.classes, provenance, str(hashed))
        metadata["img_size"] = json.dumps(self.stream.img_size)
        metadata["encoded"] = json.dumps(self.stream.encoded)
        metadata["given_val"] = json.dumps(sum(rows[index].split == "val" for index in parts["train"]))
        tensors = tensors_with_names(
            {split: len(part) for split, part in parts.items()},
            {split: len(self._names(part)) for split, part in parts.items()},
            img_size=self.stream.img_size,
            files_bytes=files_bytes,
        )
        return {"__metadata__": metadata | self.statistics.rounded(), **tensors}

    def _write_rows(self, data: int, layout: StoreLayout) -> None:
        import numpy as np

        self.file.seek(0, os.SEEK_END)
        assert self.file.tell() == data + layout.spans["train_labels"][0]
        for part in self.kept.values():
            columns = [[self.stream.rows[index].label for index in part]]
            if self.stream.encoded:
                columns += [[self.places[index][which] for index in part] for which in range(2)]
            for column in columns:
                self.file.write(np.array(column, dtype="<i8").tobytes())
            self.file.write(self._names(part))

    def _names(self, part: list[int]) -> bytes:
        return "\n".join(self.stream.rows[index].name for index in part).encode()


def _metadata(form: str, name: str, classes: tuple[str, ...], provenance: Provenance, content: str) -> dict[str, str]:
    provenance = replace(provenance, checksum=provenance.checksum or content)
    return {
        "format": form,
        "name": name,
        "classes": json.dumps(classes),
        "provenance": json.dumps(asdict(provenance)),
        "content": content,
    }


@contextmanager
def _new_file(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w+b") as file:
        yield file
