"""Derives split and class of every image from the paths in a folder or an archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from cifar_cli.core.data.config import SPLITS
from cifar_cli.core.limits import MAX_CLASS_NAME
from cifar_cli.errors import DataError, shell_line
from cifar_cli.printable import has_control

SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUT_REMEDY = "lay the images out as train/CLASS/*.png and test/CLASS/*.png (.jpg and .jpeg too)"
MAX_LISTED = 5  # names in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Split, class and index of every image; the order depends on the names alone."""

    classes: tuple[str, ...]
    places: dict[str, tuple[str, int]]
    """Image name → (split, index within the split)."""
    labels: dict[str, list[int]]
    """For each split, the class index of each image."""


def is_image(name: str) -> bool:
    """Whether a path has the suffix of an image. Hidden files (.DS_Store, ._photo.jpg) and folders are skipped."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".") and "/." not in name


def lay_out(origin: str, names: Iterable[str], *, expected_classes: tuple[str, ...] | None = None) -> Layout:
    """Assign images to splits and classes.

    origin: the folder or archive, for messages. names: paths with `/`; those of folders end in `/`. All may lie
    under common parent folders. expected_classes: the classes that must be there, in the order of their labels;
    by default the classes found, sorted.
    Raises DataError for the first path that is not train/CLASS/IMAGE or test/CLASS/IMAGE.
    """
    names = list(names)
    images = [name for name in names if is_image(name)]
    if not images:
        raise DataError(f"{origin} holds no images ({', '.join(SUFFIXES)})", remedy=LAYOUT_REMEDY)
    for name in images:
        if has_control(name):  # also names that are not valid UTF-8
            raise DataError(f"{origin} holds a name with control characters, {name}", remedy="rename it")
    top = _common_parent(images)
    parts = {name: PurePosixPath(name).parts[top:] for name in images}
    _require_splits(origin, list(parts.values()))
    for name, part in parts.items():
        if len(part) != 3 or part[0] not in SPLITS:
            raise DataError(f"{origin}: {name} is not in a train/CLASS or test/CLASS folder", remedy=LAYOUT_REMEDY)
        if len(part[1]) > MAX_CLASS_NAME:
            raise DataError(
                f"{origin}: a class name has {len(part[1]):,} characters, at most {MAX_CLASS_NAME} are allowed",
                remedy="shorten the name of the folder",
            )
    found = {split: {part[1] for part in parts.values() if part[0] == split} for split in SPLITS}
    _reject_empty_classes(origin, (PurePosixPath(name).parts[top:] for name in names if name.endswith("/")), found)
    _require_same_classes(origin, found)
    classes = tuple(sorted(found["train"]))
    if expected_classes is not None:
        _require_expected(origin, classes, expected_classes)
        classes = expected_classes
    return _place(parts, classes)


def _place(parts: dict[str, tuple[str, ...]], classes: tuple[str, ...]) -> Layout:
    index_of = {name: index for index, name in enumerate(classes)}
    places: dict[str, tuple[str, int]] = {}
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    for name in sorted(parts, key=lambda name: (index_of[parts[name][1]], parts[name])):
        split, class_name, _ = parts[name]
        places[name] = (split, len(labels[split]))
        labels[split].append(index_of[class_name])
    return Layout(classes=classes, places=places, labels=labels)


def _common_parent(images: list[str]) -> int:
    """The number of leading folders that all images share, before any train/ or test/."""
    parts = [PurePosixPath(name).parts for name in images]
    first, last = min(parts), max(parts)  # a prefix shared by the first and the last in sorted order is shared by all
    depth = 0
    while depth < min(map(len, parts)) - 2 and first[depth] == last[depth] and first[depth] not in SPLITS:
        depth += 1
    return depth


def _require_splits(origin: str, parts: list[tuple[str, ...]]) -> None:
    tops = {part[0] for part in parts if len(part) > 1}
    if tops.isdisjoint(SPLITS):
        if tops and all(len(part) == 2 for part in parts):
            raise DataError(
                f"{origin} has the class folders {_listed(tops)} at its top level, not under train/ and test/",
                remedy="move them into train/ and put some images of each class into test/CLASS",
            )
        raise DataError(f"{origin} has neither a train/ nor a test/ folder of images", remedy=LAYOUT_REMEDY)
    for split, other in (SPLITS, SPLITS[::-1]):
        if split not in tops:
            raise DataError(
                f"{origin} has no {split}/ folder with images, only {other}/",
                remedy=f"put some images of each class into {split}/CLASS; no image may be in both",
            )


def _reject_empty_classes(origin: str, folders: Iterable[tuple[str, ...]], found: dict[str, set[str]]) -> None:
    for part in folders:
        if len(part) == 2 and part[0] in SPLITS and part[1] not in found[part[0]] and not part[1].startswith("."):
            raise DataError(
                f"{origin}: the class folder {part[0]}/{part[1]} holds no images",
                remedy="put images into it, or remove the class from train/ and test/",
            )


def _require_same_classes(origin: str, found: dict[str, set[str]]) -> None:
    for split, other in (SPLITS, SPLITS[::-1]):
        if only := found[split] - found[other]:
            raise DataError(
                f"{origin}: {_listed(only)} {'is' if len(only) == 1 else 'are'} in {split}/ but not in {other}/",
                remedy="use the same class folders in train/ and test/",
            )


def _require_expected(origin: str, classes: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if set(classes) == set(expected):
        return
    strange, absent = set(classes) - set(expected), set(expected) - set(classes)
    details = [f"{_listed(strange)} unknown"] * bool(strange) + [f"{_listed(absent)} missing"] * bool(absent)
    raise DataError(
        f"{origin} does not have this dataset's {len(expected)} classes ({'; '.join(details)})",
        remedy=f"import it under another name: `{shell_line('cifar download --dataset NAME --from', origin)}`",
    )


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return ", ".join(ordered[:MAX_LISTED]) + more
