"""What every import of images has in common: a user's choices, the size to store, and reading image by image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import MAX_PIXELS_SIDE, PHOTO_SIDE
from cifar_cli.core.data.results import LeftOut, Provenance
from cifar_cli.core.data.sources.archive import checksum_of
from cifar_cli.core.data.sources.images import SourceStream
from cifar_cli.core.data.sources.kinds import HEIF_REMEDY, SUFFIXES
from cifar_cli.core.data.sources.layout import Layout, Shares, listed
from cifar_cli.core.data.sources.pixels import Imported, as_file, as_pixels, from_array
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Raw = NDArray[np.uint8] | bytes

REPORT_EVERY = 500  # images
MAX_NAMED_KINDS = 8
THUMBNAIL = 4  # a side of less than 1/THUMBNAIL of the store's is named


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportChoices:
    """What a user may choose about an import."""

    source: str = ""
    """The origin, for the provenance; by default the path."""
    img_size: int | None = None
    """Side of the square result in pixels; None takes that of `chosen_side`."""
    skip_bad: bool = False
    """Leave out what can't be read, and say what."""
    expected_classes: tuple[str, ...] | None = None
    """The classes that must be there, in the order of their labels; None takes those of the source."""
    shares: Shares = field(default_factory=Shares)
    columns: tuple[str, str] | None = None
    """Titles or numbers, from 1, of the columns of images and labels in CSV and parquet files; None finds them."""
    without: Path | None = None
    """A folder that is not read where it lies in the source: that of the datasets. An absolute path."""
    on_progress: OnProgress = silent


def stream_of(
    path: Path,
    layout: Layout,
    sides: Mapping[str, int],
    read: Callable[[], Iterator[tuple[str, Raw | OSError]]],
    choices: ImportChoices,
    *,
    kinds: Counter[str] | None = None,
    left_out: tuple[LeftOut, ...] = (),
    hidden_files: int = 0,
) -> SourceStream:
    """The dataset, image by image.

    sides: the shorter side of each image in pixels by its name in the source, as far as it is known.
    read: reads the source once: the name of each image of the layout, and its pixels, uint8 [H, W, 3], the bytes of its
    file, or why it can't be read. kinds: suffixes of files that are no images. left_out: besides what the
    layout leaves out. hidden_files: how many were not looked at.
    Up to MAX_PIXELS_SIDE, images become pixels: those of another size are scaled to cover the square and cropped at the
    centre. Larger stores keep files, as `as_file` makes them. All are upright 8-bit RGB, and transparent pixels white.
    Raises DataError where no image can be read; reading the stream raises it for an unreadable image.
    """
    kinds = kinds or Counter()
    known = {layout.rows[layout.index_of[name]].name: side for name, side in sides.items() if name in layout.index_of}
    if not known:
        raise DataError(f"no image in {path} can be read", remedy="convert the images to PNG or JPEG")
    size, notes = chosen_side(known, choices.img_size)
    reading = _Reading(
        path=path,
        layout=layout,
        size=size,
        read=read,
        choices=choices,
        kinds=kinds,
        notes=(*layout.notes, *notes, *_about_kinds(kinds)),
        left_out=[*layout.left_out, *left_out],
        hidden_files=hidden_files,
    )
    return SourceStream(
        classes=layout.classes,
        img_size=size,
        encoded=reading.encoded,
        rows=layout.rows,
        images=reading.images,
        provenance=reading.provenance,
        left_out=lambda: tuple(reading.left_out),
    )


def chosen_side(sides: Mapping[str, int], img_size: int | None) -> tuple[int, list[str]]:
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
    enlarged = sum(side < size for side in sides.values())
    if 2 * enlarged > len(sides):
        what = "1 image is" if enlarged == 1 else f"{enlarged:,} images are"
        notes.append(f"{what} enlarged to {size} pixels, which adds no detail")
    small = [name for name, side in sides.items() if THUMBNAIL * side < size]
    if small:
        what = "1 image has" if len(small) == 1 else f"{len(small):,} images have"
        notes.append(f"{what} less than a quarter of {size} pixels a side: {listed(small)}")
    return size, notes


def place_of(path: Path, name: str) -> str:
    """Where an image is, for messages: its path if it is a file of its own."""
    return str(path / name) if os.path.lexists(path / name) else f"{path}: {name}"


def require_no_columns(path: Path, choices: ImportChoices) -> None:
    """Raise DataError for columns of a source without CSV and parquet files."""
    if choices.columns is not None:
        raise DataError(
            f"{path} has no CSV or parquet file whose columns --columns could name", remedy="leave out --columns"
        )


def skip_remedy(path: Path) -> str:
    """What to do about a file of a source that can't be read."""
    first = "replace it" if path.is_dir() else "unpack the archive and pass the folder"
    return f"{first}, or pass --skip-bad to leave out what can't be read"


