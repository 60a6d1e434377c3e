"""The columns of a parquet file that hold the images and their labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_cli.core.data.sources.layout import listed
from cifar_cli.core.regular import open_regular
from cifar_cli.errors import DataError, ResourceError

AGAIN_REMEDY = "download the file again"
_IMAGE_NAMES = ("image", "img", "images", "picture", "jpg", "png", "bytes")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category", "y")


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Where the images and the labels are."""

    image: str
    in_struct: bool
    """Whether the image is a struct of bytes and path, instead of bytes alone."""
    label: str
    names: tuple[str, ...] | None
    """The names of integer labels, by number."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A pyarrow ParquetFile. Raises DataError within the block, too."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        with open_regular(path) as file, pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as parquet:
            yield parquet
    except MemoryError as error:  # pyarrow's is one, too
        raise ResourceError(f"rows of {path} don't fit into memory", remedy="write it in smaller pages") from error
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is damaged or no parquet file ({reason})", remedy=AGAIN_REMEDY) from error


def columns_of(path: Path, wanted: tuple[str, str] | None) -> Columns:
    """Find the columns by their types and names, or take those that the user named. Raises DataError."""
    import pyarrow as pa

    with opened(path) as file:
        schema = file.schema_arrow
        features = _features(schema.metadata)
        images, labels = {}, []
        numbers = _numbers(path, schema.names, wanted)
        for field in [schema.field(number) for number in numbers]:
            kind = field.type
            in_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            if in_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                images[field.name] = in_struct
            elif _is_label(kind):
                labels.append(field.name)
            elif pa.types.is_list(kind) and field.name.lower() in _LABEL_NAMES:
                raise DataError(
                    f"{path}: the column {field.name} has several labels for each image",
                    remedy="keep one label for each image",
                )
    named = [name for name in labels if features.get(name) is not None]
    image = _chosen(path, "images", list(images), _IMAGE_NAMES, [name for name in images if images[name]])
    label = _chosen(path, "labels", labels, _LABEL_NAMES, named)
    return Columns(image=image, in_struct=images[image], label=label, names=features.get(label))


def _numbers(path: Path, names: list[str], wanted: tuple[str, str] | None) -> list[int]:
    """The columns to look at: all, or the two that the user named by title or number. Raises DataError."""
    if wanted is None:
        return list(range(len(names)))
    titles = [name.lower() for name in names]
    found = []
    for column in wanted:
        title = column.strip().lower()
        if title not in titles and not (title.isdecimal() and 1 <= int(title) <= len(names)):
            raise DataError(
                f"{path} has no column {column}, but {', '.join(names)}",
                remedy="pass --columns IMAGE,LABEL with two of these titles, or numbers from 1",
            )
        found.append(titles.index(title) if title in titles else int(title) - 1)
    return found


def _is_label(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _chosen(path: Path, what: str, candidates: list[str], usual: tuple[str, ...], likely: list[str]) -> str:
    """The column to read: a usual name first, else the only likely one, else the only one. Raises DataError."""
    by_name = {name.lower(): name for name in candidates}
    if found := next((by_name[name] for name in usual if name in by_name), None):
        return found
    for group in (likely, candidates):
        if len(group) == 1:
            return group[0]
    if candidates:
        raise DataError(
            f"{path} has several columns that may be the {what}: {listed(candidates)}",
            remedy="pass --columns IMAGE,LABEL, the titles or numbers of the columns of images and of labels",
        )
    raise DataError(
        f"{path} has no column of {what}",
        remedy="pass files with a column of PNG or JPEG bytes and a column of labels, as `datasets` writes them",
    )


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Column → names of its classes, from the metadata that Hugging Face's `datasets` writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(column): tuple(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
