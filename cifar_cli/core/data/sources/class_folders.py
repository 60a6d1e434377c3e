"""Split and class of every image by the folders it lies in, or by the CSV files beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from cifar_cli.core.data.results import LeftOut
from cifar_cli.core.data.sources.kinds import is_hidden, is_image
from cifar_cli.core.data.sources.label_tables import Rows
from cifar_cli.core.data.sources.labels import LabelChoices, assign_labels
from cifar_cli.core.data.sources.layout import (
    SPLIT_NAMES,
    Found,
    Layout,
    Shares,
    Split,
    arranged,
    is_are,
    listed,
    split_in,
)
from cifar_cli.core.limits import MAX_CLASS_NAME
from cifar_cli.errors import DataError
from cifar_cli.printable import has_control

LAYOUT_REMEDY = "lay the images out as CLASS/IMAGE, or as train/CLASS/IMAGE and test/CLASS/IMAGE"
_NO_FOLDER = "in no class folder"


def lay_out(
    origin: str,
    names: Iterable[str],
    *,
    expected_classes: tuple[str, ...] | None = None,
    tables: Mapping[str, Rows | DataError] | None = None,
    columns: tuple[str, str] | None = None,
    shares: Shares = Shares(),
    skip_bad: bool = False,
) -> Layout:
    """Assign images to splits and classes.

    origin: the folder or archive, for messages. names: paths with `/`; those of folders end in `/`. All may lie
    under common parent folders. expected_classes: the classes that must be there, in the order of their labels;
    by default the classes found, sorted. tables: the rows of each CSV file, or why it can't be read. columns: of
    images and labels in these. skip_bad: leave out images without a class.
    Raises DataError for a layout that can't be understood, or from which nothing can be trained.
    """
    names = list(names)
    images = [name for name in names if is_image(name)]
    if not images:
        raise DataError(f"{origin} holds no images", remedy=LAYOUT_REMEDY)
    for name in names:
        if has_control(name):  # also names that are not valid UTF-8
            raise DataError(f"{origin} holds a name with control characters, {name}", remedy="rename it")
    if columns is not None and not tables:
        raise DataError(
            f"{origin} has no CSV or parquet file whose columns --columns could name", remedy="leave out --columns"
        )
    prefix = _common_parent(images)
    top = len(prefix)
    parts = {name: PurePosixPath(name).parts[top:] or (PurePosixPath(name).name,) for name in images}
    found = Found(origin=origin, short={name: "/".join(part) for name, part in parts.items()})
    with_splits = _splits_in(parts.values())
    strays = _strays(parts, with_splits=with_splits)
    alike = {} if with_splits else _like_splits(parts.values())
    flat = {} if with_splits or alike else _flat_splits(parts.values())
    labelled = assign_labels(
        found,
        tables or {},
        strays=strays.keys(),
        lone_folders=bool(flat) or _lone_folders(parts, strays, with_splits=with_splits),
        top=top,
        choices=LabelChoices(columns=columns, skip_bad=skip_bad),
    )
    by_folder = {name: part for name, part in parts.items() if name not in labelled}
    if alike and by_folder:
        raise DataError(
            f"{origin}: {listed(f'{folder}/' for folder in alike)} hold folders of images and look like splits",
            remedy=f"rename them {listed(dict.fromkeys(alike.values()))}, each with its class folders directly in it",
        )
    if flat and by_folder and tables:
        found.notes.append(
            f"{listed(f'{folder}/' for folder in flat)} are taken for classes; if they are splits, put class folders "
            "into them, or pass --columns IMAGE,LABEL"
        )
    _leave_out_strays(found, by_folder, strays, skip_bad=skip_bad)
    _assign_folders(found, by_folder, with_splits=with_splits)
    if with_splits or (flat and not by_folder):
        _split_labelled(found, parts, flat)
    if by_folder:
        folders = [PurePosixPath(name).parts for name in names if name.endswith("/")]
        _note_empty(found, (part[top:] for part in folders if part[:top] == prefix), with_splits)
    return arranged(found, shares, expected_classes)


def _common_parent(images: list[str]) -> tuple[str, ...]:
    """The leading folders that all images share, before any folder of a split, and above the classes.

    A few images that lie in such a folder itself, or above it, don't make a class of it if it holds folders of images.
    """
    parts = [PurePosixPath(name).parts for name in images]
    prefix: tuple[str, ...] = ()
    while True:
        depth = len(prefix)
        tops = {part[depth] for part in parts if len(part) > depth + 1}
        deep = [part for part in parts if len(part) > depth + 2]
        if len(tops) != 1 or not deep or {top.lower() for top in tops} & SPLIT_NAMES.keys():
            return prefix
        if len(deep) < len(parts) and (2 * len(deep) <= len(parts) or len({part[:-1] for part in deep}) < 2):
            return prefix
        prefix = (*prefix, *tops)


def _splits_in(parts: Iterable[tuple[str, ...]]) -> bool:
    """Whether the folders at the top are splits instead of classes.

    They are if all of them have a split's name, or if one with such a name holds folders of images.
    """
    folders = [part for part in parts if len(part) > 1]
    named = [part for part in folders if part[0].lower() in SPLIT_NAMES]
    return bool(folders) and (len(named) == len(folders) or any(len(part) > 2 for part in named))


def _like_splits(parts: Iterable[tuple[str, ...]]) -> dict[str, Split]:
    """Folders at the top such as seg_train and seg_test, which hold folders, with the split that each name means.

    Empty unless they are two splits at least.
    """
    holding = {part[0] for part in parts if len(part) > 2}
    alike = {folder: split for folder in sorted(holding) if (split := split_in(folder))}
    return alike if len(set(alike.values())) > 1 else {}


def _flat_splits(parts: Iterable[tuple[str, ...]]) -> dict[str, Split]:
    """Folders such as train_images and test_images, if there are no others, with the split that each name means."""
    folders = sorted({part[0] for part in parts if len(part) > 1})
    alike = {folder: split for folder in folders if (split := split_in(folder))}
    return alike if len(alike) == len(folders) and len(set(alike.values())) > 1 else {}


def _strays(parts: Mapping[str, tuple[str, ...]], *, with_splits: bool) -> dict[str, str]:
    """The images that are in no class folder, and why."""
    strays = {}
    for name, part in parts.items():
        if with_splits and len(part) > 1 and part[0].lower() not in SPLIT_NAMES:
            strays[name] = f"{part[0]}/ is no split"
        elif len(part) < (3 if with_splits else 2):
            strays[name] = _NO_FOLDER
    return strays


def _lone_folders(parts: Mapping[str, tuple[str, ...]], strays: Mapping[str, str], *, with_splits: bool) -> bool:
    """Whether there is no more than one class folder, in each split, so that the folders tell nothing apart."""
    folders: dict[str, set[str]] = defaultdict(set)
    for name in parts.keys() - strays.keys():
        split, class_name = parts[name][:2] if with_splits else ("", parts[name][0])
        folders[split].add(class_name)
    return all(len(classes) == 1 for classes in folders.values())


def _leave_out_strays(
    found: Found, parts: Mapping[str, tuple[str, ...]], strays: Mapping[str, str], *, skip_bad: bool
) -> None:
    """Leave out images without a class. Raises DataError without skip_bad, or if nothing is left."""
    without = {name: reason for name, reason in strays.items() if name in parts}
    if not without:
        return
    others = len(without) < len(found.short)
    if not (skip_bad and others):
        raise _stray_error(found, without, parts, others=others)
    found.left_out += [LeftOut(name=found.short[name], reason=reason) for name, reason in without.items()]
    if beside := _beside_splits(without, parts):
        counted = sum(reason != _NO_FOLDER for reason in without.values())
        images = "1 image in it is" if counted == 1 else f"{counted:,} images in {_it_them(beside)} are"
        found.notes.append(f"{listed(beside)} {is_are(beside)} no split{'s' * (len(beside) > 1)}: {images} left out")


def _stray_error(
    found: Found, without: Mapping[str, str], parts: Mapping[str, tuple[str, ...]], *, others: bool
) -> DataError:
    skip = "; --skip-bad leaves these out" if others else ""
    splits = {f"{part[0]}/" for part in parts.values() if len(part) > 1 and part[0].lower() in SPLIT_NAMES}
    if beside := _beside_splits(without, parts):
        as_class = f"; if {min(splits)} is a class, move every class folder into a folder train/"
        return DataError(
            f"{found.origin}: {listed(beside)} {'lies' if len(beside) == 1 else 'lie'} beside {listed(splits)}, and "
            f"the images in {_it_them(beside)} belong to no split",
            remedy=f"move them into train/CLASS or another split{as_class * (len(splits) == 1)}{skip}",
        )
    first, more = next(iter(without)), len(without) - 1
    where = "a SPLIT/CLASS folder such as train/CLASS" if splits else "a class folder"
    what = f"{found.origin}: {first} is not in {where}{f', and {more:,} more' * bool(more)}"
    if not splits:
        return DataError(what, remedy=f"{LAYOUT_REMEDY}{skip or ', or add a CSV file of labels'}")
    as_class = f"; if {min(splits)} is a class, as train/{min(splits)}IMAGE"
    return DataError(what, remedy=f"{LAYOUT_REMEDY}{skip or as_class}")


def _beside_splits(without: Mapping[str, str], parts: Mapping[str, tuple[str, ...]]) -> set[str]:
    return {f"{parts[name][0]}/" for name, reason in without.items() if reason != _NO_FOLDER}


def _it_them(folders: set[str]) -> str:
    return "it" if len(folders) == 1 else "them"


def _assign_folders(found: Found, parts: Mapping[str, tuple[str, ...]], *, with_splits: bool) -> None:
    at = 1 if with_splits else 0
    left_out = {each.name for each in found.left_out}
    nested = set()
    for name, part in parts.items():
        if found.short[name] in left_out:
            continue
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


def _split_labelled(found: Found, parts: Mapping[str, tuple[str, ...]], flat: Mapping[str, Split]) -> None:
    """Give images that a CSV file labels the split of their folder, if the images come from several of them.

    A single one, such as train/ in Kaggle's competitions, only holds all images that have labels. flat: folders whose
    names mean a split, such as train_images.
    """
    named: dict[str, Split] = {**SPLIT_NAMES, **{folder.lower(): split for folder, split in flat.items()}}
    by_folder = {name: named.get(parts[name][0].lower()) for name in found.class_of if len(parts[name]) > 1}
    if len({split for split in by_folder.values() if split}) > 1:
        found.split_of = {name: split for name, split in by_folder.items() if split} | found.split_of


def _note_empty(found: Found, folders: Iterable[tuple[str, ...]], with_splits: bool) -> None:
    """Remember the class folders that hold no images in any split."""
    at = 1 if with_splits else 0
    for part in folders:
        is_class = len(part) == at + 1 and (at == 0 or part[0].lower() in SPLIT_NAMES)
        if is_class and not is_hidden("/".join(part)):
            found.empty.add(part[at])
    found.empty -= set(found.class_of.values())
