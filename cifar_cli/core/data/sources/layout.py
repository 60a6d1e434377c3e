"""Splits and classes of images: draws the splits that are missing, and gives every image its place in the store."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from cifar_cli.core.data.results import LeftOut
from cifar_cli.core.data.sources.images import Row
from cifar_cli.errors import DataError, shell_line

Split = Literal["train", "val", "test"]
SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}  # fmt: skip
"""Names of folders, in any case, and the split that they mean."""
TEST_SHARE = 0.2
MAX_LISTED = 5  # names in a message
_ORDER: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


def split_in(name: str) -> Split | None:
    """train for trainLabels.csv, test for test.csv, val for labels_val.csv; None for latest.csv."""
    words = (word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name))
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Which shares of the images become splits that the source doesn't have."""

    test: float | None = None
    """Of each class; None takes TEST_SHARE."""
    val: float | None = None
    """Of the training images of each class; None leaves the choice to training."""
    seed: int | None = None
    """Draws other images; None draws by the images' names alone."""


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


def arranged(found: Found, shares: Shares, expected_classes: tuple[str, ...] | None = None) -> Layout:
    """Draw the splits that are missing, and sort the images. Raises DataError where nothing can be trained."""
    if not found.class_of:
        raise DataError(f"{found.origin}: no image has a label that can be used", remedy="correct the labels")
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


def _draw_splits(found: Found, shares: Shares) -> None:
    """Give every image a split: of each class a share of those whose split isn't given, chosen by name and seed."""
    given = set(found.split_of.values())
    for name in found.class_of.keys() - found.split_of.keys():
        found.split_of[name] = "train"
    if "train" not in found.split_of.values():
        raise DataError(
            f"{found.origin} has no train/ folder with images, only {listed(f'{each}/' for each in given)}",
            remedy="put some images of each class into train/CLASS; no image may be in two splits",
        )
    wanted: tuple[tuple[Split, float | None, float | None], ...] = (
        ("test", shares.test, TEST_SHARE),
        ("val", shares.val, None),
    )
    drawn = False
    for split, share, default in wanted:
        if split in given:
            if share is not None:
                found.notes.append(f"the images have a {split} split of their own, so --{split}-share is not used")
        elif share or default:
            _draw(found, split, share or default or 0.0, shares.seed)
            drawn = True
    if shares.seed is not None and not drawn:
        found.notes.append("the images have splits of their own, so --seed is not used")


def _draw(found: Found, split: Split, share: float, seed: int | None) -> None:
    training = defaultdict(list)
    for name, class_name in found.class_of.items():
        if found.split_of[name] == "train":
            training[class_name].append(name)
    drawn = 0
    salt = f"{split}\n" if seed is None else f"{split}\n{seed}\n"
    for of_class in training.values():
        of_class.sort(key=lambda name: hashlib.sha256(f"{salt}{found.short[name]}".encode()).digest())
        wanted = min(max(1, round(share * len(of_class))), len(of_class) - 1)
        found.split_of |= dict.fromkeys(of_class[:wanted], split)
        drawn += wanted
    word = {"test": "test", "val": "validation"}[split]
    by = "by their names" if seed is None else f"by their names and --seed {seed}"
    found.notes.append(
        f"no {word} images are given: {drawn:,} ({share:.0%} of each class, chosen {by}) are set aside "
        f"(--{split}-share)"
    )


def _require_trainable(found: Found, counts: dict[Split, Counter[str]]) -> None:
    """Raise DataError for classes that can't be learnt or measured at all; note what makes results doubtful."""
    classes = set(found.class_of.values())
    unlearnt = classes - counts["train"].keys()
    if unlearnt:
        place = "test/" if unlearnt <= counts["test"].keys() else "val/"
        raise DataError(
            f"{found.origin}: {listed(unlearnt)} {is_are(unlearnt)} in {place} but not in train/",
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
        found.notes.append(f"{listed(unmeasured)} {is_are(unmeasured)} not among the test images, so never measured")
    if single := {name for name, count in counts["train"].items() if count == 1}:
        verb = "has" if len(single) == 1 else "have"
        found.notes.append(f"{listed(single)} {verb} a single training image")


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


def is_are(names: Collection[str]) -> str:
    """The verb for so many names."""
    return "is" if len(names) == 1 else "are"
