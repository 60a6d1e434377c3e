"""Images that come with their labels in a table, instead of in class folders: what is common to such sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import MAX_PIXELS_SIDE
from cifar_cli.core.data.results import LeftOut, Provenance
from cifar_cli.core.data.sources.archive import checksum_of
from cifar_cli.core.data.sources.folder import chosen_side
from cifar_cli.core.data.sources.images import SourceStream
from cifar_cli.core.data.sources.layout import Found, Layout, Shares, arranged
from cifar_cli.core.data.sources.pixels import as_file, as_pixels, from_array
from cifar_cli.core.limits import MAX_CLASS_NAME
from cifar_cli.core.progress import OnProgress, Progress
from cifar_cli.errors import DataError
from cifar_cli.printable import has_control

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REPORT_EVERY = 500  # images


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportChoices:
    """What a user may choose about an import."""

    source: str
    """The origin, for the provenance."""
    on_progress: OnProgress
    img_size: int | None = None
    skip_bad: bool = False
    expected_classes: tuple[str, ...] | None = None
    """The classes that must be there, in the order of their labels; None takes those of the table."""
    shares: Shares = field(default_factory=Shares)


@dataclass(eq=False, kw_only=True, slots=True)
class Table:
    """The labels of a source, and how to read its images."""

    path: Path
    found: Found
    """Class and split of each image by its name."""
    classes: tuple[str, ...]
    """In the order of their labels; those without images are left out, and named in a note."""
    sides: dict[str, int]
    """The shorter side of each image in pixels, as far as it is known."""
    read: Callable[[], Iterator[tuple[str, NDArray[np.uint8] | bytes]]]
    """Reads the source once: name and pixels, uint8 [H, W, 3], or the bytes of a file."""

    def stream(self, choices: ImportChoices) -> SourceStream:
        """The dataset, image by image. Raises DataError where nothing can be trained from it."""
        require_class_names(str(self.path), self.classes)
        present = set(self.found.class_of.values())
        self.found.empty |= set(self.classes) - present
        classes = tuple(name for name in self.classes if name in present)
        if not self.sides:
            raise DataError(f"no image in {self.path} can be read", remedy="save the images as PNG or JPEG")
        layout = arranged(self.found, choices.shares, choices.expected_classes or classes)
        size, notes = chosen_side(self.sides, choices.img_size)
        reading = _Reading(
            table=self, layout=layout, size=size, choices=choices, notes=notes, left_out=list(layout.left_out)
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


def require_class_names(origin: str, classes: Iterable[object]) -> None:
    """Raise DataError for a class name that is no text, empty, too long, with control characters, or there twice."""
    seen = set()
    for name in classes:
        if not isinstance(name, str) or not name or len(name) > MAX_CLASS_NAME or has_control(name):
            shown = f"{name}"[:MAX_CLASS_NAME]
            raise DataError(
                f"{origin} has a class name that can't be used, {shown!r}",
                remedy=f"use names of 1 to {MAX_CLASS_NAME} printable characters",
            )
        if name in seen:
            raise DataError(f"{origin} has two classes named {name}", remedy="give every class a name of its own")
        seen.add(name)


@dataclass(eq=False, kw_only=True, slots=True)
class _Reading:
    """The pass over the images."""

    table: Table
    layout: Layout
    size: int
    choices: ImportChoices
    notes: list[str]
    left_out: list[LeftOut]
    counts: Counter[str] = field(default_factory=Counter)

    def images(self) -> Iterator[tuple[int, NDArray[np.uint8] | bytes]]:
        done, total = 0, len(self.layout.rows)
        read: set[tuple[str, int]] = set()
        task = f"decode {self.table.path.name}"
        for name, raw in self.table.read():
            index = self.layout.index_of.get(name)
            if index is None:
                raise self._changed()
            content = self._content(name, raw)
            if content is not None:
                row = self.layout.rows[index]
                read.add((row.split, row.label))
                yield index, content
            done += 1
            if done % REPORT_EVERY == 0 or done == total:
                self.choices.on_progress(Progress(task=task, done=done, total=total, unit="images"))
        if done != total:
            raise self._changed()
        for split, label in sorted({(row.split, row.label) for row in self.layout.rows} - read):
            raise DataError(
                f"{self.table.path}: no {split} image of {self.layout.classes[label]} can be read",
                remedy="replace them, or remove the class",
            )

    def _content(self, name: str, raw: NDArray[np.uint8] | bytes) -> NDArray[np.uint8] | bytes | None:
        """The image as the store keeps it; None if it is left out. Raises DataError."""
        encoded = self.size > MAX_PIXELS_SIDE
        try:
            if not isinstance(raw, bytes):
                image = from_array(raw, self.size, encoded=encoded)
            else:
                image = as_file(raw, self.size) if encoded else as_pixels(raw, self.size)
        except ValueError as error:
            if not self.choices.skip_bad:
                raise DataError(
                    f"{self.table.path}: {name} is not a readable image ({error})",
                    remedy="replace it, or pass --skip-bad to leave out what can't be read",
                ) from error
            self.left_out.append(LeftOut(name=name, reason=str(error)))
            self.counts["skipped"] += 1
            return None
        self.counts.update(resized=image.resized, reencoded=image.reencoded, animated=image.animated)
        return image.content

    def _changed(self) -> DataError:
        return DataError(f"{self.table.path} changed during the import", remedy="import it again")

    def provenance(self) -> Provenance:
        path = self.table.path
        return Provenance.now(
            source=self.choices.source,
            checksum="" if path.is_dir() else checksum_of(path, "sha256", self.choices.on_progress),
            resized_images=self.counts["resized"],
            skipped_images=self.counts["skipped"],
            reencoded_images=self.counts["reencoded"],
            animated_images=self.counts["animated"],
            test_share=self.choices.shares.test,
            val_share=self.choices.shares.val,
            notes=(*self.layout.notes, *self.notes),
        )
