"""Images in a folder, a zip or a tar archive, laid out in class folders or with labels in a CSV file.

There are two passes. The first collects names and sizes, so that a wrong layout is reported before any decoding.
The second reads the images one by one. Neither keeps more than names and one image in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cifar_cli.core.data.results import LeftOut
from cifar_cli.core.data.sources.class_folders import LAYOUT_REMEDY, lay_out
from cifar_cli.core.data.sources.entries import HEAD_BYTES, Entry, entries
from cifar_cli.core.data.sources.images import SourceStream
from cifar_cli.core.data.sources.kinds import ARCHIVES, HEIF_REMEDY, SUFFIXES, is_image, suffix_of
from cifar_cli.core.data.sources.label_tables import Rows, is_label_file, parse_csv
from cifar_cli.core.data.sources.pixels import size_of
from cifar_cli.core.data.sources.reading import (
    REPORT_EVERY,
    ImportChoices,
    kinds_listed,
    place_of,
    skip_remedy,
    stream_of,
)
from cifar_cli.core.limits import MAX_LABELS_BYTES, MAX_NAMES_BYTES
from cifar_cli.core.progress import Progress
from cifar_cli.errors import DataError


def import_images(path: Path, choices: ImportChoices = ImportChoices()) -> SourceStream:
    """Find every image in a folder or an archive; they are decoded as the stream is read.

    Raises DataError for a source that can't be read or has another layout, and as `stream_of`.
    """
    scan = _scan(path, choices)
    if scan.kinds and not any(map(is_image, scan.names)):
        raise _no_images(path, scan.kinds)
    layout = lay_out(
        str(path),
        scan.names,
        expected_classes=choices.expected_classes,
        tables=scan.tables,
        columns=choices.columns,
        shares=choices.shares,
        skip_bad=choices.skip_bad,
    )

    def read() -> Iterator[tuple[str, bytes | OSError]]:
        return (
            (entry.name, _content(entry))
            for entry in entries(path, skip_bad=choices.skip_bad, without=choices.without)
            if entry.name in layout.index_of
        )

    return stream_of(
        path,
        layout,
        scan.sides,
        read,
        choices,
        kinds=scan.kinds,
        left_out=tuple(scan.left_out),
        hidden_files=scan.hidden_files,
    )


def _no_images(path: Path, kinds: Counter[str]) -> DataError:
    """The error for a source of other files, with what to do about those that may hold images."""
    packed = sorted(ARCHIVES & kinds.keys())
    if any(SUFFIXES.get(kind) == "HEIF" for kind in kinds):
        remedy = HEIF_REMEDY
    elif packed:
        remedy = f"extract the {' and '.join(packed)} files in it first"
    else:
        remedy = f"convert the images to PNG or JPEG; {LAYOUT_REMEDY}"
    return DataError(f"{path} holds no images that are read, but {kinds_listed(kinds)}", remedy=remedy)


@dataclass(eq=False, slots=True)
class _Scan:
    """What the first pass finds."""

    names: list[str] = field(default_factory=list)
    sides: dict[str, int] = field(default_factory=dict)
    """The shorter side of each image in pixels, where its header says it."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Files that are no images, by suffix."""
    hidden_files: int = 0
    """Hidden files, and hidden folders whatever is in them."""
    tables: dict[str, Rows | DataError] = field(default_factory=dict)
    """The rows of each CSV file, or why it can't be read."""
    left_out: list[LeftOut] = field(default_factory=list)


def _scan(path: Path, choices: ImportChoices) -> _Scan:
    skip_bad, on_progress = choices.skip_bad, choices.on_progress
    scan, seen = _Scan(), set()
    names_bytes = 0
    task = f"scan {path.name}"
    for entry in entries(path, skip_bad=skip_bad, without=choices.without):
        names_bytes += len(entry.name)
        if names_bytes > MAX_NAMES_BYTES:
            raise DataError(f"{path} has more names than fit into memory", remedy="import fewer or shorter names")
        if entry.hidden:
            scan.hidden_files += 1
        elif entry.problem is not None:
            _skip(path, entry, entry.problem, scan.left_out, skip_bad=skip_bad)
        elif entry.name.endswith("/"):
            scan.names.append(entry.name)
        elif is_image(entry.name):
            if entry.name in seen:
                raise DataError(f"{path} contains {entry.name} twice", remedy="keep one of the two")
            seen.add(entry.name)
            _scan_image(path, entry, scan, skip_bad=skip_bad)
            if len(seen) % REPORT_EVERY == 0:
                on_progress(Progress(task=task, done=len(seen), unit="images"))
        elif is_label_file(entry.name):
            scan.tables[entry.name] = _read_table(path, entry)
        else:
            scan.kinds[suffix_of(entry.name) or "without a suffix"] += 1
    on_progress(Progress(task=task, done=len(seen), total=len(seen), unit="images"))
    return scan


def _scan_image(path: Path, entry: Entry, scan: _Scan, *, skip_bad: bool) -> None:
    try:
        size = size_of(entry.read(HEAD_BYTES)) or size_of(entry.read(None))
    except OSError as error:
        _skip(path, entry, f"it can't be read ({error.strerror or error})", scan.left_out, skip_bad=skip_bad)
        return
    scan.names.append(entry.name)
    if size:
        scan.sides[entry.name] = max(1, min(size))


def _content(entry: Entry) -> bytes | OSError:
    try:
        return entry.read(None)
    except OSError as error:
        return error


def _read_table(path: Path, entry: Entry) -> Rows | DataError:
    where = place_of(path, entry.name)
    try:
        content = entry.read(MAX_LABELS_BYTES + 1)
    except OSError as error:
        return DataError(f"{where} can't be read ({error.strerror})", remedy="check its permissions")
    if len(content) > MAX_LABELS_BYTES:
        return DataError(f"{where} has more than {MAX_LABELS_BYTES:,} bytes", remedy="leave it out")
    try:
        return parse_csv(content, where)
    except DataError as error:
        return error


def _skip(path: Path, entry: Entry, problem: str, left_out: list[LeftOut], *, skip_bad: bool) -> None:
    """Remember what is left out. Raises DataError where something would be lost without --skip-bad."""
    if not skip_bad and not entry.harmless:
        what = problem.removeprefix("it ")
        raise DataError(f"{place_of(path, entry.name)} {what}", remedy=skip_remedy(path))
    left_out.append(LeftOut(name=entry.name, reason=problem, harmless=entry.harmless))
