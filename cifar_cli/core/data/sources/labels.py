"""Labels in CSV files beside the images, as Kaggle's CIFAR-10 has them: which images they label, and how."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from cifar_cli.core.data.results import LeftOut
from cifar_cli.core.data.sources.label_tables import (
    COLUMNS_REMEDY,
    ImageNames,
    LabelTable,
    Rows,
    label_table,
    no_images_named,
    no_such_columns,
)
from cifar_cli.core.data.sources.layout import SPLIT_NAMES, Found, is_are, listed
from cifar_cli.core.limits import MAX_CLASS_NAME
from cifar_cli.errors import DataError
from cifar_cli.printable import has_control

NEARLY_ALL = 0.9
"""A CSV file that labels at least this share of the images labels all of them, whatever their folders are called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelChoices:
    """What a user may choose about labels."""

    columns: tuple[str, str] | None = None
    """Titles or numbers, from 1, of the columns of images and labels; None finds them."""
    skip_bad: bool = False
    """Leave out images whose row has no label that can be used."""


def assign_labels(
    found: Found,
    tables: Mapping[str, Rows | DataError],
    *,
    strays: Set[str],
    lone_folders: bool,
    top: int,
    choices: LabelChoices,
) -> Set[str]:
    """Give images the class, and the split where a column or the file's name says it, that CSV files hold.

    They label the `strays`, which lie in no class folder. They label all images if they name NEARLY_ALL of them in a
    table whose column of labels is known for sure. They also do if they name images in folders that say nothing
    (`lone_folders`: there is one, or one in each split), or that the user overrules by naming the columns.
    tables: rows by the CSV's name, or why it can't be read. top: the number of folders that all images share.
    Returns the images that the tables are to label; those without a row are left out, with a note. It is empty if no
    table is used.
    Raises DataError for tables that are needed and can't be used.
    """
    if not tables:
        return set()
    names = ImageNames(found)
    readable = {path: rows for path, rows in sorted(tables.items()) if not isinstance(rows, DataError)}
    usable = [
        table for path, rows in readable.items() if (table := label_table(path, rows, names, top, choices.columns))
    ]
    if choices.columns is not None and not usable:
        raise no_such_columns(readable, choices.columns)
    named: dict[str, set[str]] = {table.path: set() for table in usable}
    surely: set[str] = set()
    for table in usable:
        for _, meant in table.images(names):
            named[table.path].update(meant)
            if table.sure and len(meant) == 1:  # a name that several images have labels none of them
                surely.update(meant)
    everything = found.short.keys()
    inside = everything - strays
    by_table: Set[str] = strays
    if len(surely) >= NEARLY_ALL * len(everything) or (
        (lone_folders or choices.columns is not None) and any(inside & each for each in named.values())
    ):
        by_table = everything
    used = [table for table in usable if named[table.path] & by_table]
    used = [table for table in used if table.sure] or used  # others beside these hold something else
    for broken in tables.values():
        if isinstance(broken, DataError) and by_table and not used:
            raise broken
    if not used and not inside:
        raise no_images_named(readable)
    _note_use(found, used, sorted(tables.keys() - {table.path for table in used}), by_table, inside)
    nearly_all = NEARLY_ALL * len(everything)
    offered = [table.path for table in usable if table not in used and len(named[table.path]) >= nearly_all]
    if offered and not by_table & inside:
        found.notes.append(f"if the labels are in {listed(offered)}, and the folders are no classes: {COLUMNS_REMEDY}")
    for table in used:
        _assign(found, table, names, by_table, choices.skip_bad, keep_split=len(tables) > 1)
    if used:
        _leave_out_unlabelled(found, used, by_table)
    return by_table if used else set()


