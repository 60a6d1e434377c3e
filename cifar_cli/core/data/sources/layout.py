"""Derives split and class of every image from the paths in a folder or an archive."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from cifar_cli.core.data.results import LeftOut
from cifar_cli.core.data.sources.images import Row
from cifar_cli.core.data.sources.kinds import is_hidden, is_image
from cifar_cli.core.limits import MAX_CLASS_NAME
from cifar_cli.errors import DataError, shell_line
from cifar_cli.printable import has_control

Split = Literal["train", "val", "test"]
SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}  # fmt: skip
"""Names of folders, in any case, and the split that they mean."""
LAYOUT_REMEDY = "lay the images out as CLASS/IMAGE, or as train/CLASS/IMAGE and test/CLASS/IMAGE"
TEST_SHARE = 0.2
MAX_LISTED = 5  # names in a message
_ORDER: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Which shares of the images become splits that the source doesn't have."""

    test: float | None = None
    """Of each class; None takes TEST_SHARE."""
    val: float | None = None
    """Of the training images of each class; None leaves the choice to training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Split and class of every image; the order depends on the names alone."""

    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    """In the order of the store."""
    index_of: dict[str, int]
    """Name of an entry → index into `rows`."""
    notes: tuple[str, ...] = ()
    """What was decided, and what to know before training: sentences."""
    left_out: tuple[LeftOut, ...] = ()


@dataclass(eq=False, kw_only=True, slots=True)
class Found:
    """Images with their classes, before they are split."""

    origin: str
    """The folder or archive, for messages."""
    class_of: dict[str, str] = field(default_factory=dict)
    split_of: dict[str, Split] = field(default_factory=dict)
    """Without the images whose split is not given."""
    short: dict[str, str] = field(default_factory=dict)
    """Entry → its path without the folders that all entries share."""
    empty: set[str] = field(default_factory=set)
    """Classes whose folders hold no images."""
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def lay_out(
    origin: str,
    names: Iterable[str],
    *,
    expected_classes: tuple[str, ...] | None = None,
    labels: Mapping[str, list[list[str]]] | None = None,
    shares: Shares = Shares(),
    skip_bad: bool = False,
) -> Layout:
    """Assign images to splits and classes.

    origin: the folder or archive, for messages. names: paths with `/`; those of folders end in `/`. All may lie
    under common parent folders. expected_classes: the classes that must be there, in the order of their labels;
    by default the classes found, sorted. labels: the rows of each CSV file, its header first. skip_bad: leave out
    images that are in no class folder.
    Raises DataError for a layout that can't be understood, or from which nothing can be trained.
    """
    names = list(names)
    images = [name for name in names if is_image(name)]
    if not images:
        raise DataError(f"{origin} holds no images", remedy=LAYOUT_REMEDY)
    for name in names:
        if has_control(name):  # also names that are not valid UTF-8
            raise DataError(f"{origin} holds a name with control characters, {name}", remedy="rename it")
    top = _common_parent(images)
    parts = {name: PurePosixPath(name).parts[top:] for name in images}
    found = Found(origin=origin, short={name: "/".join(part) for name, part in parts.items()})
    if labels and (_strays(parts) or len({part[0] for part in parts.values()}) == 1):
        from cifar_cli.core.data.sources.labels import assign_labels

        assign_labels(found, labels, top)
    else:
        _assign_folders(found, parts, skip_bad=skip_bad)
        _note_empty(found, (PurePosixPath(name).parts[top:] for name in names if name.endswith("/")))
    return arranged(found, shares, expected_classes)


def arranged(found: Found, shares: Shares, expected_classes: tuple[str, ...] | None = None) -> Layout:
    """Draw the splits that are missing, and sort the images. Raises DataError where nothing can be trained."""
    _draw_splits(found, shares)
    counts: dict[Split, Counter[str]] = {split: Counter() for split in _ORDER}
    for name, class_name in found.class_of.items():
        counts[found.split_of[name]][class_name] += 1
    _require_trainable(found, counts)
    classes = tuple(sorted(set(found.class_of.values())))
    if expected_classes is not None:
        require_expected(found.origin, classes, expected_classes)
        classes = expected_classes
    number = {name: index for index, name in enumerate(classes)}
    order = sorted(
        found.class_of,
        key=lambda name: (_ORDER[found.split_of[name]], number[found.class_of[name]], found.short[name].split("/")),
    )
    rows = tuple(
        Row(split=found.split_of[name], label=number[found.class_of[name]], name=found.short[name]) for name in order
    )
    return Layout(
        classes=classes,
        rows=rows,
        index_of={name: index for index, name in enumerate(order)},
        notes=tuple(found.notes),
        left_out=tuple(found.left_out),
    )


def _splits_in(parts: Iterable[tuple[str, ...]]) -> bool:
    """Whether the folders at the top are splits instead of classes."""
    return any(len(part) > 1 and part[0].lower() in SPLIT_NAMES for part in parts)


