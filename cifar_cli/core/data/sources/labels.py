"""Labels in a CSV file beside the images, as Kaggle's CIFAR-10 has them."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from cifar_cli.core.data.results import LeftOut
from cifar_cli.core.data.sources.archive import clean_name
from cifar_cli.core.data.sources.layout import SPLIT_NAMES, Found, Split, listed
from cifar_cli.core.limits import MAX_CLASS_NAME
from cifar_cli.errors import DataError
from cifar_cli.printable import has_control

LABEL_COLUMNS = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "breed")
SPLIT_COLUMNS = ("split", "subset", "partition", "set")
SAMPLED_ROWS = 1000
REMEDY = "name its columns `image` and `label`, and give the image's file name in the first"


def is_label_file(name: str) -> bool:
    """Whether a path may hold labels. Kaggle's sample submissions look like labels, and aren't."""
    last = PurePosixPath(name).name.lower()
    return last.endswith(".csv") and "submission" not in last and "sample" not in last


def parse_csv(content: bytes, origin: str) -> list[list[str]]:
    """The rows of a CSV file, its header first. Raises DataError."""
    try:
        text = content.decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{origin} is not a CSV file in UTF-8 ({error})", remedy="save it as CSV in UTF-8") from error


def assign_labels(found: Found, tables: Mapping[str, list[list[str]]], top: int) -> None:
    """Give each image the class and, where a column or its folder says so, the split.

    tables: rows by the CSV's name. top: the number of folders that all images share. Images without a row are left out.
    Raises DataError for a CSV whose columns can't be told, or that names images which aren't there.
    """
    names = _Names(found)
    several = len(tables) > 1
    used = []
    for path, rows in sorted(tables.items()):
        columns = _columns(rows, names, PurePosixPath(path).parts[top:-1])
        if columns is not None:
            used.append(path)
            split = _split_in(PurePosixPath(path).name)
            _assign(found, path, rows[1:], columns, names, split, keep_split=several)
    if not used:
        header = listed(", ".join(rows[0]) for rows in tables.values() if rows)
        raise DataError(f"no column of {listed(tables)} names the images ({header})", remedy=REMEDY)
    found.notes.append(f"classes are those in {listed(used)}")
    unlabelled = found.short.keys() - found.class_of.keys()
    if unlabelled:
        found.left_out += [
            LeftOut(name=found.short[name], reason=f"without a label in {listed(used)}") for name in sorted(unlabelled)
        ]
        found.notes.append(
            f"{len(unlabelled):,} image{'s' * (len(unlabelled) > 1)} without a label left out, such as "
            f"{found.short[min(unlabelled)]}"
        )
    by_folder = {name: SPLIT_NAMES.get(found.short[name].split("/")[0].lower()) for name in found.class_of}
    if len({split for split in by_folder.values() if split}) > 1:
        found.split_of |= {name: split for name, split in by_folder.items() if split and name not in found.split_of}


class _Names:
    """The images by every spelling that a CSV may use: path, file name, and both without the suffix."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self._images: dict[str, list[str]] = defaultdict(list)
        for name, short in found.short.items():
            last = short.rpartition("/")[2]
            for spelling in {short, short.rpartition(".")[0], last, last.rpartition(".")[0]}:
                self._images[spelling].append(name)

    def image(self, value: str, split: Split | None, folder: tuple[str, ...]) -> str | None:
        """The image that a value means; of several with this name, the one in a folder of the CSV's split."""
        value = clean_name(value.strip().replace("\\", "/"))
        images = self._images.get("/".join((*folder, value))) or self._images.get(value, [])
        if len(images) > 1:
            images = [each for each in images if _folder_split(self.found.short[each]) == (split or "train")]
        return images[0] if len(images) == 1 else None


def _folder_split(short: str) -> Split | None:
    return SPLIT_NAMES.get(short.split("/")[0].lower())


def _split_in(file_name: str) -> Split | None:
    """train for trainLabels.csv, test for test.csv, val for labels_val.csv."""
    lower = file_name.lower()
    return next((SPLIT_NAMES[word] for word in sorted(SPLIT_NAMES, key=len, reverse=True) if word in lower), None)


def _columns(
    rows: list[list[str]], names: _Names, folder: tuple[str, ...]
) -> tuple[int, int, int | None, tuple[str, ...]] | None:
    """Indices of the columns of images, labels and splits, and the CSV's folder; None if no column names images."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    header = [title.strip().lower() for title in rows[0]]
    sample = rows[1 : 1 + SAMPLED_ROWS]
    hits = [
        sum(
            any(names.image(row[column], split, folder) for split in ("train", "test", "val"))
            for row in sample
            if column < len(row)
        )
        for column in range(len(header))
    ]  # fmt: skip
    image = max(range(len(header)), key=lambda column: hits[column])
    if 2 * hits[image] < len(sample):
        return None
    split = next((index for index, title in enumerate(header) if title in SPLIT_COLUMNS), None)
    others = [index for index in range(len(header)) if index not in (image, split)]
    named = [index for wanted in LABEL_COLUMNS for index in others if header[index] == wanted]
    if not named and len(others) != 1:
        raise DataError(f"none of the columns {', '.join(rows[0])} is surely the label", remedy=REMEDY)
    return image, (named or others)[0], split, folder


def _assign(
    found: Found,
    path: str,
    rows: list[list[str]],
    columns: tuple[int, int, int | None, tuple[str, ...]],
    names: _Names,
    of_file: Split | None,
    *,
    keep_split: bool,
) -> None:
    image_column, label_column, split_column, folder = columns
    absent = []
    for row in rows:
        if len(row) <= max(image_column, label_column):
            raise DataError(f"{path} has a row of {len(row)} columns, {','.join(row)}", remedy="complete or remove it")
        name = names.image(row[image_column], of_file, folder)
        label = clean_name(row[label_column].strip())
        if name is None:
            absent.append(row[image_column])
            continue
        if not label or has_control(label) or len(label) > MAX_CLASS_NAME:
            raise DataError(f"{path} has no usable label for {row[image_column]}", remedy="correct the row")
        if found.class_of.get(name, label) != label:
            raise DataError(f"{path} has two labels for {row[image_column]}", remedy="remove one of the rows")
        found.class_of[name] = label
        in_column = None
        if split_column is not None and split_column < len(row):
            in_column = SPLIT_NAMES.get(row[split_column].strip().lower())
        if split := in_column or (of_file if keep_split else None):
            found.split_of[name] = split
    if absent:
        images = "1 image that is" if len(absent) == 1 else f"{len(absent):,} images that are"
        found.notes.append(f"{path} names {images} not there, such as {absent[0]}")