def kinds_listed(kinds: Counter[str]) -> str:
    """The kinds of files with their numbers, the most frequent first."""
    most = kinds.most_common(MAX_NAMED_KINDS)
    parts = [f"{count:,} {kind}" for kind, count in most]
    if len(kinds) > len(most):
        parts.append(f"{kinds.total() - sum(count for _, count in most):,} of {len(kinds) - len(most)} other kinds")
    return ", ".join(parts)


def _about_kinds(kinds: Counter[str]) -> list[str]:
    """A sentence about files that are no images, and one about those that only a plug-in reads."""
    if not kinds:
        return []
    files = "1 file" if kinds.total() == 1 else f"{kinds.total():,} files"
    notes = [f"{files} of kinds that are not read left out: {kinds_listed(kinds)}"]
    if any(SUFFIXES.get(kind) == "HEIF" for kind in kinds):
        notes.append(HEIF_REMEDY)
    return notes


@dataclass(eq=False, kw_only=True, slots=True)
class _Reading:
    """The pass over the images."""

    path: Path
    layout: Layout
    size: int
    read: Callable[[], Iterator[tuple[str, Raw | OSError]]]
    choices: ImportChoices
    kinds: Counter[str]
    notes: tuple[str, ...]
    left_out: list[LeftOut]
    hidden_files: int
    counts: Counter[str] = field(default_factory=Counter)
    unmeasured: dict[str, None] = field(default_factory=dict)
    """Classes none of whose test images can be read."""

    @property
    def encoded(self) -> bool:
        return self.size > MAX_PIXELS_SIDE

    def images(self) -> Iterator[tuple[int, Raw]]:
        done, total = 0, len(self.layout.rows)
        read: set[tuple[str, int]] = set()
        task = f"decode {self.path.name}"
        for name, raw in self.read():
            index = self.layout.index_of.get(name)
            if index is None:
                raise self._changed()
            content = self._content(name, index, raw)
            if content is not None:
                row = self.layout.rows[index]
                read.add((row.split, row.label))
                yield index, content
            done += 1
            if done % REPORT_EVERY == 0 or done == total:
                self.choices.on_progress(Progress(task=task, done=done, total=total, unit="images"))
        if done != total:
            raise self._changed()
        self._require_every_class(read)

    def _content(self, name: str, index: int, raw: Raw | OSError) -> Raw | None:
        """The image as the store keeps it; None if it is left out. Raises DataError."""
        try:
            image = self._imported(raw)
        except (ValueError, OSError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            if not self.choices.skip_bad:
                raise DataError(
                    f"{place_of(self.path, name)} is not a readable image ({reason})", remedy=skip_remedy(self.path)
                ) from error
            self.left_out.append(LeftOut(name=self.layout.rows[index].name, reason=reason))
            return None
        self.counts.update(resized=image.resized, reencoded=image.reencoded, animated=image.animated)
        return image.content

    def _imported(self, raw: Raw | OSError) -> Imported:
        if isinstance(raw, OSError):
            raise raw
        if not isinstance(raw, bytes):
            return from_array(raw, self.size, encoded=self.encoded)
        return as_file(raw, self.size) if self.encoded else as_pixels(raw, self.size)

    def _changed(self) -> DataError:
        return DataError(f"{self.path} changed during the import", remedy="import it again")

    def _require_every_class(self, read: set[tuple[str, int]]) -> None:
        for row in self.layout.rows:
            if row.split == "val" or (row.split, row.label) in read:
                continue
            name = self.layout.classes[row.label]
            if row.split == "train":
                raise DataError(
                    f"{self.path}: no image of train/{name} can be read", remedy="replace them, or remove the class"
                )
            self.unmeasured[name] = None

    def provenance(self) -> Provenance:
        return Provenance.now(
            source=self.choices.source or str(self.path),
            checksum="" if self.path.is_dir() else checksum_of(self.path, "sha256", self.choices.on_progress),
            resized_images=self.counts["resized"],
            skipped_images=sum(not each.harmless for each in self.left_out),
            reencoded_images=self.counts["reencoded"],
            animated_images=self.counts["animated"],
            hidden_files=self.hidden_files,
            left_out_kinds=dict(self.kinds.most_common(MAX_NAMED_KINDS)),
            test_share=self.choices.shares.test,
            val_share=self.choices.shares.val,
            split_seed=self.choices.shares.seed,
            columns=self.choices.columns or (),
            img_size=self.choices.img_size,
            skip_bad=self.choices.skip_bad,
            notes=(*self.notes, *self._about_unmeasured()),
        )

    def _about_unmeasured(self) -> list[str]:
        if not self.unmeasured:
            return []
        verb = "is" if len(self.unmeasured) == 1 else "are"
        return [
            f"no test image of {listed(self.unmeasured)} can be read, so that {'it' if verb == 'is' else 'they'} "
            f"{verb} never measured"
        ]
