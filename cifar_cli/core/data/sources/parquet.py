"""Hugging Face's parquet files: images as PNG or JPEG bytes beside their labels, in one file or in shards.

Row groups are read one after another, and a few rows of each at a time.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_cli.core.data.results import LeftOut
from cifar_cli.core.data.sources.images import SourceStream
from cifar_cli.core.data.sources.kinds import is_hidden, is_image, suffix_of
from cifar_cli.core.data.sources.layout import SPLIT_NAMES, Found, Split, listed
from cifar_cli.core.data.sources.parquet_columns import AGAIN_REMEDY, Columns, columns_of, opened
from cifar_cli.core.data.sources.pixels import size_of
from cifar_cli.core.data.sources.reading import REPORT_EVERY, ImportChoices
from cifar_cli.core.data.sources.tables import Table, composed, merged
from cifar_cli.core.limits import FREE_UNPACKED_BYTES, MAX_MEMBER_BYTES, MAX_NAME_BYTES, MAX_NAMES_BYTES, MAX_RATIO
from cifar_cli.core.progress import Progress
from cifar_cli.core.regular import open_regular
from cifar_cli.errors import DataError, shell_line
from cifar_cli.printable import has_control

MAGIC = b"PAR1"
INSTALL_REMEDY = "install the extra `parquet`: `pip install 'cifar-cli[parquet]'`"
ROWS_AT_ONCE = 16
MAX_DEPTH = 8  # folders below the one that is passed; repository/configuration/split/0000.parquet is usual
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?$")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """One parquet file."""

    path: Path
    split: Split | None
    """None where no name says it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """One row of a file."""

    name: str
    split: Split | None
    content: bytes
    """Empty where the row has no image."""
    label: Any


def parquet_files(path: Path) -> list[Path]:
    """The parquet files at a path or in a folder, sorted.

    None if the folder holds images, too, unless the parquet files are named as shards or splits: the images of a
    repository are then pictures of its page.
    """
    if not path.is_dir():
        return [path] if _starts_as_parquet(path) else []
    found: list[Path] = []
    images = False
    unread: list[OSError] = []  # of a folder without parquet files they concern another reader
    for here, files in _walk(path, unread.append):
        images = images or any(map(is_image, files))
        found += [here / name for name in files if _is_parquet(here / name)]
    if found and unread:
        _unreadable(unread[0])
    named = all(_SHARD.search(file.stem) or _split_of(path, file) for file in found)
    return sorted(found) if named or not images else []


def _walk(path: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with the files in it that aren't hidden, down to MAX_DEPTH; nothing for a file."""
    if not path.is_dir():
        return
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(path, onerror=onerror or _unreadable, followlinks=True):
        here = Path(folder)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder that is read already
            subfolders[:] = []
            continue
        seen.add((status.st_dev, status.st_ino))
        deep = len(here.relative_to(path).parts) >= MAX_DEPTH
        subfolders[:] = [] if deep else sorted(name for name in subfolders if not is_hidden(name))
        yield here, [name for name in files if not is_hidden(name)]


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} can't be read ({error.strerror})", remedy="make it readable, or move it away")


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet"


def import_parquet(path: Path, choices: ImportChoices) -> SourceStream:
    """Read the labels and the sizes of all images; the images are decoded as the stream is read.

    The split of a file is that of its name (train-00000-of-00002.parquet) or of its folder. The image column is a
    struct of bytes and path, or binary; the label column has integers, named by the file's `huggingface` metadata, or
    texts. Raises DataError for other files, and where a shard or an image is missing.
    """
    _require_pyarrow()
    shards = _shards(path, parquet_files(path))
    columns = [columns_of(shard.path, choices.columns) for shard in shards]
    if len(set(columns)) > 1:
        other = next(index for index, each in enumerate(columns) if each != columns[0])
        raise DataError(
            f"{shards[other].path} has other columns or class names than {shards[0].path}",
            remedy="pass files of one data set only",
        )
    found, sides = Found(origin=str(path)), {}
    values: set[int] | set[str] = set()
    names_bytes, packed = 0, sum(shard.path.stat().st_size for shard in shards)
    unpacked = 0
    for record in _records(path, shards, columns[0]):
        found.short[record.name] = record.name
        if _has_no_label(record) and choices.skip_bad:
            found.left_out.append(LeftOut(name=record.name, reason="without a label", harmless=True))
            continue
        found.class_of[record.name] = _class_name(path, record, columns[0], values)
        if record.split is not None:
            found.split_of[record.name] = record.split
        if size := size_of(record.content):
            sides[record.name] = max(1, min(size))
        names_bytes += len(record.name)
        unpacked += len(record.content)
        if names_bytes > MAX_NAMES_BYTES:
            raise DataError(f"{path} has more names than fit into memory", remedy="import fewer files")
        if unpacked > FREE_UNPACKED_BYTES + MAX_RATIO * packed:
            raise DataError(
                f"{path} unpacks to more than {MAX_RATIO} times its size, as no images do", remedy=AGAIN_REMEDY
            )
        if len(found.short) % REPORT_EVERY == 0:
            choices.on_progress(Progress(task=f"scan {path.name}", done=len(found.short), unit="images"))
    if not found.short:
        raise DataError(f"{path} has no rows", remedy=AGAIN_REMEDY)
    classes = merged(columns[0].names or (str(value) for value in sorted(values)))

    def read() -> Iterator[tuple[str, bytes]]:
        records = _records(path, shards, columns[0])
        return ((record.name, record.content) for record in records if record.name in found.class_of)

    table = Table(path=path, found=found, classes=classes, sides=sides, read=read, kinds=_other_kinds(path))
    return table.stream(choices)