def _note_use(found: Found, used: list[LabelTable], unused: list[str], by_table: Set[str], inside: Set[str]) -> None:
    files = listed(table.path for table in used)
    if used and by_table & inside:
        found.notes.append(f"classes are those in {files}" + ", not those of the folders" * (not _flat(found, inside)))
    elif used and inside:
        found.notes.append(f"classes are those of the folders, and in {files} for images that lie in no class folder")
    elif used:
        found.notes.append(f"classes are those in {files}")
    for table in used:
        if not table.titled:
            columns = f"column {table.image + 1} for the images and column {(table.label or 0) + 1} for the labels"
            found.notes.append(f"{table.path} has no header, and is read with {columns}")
    if unused:
        found.notes.append(f"{listed(unused)} {is_are(unused)} not used for labels")


def _flat(found: Found, inside: Set[str]) -> bool:
    """Whether these images lie in a single folder, which names no class."""
    return len({found.short[name].rpartition("/")[0] for name in inside}) == 1


def _leave_out_unlabelled(found: Found, used: list[LabelTable], by_table: Set[str]) -> None:
    already = {each.name for each in found.left_out}
    unlabelled = sorted(name for name in by_table if name not in found.class_of and found.short[name] not in already)
    if unlabelled:
        reason = f"without a label in {listed(table.path for table in used)}"
        found.left_out += [LeftOut(name=found.short[name], reason=reason, harmless=True) for name in unlabelled]
        found.notes.append(
            f"{len(unlabelled):,} image{'s' * (len(unlabelled) > 1)} without a label left out, such as "
            f"{found.short[unlabelled[0]]}"
        )


def _assign(
    found: Found, table: LabelTable, names: ImageNames, by_table: Set[str], skip_bad: bool, *, keep_split: bool
) -> None:
    if table.label is None and not table.one_hot:
        raise DataError(
            f"none of the columns {', '.join(table.header)} of {table.path} is surely the label", remedy=COLUMNS_REMEDY
        )
    bad = {each.name for each in found.left_out}
    absent: list[str] = []
    ambiguous: list[str] = []
    kept = by_name = 0
    for row, meant in table.images(names):
        value = row[table.image] if table.image < len(row) else ""
        if len(meant) > 1:
            meant = [each for each in meant if each in by_table] or meant
        if len(meant) != 1:
            (ambiguous if meant else absent).append(value)
            continue
        name = meant[0]
        if name not in by_table:
            kept += 1
            continue
        if found.short[name] in bad:
            continue
        label, *others = table.labels(row) or [""]
        if problem := "several labels" if others else _problem(found, name, label):
            if not skip_bad:
                raise DataError(
                    f"{table.path} has {problem} for {value}",
                    remedy="correct the row, or pass --skip-bad to leave the image out",
                )
            found.left_out.append(LeftOut(name=found.short[name], reason=f"{problem} in {table.path}"))
            bad.add(found.short[name])
            found.class_of.pop(name, None)
            continue
        found.class_of[name] = label
        in_column = None
        if table.split is not None and table.split < len(row) and (given := row[table.split].strip()):
            in_column = SPLIT_NAMES.get(given.lower())
            if in_column is None:
                raise DataError(
                    f"{table.path} has the split {given!r} for {value}",
                    remedy=f"write {', '.join(SPLIT_NAMES)} in that column, or nothing",
                )
        if split := in_column or (table.split_of_file if keep_split else None):
            found.split_of[name] = split
            by_name += in_column is None
    _note_rows(found, table.path, absent, "not there")
    _note_rows(found, table.path, ambiguous, "there several times under this name, and not labelled by it")
    if by_name:
        found.notes.append(f"the images in {table.path} are {table.split_of_file} images, because of its name")
    if kept:
        images = "1 image that lies" if kept == 1 else f"{kept:,} images that lie"
        found.notes.append(f"{table.path} names {images} in class folders, whose classes are kept")


def _problem(found: Found, name: str, label: str) -> str | None:
    """What is wrong with a label of an image."""
    if not label or has_control(label) or len(label) > MAX_CLASS_NAME:
        return "no usable label"
    return "two labels" if found.class_of.get(name, label) != label else None


def _note_rows(found: Found, path: str, values: list[str], what: str) -> None:
    if values:
        images = "1 image that is" if len(values) == 1 else f"{len(values):,} images that are"
        found.notes.append(f"{path} names {images} {what}, such as {values[0]}")