def _strays(parts: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The images that are in no class folder."""
    needed = 3 if _splits_in(parts.values()) else 2
    return [
        name
        for name, part in parts.items()
        if len(part) < needed or (needed == 3 and part[0].lower() not in SPLIT_NAMES)
    ]


def _assign_folders(found: Found, parts: dict[str, tuple[str, ...]], *, skip_bad: bool) -> None:
    with_splits = _splits_in(parts.values())
    strays = _strays(parts)
    if strays and not (skip_bad and len(strays) < len(parts)):
        where = "a SPLIT/CLASS folder such as train/CLASS" if with_splits else "a class folder"
        more = f", and {len(strays) - 1:,} more" if len(strays) > 1 else ""
        otherwise = "; --skip-bad leaves these out" if len(strays) < len(parts) else ", or add a CSV file of labels"
        what = f"{found.origin}: {strays[0]} is not in {where}{more}"
        raise DataError(what, remedy=f"{LAYOUT_REMEDY}{otherwise}")
    found.left_out += [LeftOut(name=found.short[name], reason="in no class folder") for name in strays]
    at = 1 if with_splits else 0
    nested = set()
    for name in parts.keys() - set(strays):
        part = parts[name]
        if len(part[at]) > MAX_CLASS_NAME:
            raise DataError(
                f"{found.origin}: a class name has {len(part[at]):,} characters, at most {MAX_CLASS_NAME} are allowed",
                remedy="shorten the name of the folder",
            )
        found.class_of[name] = part[at]
        if with_splits:
            found.split_of[name] = SPLIT_NAMES[part[0].lower()]
        if len(part) > at + 2:
            nested.add("/".join(part[at:-1]))
    if nested:
        example = min(nested)
        found.notes.append(
            f"images in folders below a class folder belong to that class: {example} is {example.split('/')[0]}"
        )


def _note_empty(found: Found, folders: Iterable[tuple[str, ...]]) -> None:
    """Remember the class folders that hold no images in any split."""
    at = 1 if found.split_of else 0
    for part in folders:
        is_class = len(part) == at + 1 and (at == 0 or part[0].lower() in SPLIT_NAMES)
        if is_class and not is_hidden("/".join(part)):
            found.empty.add(part[at])
    found.empty -= set(found.class_of.values())


def _draw_splits(found: Found, shares: Shares) -> None:
    """Give every image a split: of each class a share of those whose split isn't given, chosen by names alone."""
    given = set(found.split_of.values())
    if not found.split_of:
        found.split_of = dict.fromkeys(found.class_of, "train")
    elif "train" not in given:
        raise DataError(
            f"{found.origin} has no train/ folder with images, only {listed(f'{each}/' for each in given)}",
            remedy="put some images of each class into train/CLASS; no image may be in two splits",
        )
    for name in found.class_of.keys() - found.split_of.keys():
        found.split_of[name] = "train"
    wanted: tuple[tuple[Split, float | None, float | None], ...] = (
        ("test", shares.test, TEST_SHARE),
        ("val", shares.val, None),
    )
    for split, share, default in wanted:
        if split in given:
            if share is not None:
                found.notes.append(f"the images have a {split} split of their own, so --{split}-share is not used")
        elif share or default:
            _draw(found, split, share or default or 0.0)


def _draw(found: Found, split: Split, share: float) -> None:
    training = defaultdict(list)
    for name, class_name in found.class_of.items():
        if found.split_of[name] == "train":
            training[class_name].append(name)
    drawn = 0
    for of_class in training.values():
        of_class.sort(key=lambda name: hashlib.sha256(f"{split}\n{found.short[name]}".encode()).digest())
        wanted = min(max(1, round(share * len(of_class))), len(of_class) - 1)
        found.split_of |= dict.fromkeys(of_class[:wanted], split)
        drawn += wanted
    word = {"test": "test", "val": "validation"}[split]
    found.notes.append(
        f"no {word} images are given: {drawn:,} ({share:.0%} of each class, chosen by their names) are set aside "
        f"(--{split}-share)"
    )


def _require_trainable(found: Found, counts: dict[Split, Counter[str]]) -> None:
    """Raise DataError for classes that can't be learnt or measured at all; note what makes results doubtful."""
    classes = set(found.class_of.values())
    unlearnt = classes - counts["train"].keys()
    if unlearnt:
        place = "test/" if unlearnt <= counts["test"].keys() else "val/"
        raise DataError(
            f"{found.origin}: {listed(unlearnt)} {_is_are(unlearnt)} in {place} but not in train/",
            remedy="use the same class folders in every split",
        )
    if not counts["test"]:
        raise DataError(
            f"{found.origin}: no class has enough images for a test split",
            remedy="add images; every class needs at least two",
        )
    if found.empty:
        found.notes.append(f"left out as classes, because their folders hold no images: {listed(found.empty)}")
    if len(classes) == 1:
        found.notes.append(f"{next(iter(classes))} is the only class, so that every prediction will be right")
    if unmeasured := classes - counts["test"].keys():
        found.notes.append(f"{listed(unmeasured)} {_is_are(unmeasured)} not among the test images, so never measured")
    if single := {name for name, count in counts["train"].items() if count == 1}:
        verb = "has" if len(single) == 1 else "have"
        found.notes.append(f"{listed(single)} {verb} a single training image")


def _common_parent(images: list[str]) -> int:
    """The number of leading folders that all images share, before any folder of a split, and above the classes."""
    parts = [PurePosixPath(name).parts for name in images]
    first, last = min(parts), max(parts)  # a prefix shared by the first and the last in sorted order is shared by all
    depth = 0
    while depth < min(map(len, parts)) - 2 and first[depth] == last[depth] and first[depth].lower() not in SPLIT_NAMES:
        depth += 1
    return depth


def require_expected(origin: str, classes: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Raise DataError, with the classes that differ, where a source has other classes than its dataset."""
    if set(classes) == set(expected):
        return
    strange, absent = set(classes) - set(expected), set(expected) - set(classes)
    details = [f"{listed(strange)} unknown"] * bool(strange) + [f"{listed(absent)} missing"] * bool(absent)
    raise DataError(
        f"{origin} does not have this dataset's {len(expected)} classes ({'; '.join(details)})",
        remedy=f"import it under another name: `{shell_line('cifar download --dataset NAME --from', origin)}`",
    )


def listed(names: Iterable[str]) -> str:
    """A few names in their order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else ""
    return ", ".join(ordered[:MAX_LISTED]) + more


def _is_are(names: set[str]) -> str:
    return "is" if len(names) == 1 else "are"
