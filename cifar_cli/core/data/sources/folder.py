"""Images in a folder, a zip or a tar archive, laid out in class folders or with labels in a CSV file.

There are two passes. The first collects names and sizes, so that a wrong layout is reported before any decoding.
The second reads the images one by one. Neither keeps more than names and one image in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import MAX_PIXELS_SIDE, PHOTO_SIDE
from cifar_cli.core.data.results import LeftOut, Provenance
from cifar_cli.core.data.sources.archive import checksum_of
from cifar_cli.core.data.sources.entries import HEAD_BYTES, Entry, entries
from cifar_cli.core.data.sources.images import SourceStream
from cifar_cli.core.data.sources.kinds import HEIF_REMEDY, SUFFIXES, is_image, suffix_of
from cifar_cli.core.data.sources.labels import is_label_file, parse_csv
from cifar_cli.core.data.sources.layout import Layout, Shares, lay_out, listed
from cifar_cli.core.data.sources.pixels import as_file, as_pixels, size_of
from cifar_cli.core.limits import MAX_LABELS_BYTES, MAX_NAMES_BYTES
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REPORT_EVERY = 500  # images
MAX_NAMED_KINDS = 8
THUMBNAIL = 4  # a side of less than 1/THUMBNAIL of the store's is named
SKIP_REMEDY = "replace it, or pass --skip-bad to leave out what can't be read"


def import_images(
    path: Path,
    *,
    source: str | None = None,
    img_size: int | None = None,
    skip_bad: bool = False,
    expected_classes: tuple[str, ...] | None = None,
    shares: Shares = Shares(),
    on_progress: OnProgress = silent,
) -> SourceStream:
    """Find every image in a folder or an archive; they are decoded as the stream is read.

    source: its origin, for the provenance; by default the path.
    img_size: side of the square result in pixels; None takes that of `chosen_side`.
    Up to MAX_PIXELS_SIDE, images become pixels: those of another size are scaled to cover the square and cropped at the
    centre. Larger stores keep files, as `as_file` makes them. All are upright 8-bit RGB, and transparent pixels white.
    skip_bad: leave out what can't be read, and say what. expected_classes, shares: see `lay_out`.
    Raises DataError for a source that can't be read or has another layout; reading the stream raises it for an
    unreadable image.
    """
    scan = _scan(path, skip_bad=skip_bad, on_progress=on_progress)
    layout = lay_out(
        str(path),
        scan.names,
        expected_classes=expected_classes,
        labels=scan.labels,
        shares=shares,
        skip_bad=skip_bad,
    )
    sides = {
        layout.rows[layout.index_of[name]].name: side for name, side in scan.sides.items() if name in layout.index_of
    }
    if not sides:
        raise DataError(f"no image in {path} can be read", remedy="convert the images to PNG or JPEG")
    size, notes = chosen_side(sides, img_size)
    reading = _Reading(
        path=path,
        source=source or str(path),
        layout=layout,
        size=size,
        skip_bad=skip_bad,
        shares=shares,
        kinds=scan.kinds,
        notes=[*layout.notes, *notes, *_about_kinds(scan.kinds)],
        left_out=[*layout.left_out, *scan.left_out],
        on_progress=on_progress,
    )
    return SourceStream(
        classes=layout.classes,
        img_size=size,
        encoded=size > MAX_PIXELS_SIDE,
        rows=layout.rows,
        images=reading.images,
        provenance=reading.provenance,
        left_out=lambda: tuple(reading.left_out),
    )


def chosen_side(sides: dict[str, int], img_size: int | None) -> tuple[int, list[str]]:
    """The side of a store's images, and sentences about it.

    sides: the shorter side of each image by its name. It is `img_size` if given, else the side that more than half of
    the images have if that is at most PHOTO_SIDE, else PHOTO_SIDE.
    """
    notes = []
    size = img_size
    if size is None:
        common, count = Counter(sides.values()).most_common(1)[0]
        size = common
        if 2 * count <= len(sides) or common > PHOTO_SIDE:
            size = PHOTO_SIDE
            least, most = min(sides.values()), max(sides.values())
            why = f"images have sides of {least if least == most else f'{least} to {most}'} pixels"
            notes.append(f"{why}; they are stored for training at {size} pixels (--img-size chooses another size)")
    small = [name for name, side in sides.items() if THUMBNAIL * side < size]
    if small:
        what = "1 image has" if len(small) == 1 else f"{len(small):,} images have"
        notes.append(f"{what} less than a quarter of {size} pixels a side: {listed(small)}")
    return size, notes


@dataclass(eq=False, slots=True)
class _Scan:
    """What the first pass finds."""

    names: list[str] = field(default_factory=list)
    sides: dict[str, int] = field(default_factory=dict)
    """The shorter side of each image in pixels, where its header says it."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Files that are no images, by suffix."""
    labels: dict[str, list[list[str]]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


def _scan(path: Path, *, skip_bad: bool, on_progress: OnProgress) -> _Scan:
    scan, seen = _Scan(), set()
    names_bytes = 0
    task = f"scan {path.name}"
    for entry in entries(path):
        names_bytes += len(entry.name)
        if names_bytes > MAX_NAMES_BYTES:
            raise DataError(f"{path} has more names than fit into memory", remedy="import fewer or shorter names")
        if entry.problem is not None:
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
            scan.labels[entry.name] = _read_labels(path, entry)
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


def _read_labels(path: Path, entry: Entry) -> list[list[str]]:
    where = _where(path, entry.name)
    try:
        content = entry.read(MAX_LABELS_BYTES + 1)
    except OSError as error:
        raise DataError(f"{where} can't be read ({error.strerror})", remedy="check its permissions") from error
    if len(content) > MAX_LABELS_BYTES:
        raise DataError(f"{where} has more than {MAX_LABELS_BYTES:,} bytes", remedy="leave it out")
    return parse_csv(content, where)


def _skip(path: Path, entry: Entry, problem: str, left_out: list[LeftOut], *, skip_bad: bool) -> None:
    """Remember what is left out. Raises DataError where something would be lost without --skip-bad."""
    if not skip_bad and not entry.harmless:
        what = problem.removeprefix("it ")
        raise DataError(f"{_where(path, entry.name)} {what}", remedy=SKIP_REMEDY)
    left_out.append(LeftOut(name=entry.name, reason=problem))


def _where(path: Path, name: str) -> str:
    return str(path / name) if path.is_dir() else f"{path}: {name}"


def _about_kinds(kinds: Counter[str]) -> list[str]:
    """A sentence about files that are no images, and one about those that only a plug-in reads."""
    if not kinds:
        return []
    most = kinds.most_common(MAX_NAMED_KINDS)
    parts = [f"{count:,} {kind}" for kind, count in most]
    if len(kinds) > len(most):
        parts.append(f"{kinds.total() - sum(count for _, count in most):,} of {len(kinds) - len(most)} other kinds")
    files = "1 file" if kinds.total() == 1 else f"{kinds.total():,} files"
    notes = [f"{files} of kinds that are not read left out: {', '.join(parts)}"]
    if any(SUFFIXES.get(kind) == "HEIF" for kind in kinds):
        notes.append(HEIF_REMEDY)
    return notes


@dataclass(eq=False, kw_only=True, slots=True)
class _Reading:
    """The second pass."""

    path: Path
    source: str
    layout: Layout
    size: int
    skip_bad: bool
    shares: Shares
    kinds: Counter[str]
    notes: list[str]
    left_out: list[LeftOut]
    on_progress: OnProgress
    counts: Counter[str] = field(default_factory=Counter)

    def images(self) -> Iterator[tuple[int, NDArray[np.uint8] | bytes]]:
        done, total = 0, len(self.layout.rows)
        read: Counter[tuple[str, int]] = Counter()
        for entry in entries(self.path):
            index = self.layout.index_of.get(entry.name)
            if index is None:
                continue
            content = self._content(entry, index)
            if content is not None:
                row = self.layout.rows[index]
                read["test" if row.split == "test" else "train", row.label] += 1
                yield index, content
            done += 1
            if done % REPORT_EVERY == 0 or done == total:
                task = f"decode {self.path.name}"
                self.on_progress(Progress(task=task, done=done, total=total, unit="images"))
        if done != total:
            raise DataError(f"{self.path} changed during the import", remedy="import it again")
        self._require_every_class(read)

    def _content(self, entry: Entry, index: int) -> NDArray[np.uint8] | bytes | None:
        """The image as the store keeps it; None if it is left out. Raises DataError."""
        try:
            raw = entry.read(None)
            image = as_file(raw, self.size) if self.size > MAX_PIXELS_SIDE else as_pixels(raw, self.size)
        except (ValueError, OSError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            if not self.skip_bad:
                raise DataError(
                    f"{_where(self.path, entry.name)} is not a readable image ({reason})", remedy=SKIP_REMEDY
                ) from error
            self.left_out.append(LeftOut(name=self.layout.rows[index].name, reason=reason))
            self.counts["bad"] += 1
            return None
        self.counts.update(resized=image.resized, reencoded=image.reencoded, animated=image.animated)
        return image.content

    def _require_every_class(self, read: Counter[tuple[str, int]]) -> None:
        for row in self.layout.rows:
            if not read["test" if row.split == "test" else "train", row.label]:
                raise DataError(
                    f"{self.path}: no image of {row.split}/{self.layout.classes[row.label]} can be read",
                    remedy="replace them, or remove the class",
                )

    def provenance(self) -> Provenance:
        return Provenance.now(
            source=self.source,
            checksum="" if self.path.is_dir() else checksum_of(self.path, "sha256", self.on_progress),
            resized_images=self.counts["resized"],
            skipped_images=len([each for each in self.left_out if not each.reason.startswith("without a label")]),
            reencoded_images=self.counts["reencoded"],
            animated_images=self.counts["animated"],
            left_out_kinds=dict(self.kinds.most_common(MAX_NAMED_KINDS)),
            test_share=self.shares.test,
            val_share=self.shares.val,
            notes=tuple(self.notes),
        )