def _other_kinds(path: Path) -> Counter[str]:
    """The suffixes of the files in a folder that are no parquet files, as far as the folder is searched."""
    kinds: Counter[str] = Counter()
    for here, files in _walk(path):
        kinds.update(suffix_of(name) or "without a suffix" for name in files if not _is_parquet(here / name))
    return kinds


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DataError("parquet files are read by the package pyarrow", remedy=INSTALL_REMEDY) from error


def _starts_as_parquet(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _shards(path: Path, files: list[Path]) -> list[_Shard]:
    shards = [_Shard(path=file, split=_split_of(path, file)) for file in files]
    places = {_configuration(path, file) for file in files}
    if len(places) > 1:
        raise DataError(
            f"{path} holds several data sets, in the folders {listed(places)}",
            remedy=f"pass one of them: `{shell_line('cifar download --dataset NAME --from', path / min(places))}`",
        )
    if None in {shard.split for shard in shards} and len({shard.split for shard in shards}) > 1:
        strange = next(shard.path for shard in shards if shard.split is None)
        raise DataError(
            f"{strange} has no split in its name, unlike the others", remedy="name it train-…, validation-… or test-…"
        )
    groups: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if match := _SHARD.search(file.stem):
            key = file.parent, file.stem[: match.start()], int(match[2])
            groups.setdefault(key, set()).add(int(match[1]))
    for (folder, prefix, total), there in groups.items():
        if len(there) < total:
            first = next(number for number in range(total) if number not in there)
            raise DataError(
                f"{folder} lacks {prefix}-{first:05d}-of-{total:05d}.parquet"
                if path.is_dir()
                else f"{path} is one of {total} shards",
                remedy="download all shards into one folder and pass that folder",
            )
    return shards


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", name.lower()) if word]


def _split_of(path: Path, file: Path) -> Split | None:
    """The split that the file's name begins with, else the only one that it contains, else that of its folder."""
    words = _words(file.stem)
    contained = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    if words and words[0] in SPLIT_NAMES:
        return SPLIT_NAMES[words[0]]
    if len(contained) == 1:
        return contained.pop()
    return SPLIT_NAMES.get(file.parent.name.lower()) if path.is_dir() and file.parent != path else None


def _configuration(path: Path, file: Path) -> str:
    """The folder of a file below `path`, without one that is named as a split."""
    if not path.is_dir():
        return ""
    parts = file.parent.relative_to(path).parts
    return "/".join(parts[:-1] if parts and parts[-1].lower() in SPLIT_NAMES else parts)


def _records(path: Path, shards: list[_Shard], columns: Columns) -> Iterator[_Record]:
    """The rows of all files, in their order, each with a name of its own."""
    seen: set[str] = set()
    numbers: dict[Split | None, int] = {}
    for shard in shards:
        with opened(shard.path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[columns.image, columns.label], use_threads=False):
                labels = batch.column(batch.schema.get_field_index(columns.label))
                images = batch.column(batch.schema.get_field_index(columns.image))
                for image, label in zip(images, labels, strict=True):
                    number = numbers[shard.split] = numbers.get(shard.split, -1) + 1
                    value = image.as_py()
                    content, given = value, None
                    if columns.in_struct:
                        content, given = ((value or {}).get(key) for key in ("bytes", "path"))
                    if content is not None and not isinstance(content, bytes):
                        raise DataError(f"{shard.path}: {columns.image} holds no bytes", remedy=AGAIN_REMEDY)
                    if not content and given:
                        raise DataError(
                            f"{shard.path} holds only the path of an image, {given}, not the image",
                            remedy="write the file with the images in it, or pass the folder of the images",
                        )
                    if content and len(content) > MAX_MEMBER_BYTES:
                        raise DataError(
                            f"{shard.path} has an image of {len(content):,} bytes", remedy="leave that image out"
                        )
                    name = _name(shard.split, number, given, seen)
                    yield _Record(name=name, split=shard.split, content=content or b"", label=label.as_py())


def _name(split: Split | None, number: int, given: object, seen: set[str]) -> str:
    """The path that the file gives to an image, else its number, below the split."""
    top = split or "images"
    if isinstance(given, str) and 0 < len(given) <= MAX_NAME_BYTES and not has_control(given):
        name = f"{top}/{given.strip('/')}"
        if name not in seen:
            seen.add(name)
            return name
    name = f"{top}/#{number:07d}"
    seen.add(name)
    return name


def _has_no_label(record: _Record) -> bool:
    """Hugging Face's data sets mark a missing label by -1."""
    label = record.label
    return label is None or label == -1 or (isinstance(label, str) and not label.strip())


def _class_name(path: Path, record: _Record, columns: Columns, values: set[Any]) -> str:
    label = record.label
    if _has_no_label(record):
        raise DataError(
            f"{path}: the image {record.name} has no label",
            remedy="leave out files without labels, or pass --skip-bad to leave out such images",
        )
    if columns.names is not None and isinstance(label, int):
        if not 0 <= label < len(columns.names):
            raise DataError(
                f"{path}: the image {record.name} has the label {label}, but {len(columns.names)} classes are named",
                remedy=AGAIN_REMEDY,
            )
        return composed(columns.names[label])
    values.add(composed(label) if isinstance(label, str) else label)
    return composed(str(label))
