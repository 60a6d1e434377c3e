"""Images that come with their labels in a table, instead of in class folders: what is common to such sources."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_cli.core.data.sources.images import SourceStream
from cifar_cli.core.data.sources.layout import Found, arranged
from cifar_cli.core.data.sources.reading import ImportChoices, stream_of
from cifar_cli.core.limits import MAX_CLASS_NAME
from cifar_cli.errors import DataError
from cifar_cli.printable import has_control

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    kinds: Counter[str] = field(default_factory=Counter)
    """Files beside the tables that are not read, by suffix."""

    def stream(self, choices: ImportChoices) -> SourceStream:
        """The dataset, image by image. Raises DataError where nothing can be trained from it."""
        require_class_names(str(self.path), self.classes)
        present = set(self.found.class_of.values())
        self.found.empty |= set(self.classes) - present
        classes = tuple(name for name in self.classes if name in present)
        layout = arranged(self.found, choices.shares, choices.expected_classes or classes)
        return stream_of(self.path, layout, self.sides, self.read, choices, kinds=self.kinds)


def composed(name: object) -> str:
    """A class name in the form that all its spellings share (Unicode's NFC)."""
    return unicodedata.normalize("NFC", str(name))


def merged(names: Iterable[Any]) -> tuple[Any, ...]:
    """Class names, with several spellings of one as one. What `require_class_names` refuses stays as it is."""
    given = tuple(names)
    if len(set(given)) < len(given) or not all(isinstance(name, str) for name in given):
        return given
    return tuple(dict.fromkeys(map(composed, given)))


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
        if composed(name) in seen:
            raise DataError(f"{origin} has two classes named {name}", remedy="give every class a name of its own")
        seen.add(composed(name))
