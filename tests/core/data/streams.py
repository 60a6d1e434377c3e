"""Datasets that are read image by image, for tests."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import Row, SourceStream

PROVENANCE = Provenance(source="here", checksum="", imported_at="2026-01-01T00:00:00+00:00", tool_version="0")
CLASSES = ("cat", "dög")


def photo(number: int, *, width: int = 40, height: int = 30) -> np.ndarray:
    """A smooth picture that differs from every other: uint8 [H, W, 3]."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray, *, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return file.getvalue()


def rows_of(train: int, val: int, test: int) -> tuple[Row, ...]:
    return tuple(
        Row(split=split, label=number % 2, name=f"{split}/{CLASSES[number % 2]}/{number}.jpg")
        for split, count in (("train", train), ("val", val), ("test", test))
        for number in range(count)
    )


def stream(
    contents: list[Any],
    rows: tuple[Row, ...],
    *,
    img_size: int = 16,
    order: Iterable[int] | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> SourceStream:
    """contents: of each row, pixels or a file. order: in which rows come; those that are left out don't come."""

    def images() -> Iterator[tuple[int, Any]]:
        for index in range(len(rows)) if order is None else order:
            yield index, contents[index]

    return SourceStream(
        classes=classes,
        img_size=img_size,
        encoded=isinstance(contents[0], bytes),
        rows=rows,
        images=images,
        provenance=lambda: PROVENANCE,
    )


def pixels_stream(train: int = 5, val: int = 2, test: int = 3, *, img_size: int = 16, **options: Any) -> SourceStream:
    rows = rows_of(train, val, test)
    contents = [photo(number, width=img_size, height=img_size) for number in range(len(rows))]
    return stream(contents, rows, img_size=img_size, **options)


def photo_stream(
    train: int = 5, val: int = 2, test: int = 3, *, width: int = 40, height: int = 30, **options: Any
) -> SourceStream:
    rows = rows_of(train, val, test)
    contents = [jpeg(photo(number, width=width, height=height)) for number in range(len(rows))]
    return stream(contents, rows, **options)
