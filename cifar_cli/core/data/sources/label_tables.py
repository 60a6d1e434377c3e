"""CSV files beside images: their text, and the columns that name the images and their labels."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from cifar_cli.core.data.sources.archive import clean_name
from cifar_cli.core.data.sources.kinds import is_image
from cifar_cli.core.data.sources.layout import SPLIT_NAMES, Found, Split, listed, split_in
from cifar_cli.errors import DataError

Rows = list[list[str]]
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "classname", "category", "target", "species", "breed")
SPLIT_COLUMNS = ("split", "subset", "partition", "set")
SAMPLED_ROWS = 1000
COLUMNS_REMEDY = "pass --columns IMAGE,LABEL, the titles or numbers of the columns of file names and of labels"
_ROW_NUMBERS = re.compile(r"unnamed: \d+|index")  # titles by which pandas reads and writes them
_DELIMITERS = ",;\t"
_SNIFFED_ROWS = 20
_ONE = ("1", "1.0")
_ZERO = ("0", "0.0")


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class LabelTable:
    """A CSV file with a column that names images of the source."""

    path: str
    header: list[str]
    """The titles of the columns, or their numbers from 1 where the file has none."""
    titled: bool
    """Whether the first row is a header."""
    rows: Rows
    image: int
    """Index of the column that names the images."""
    label: int | None
    """Index of the column of the labels; None where several may be meant, and where each class has a column."""
    one_hot: tuple[int, ...]
    """Indices of the columns of the classes, which hold 1 for the class of a row and 0 for others; else empty."""
    sure: bool
    """The column of the labels has a usual title, or the user named it."""
    split: int | None
    folder: tuple[str, ...]
    """Where the file is, below the folders that all images share."""
    split_of_file: Split | None

    def images(self, names: ImageNames) -> Iterator[tuple[list[str], list[str]]]:
        """Each row, and the images that it may mean: one, or none, or several with this name."""
        for row in self.rows:
            value = row[self.image] if self.image < len(row) else ""
            yield row, names.meant(value, self.split_of_file, self.folder)

    def labels(self, row: list[str]) -> list[str]:
        """The labels in a row: one, or none, or several where each class has a column."""
        if self.one_hot:
            return [clean_name(self.header[column]) for column in self.one_hot if row[column].strip() in _ONE]
        value = row[self.label] if self.label is not None and self.label < len(row) else ""
        return [clean_name(value.strip())]


class ImageNames:
    """The images by every spelling that a CSV may use, in any case: path, file name, and both without the suffix."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._images: dict[str, list[str]] = defaultdict(list)
        for name in found.short:
            for spelling in {spelling.casefold() for spelling in self._spellings(name)}:
                self._images[spelling].append(name)

    def __len__(self) -> int:
        return len(self._found.short)

    def meant(self, value: str, split: Split | None, folder: tuple[str, ...]) -> list[str]:
        """The images that a value may mean.

        Of several, those with this path come before those with this file name, then those in the same case, then
        those in a folder of the CSV's split.
        """
        value = clean_name(value.strip().replace("\\", "/"))
        inside = "/".join((*folder, value))
        images = self._images.get(inside.casefold()) or self._images.get(value.casefold(), [])
        if len(images) > 1:
            short = self._found.short
            of_split = split or "train"
            for fits in (
                lambda each: short[each].rpartition(".")[0] in (inside, value) or short[each] in (inside, value),
                lambda each: {inside, value} & self._spellings(each),
                lambda each: SPLIT_NAMES.get(short[each].split("/")[0].lower()) == of_split,
            ):
                images = list(filter(fits, images)) or images
        return images

    def _spellings(self, name: str) -> set[str]:
        short = self._found.short[name]
        last = short.rpartition("/")[2]
        return {name, short, short.rpartition(".")[0], last, last.rpartition(".")[0]}


def is_label_file(name: str) -> bool:
    """Whether a path may hold labels. Kaggle's sample submissions look like labels, and aren't."""
    last = PurePosixPath(name).name.lower()
    return last.endswith((".csv", ".tsv")) and "submi" not in last


def parse_csv(content: bytes, origin: str) -> Rows:
    """The rows of a CSV file without the empty ones: UTF-8 or UTF-16, with commas, semicolons or tabs.

    Raises DataError.
    """
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
        return list(_rows(text, max(_DELIMITERS, key=lambda delimiter: _agreement(text, delimiter))))
    except (UnicodeError, csv.Error) as error:
        raise DataError(
            f"{origin} is not a CSV file in UTF-8 or UTF-16 ({error})", remedy="save it as CSV in UTF-8"
        ) from error


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    return (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(map(str.strip, row)))


def _agreement(text: str, delimiter: str) -> tuple[int, int]:
    """How many of the first rows have as many columns as the first one, if it has several; and how many it has."""
    sample = [len(row) for row, _ in zip(_rows(text, delimiter), range(_SNIFFED_ROWS), strict=False)]
    if not sample or sample[0] < 2:
        return 0, 0
    return sample.count(sample[0]), sample[0]


def label_table(
    path: str, rows: Rows, names: ImageNames, top: int, columns: tuple[str, str] | None
) -> LabelTable | None:
    """Find the columns of a CSV file; None if none of them names the images, or it lacks those of `columns`.

    top: the number of folders that all images share. columns: titles or numbers, from 1, of the two columns.
    """
    if not rows or len(rows[0]) < 2:
        return None
    titles = [title.strip().lower() for title in rows[0]]
    folder = PurePosixPath(path).parts[top:-1]
    split_of_file = split_in(PurePosixPath(path).name)
    chosen = None if columns is None else _chosen(titles, columns)
    if columns is not None and chosen is None:
        return None
    image = chosen[0] if chosen else _image_column(rows, titles, names, split_of_file, folder)
    if image is None:
        return None
    first = rows[0][image].strip()
    titled = not (first.isdecimal() or is_image(first) or names.meant(first, split_of_file, folder))
    others = [index for index in range(len(titles)) if index not in (chosen or ())]
    split = next((index for index in others if titled and titles[index] in SPLIT_COLUMNS), None)
    label, sure = (chosen[1], True) if chosen else _label_column(titles if titled else [], len(titles), {image, split})
    return LabelTable(
        path=path,
        header=[title.strip() for title in rows[0]] if titled else [str(n) for n in range(1, len(titles) + 1)],
        titled=titled,
        rows=rows[1:] if titled else rows,
        image=image,
        label=label,
        one_hot=_class_columns(rows, titles, {image, split}) if titled and label is None else (),
        sure=sure,
        split=split,
        folder=folder,
        split_of_file=split_of_file,
    )


def no_such_columns(tables: dict[str, Rows], columns: tuple[str, str]) -> DataError:
    """The error for --columns that no file has."""
    has = "; ".join(f"{path} has {', '.join(rows[0])}" for path, rows in sorted(tables.items()) if rows)
    return DataError(
        f"no CSV file has columns named {columns[0]} and {columns[1]} ({has})",
        remedy="pass --columns IMAGE,LABEL with two of these titles, or numbers from 1",
    )


def no_images_named(tables: dict[str, Rows]) -> DataError:
    """The error for CSV files that name no images, beside images that have no other label."""
    header = listed(", ".join(rows[0]) for rows in tables.values() if rows)
    return DataError(
        f"no column of {listed(tables)} names the images ({header})",
        remedy=f"let one column hold the images' file names, and another one called `label` their classes; or "
        f"{COLUMNS_REMEDY}",
    )


def _chosen(titles: list[str], columns: tuple[str, str]) -> tuple[int, int] | None:
    """The indices of the columns that a user named by title or number."""
    found = []
    for column in columns:
        wanted = column.strip().lower()
        if wanted in titles:
            found.append(titles.index(wanted))
        elif wanted.isascii() and wanted.isdecimal() and 1 <= int(wanted) <= len(titles):
            found.append(int(wanted) - 1)
    return (found[0], found[1]) if len(found) == 2 and found[0] != found[1] else None


def _image_column(
    rows: Rows, titles: list[str], names: ImageNames, split: Split | None, folder: tuple[str, ...]
) -> int | None:
    """The column whose values are names of images in at least half of the rows; of several, that with most images.

    Numbers of rows, as pandas writes them, may be names of images too. So values with the suffix of an image come
    first, and columns without a title of their own last.

    A file may name many images that are not there: where no column of the first rows does, one that names at least half
    of the images does.
    """
    hits, images = _images_named(rows[: 1 + SAMPLED_ROWS], len(titles), names, split, folder)
    least = max(1, (min(len(rows), 1 + SAMPLED_ROWS) - 1) / 2)  # the first row may be a header
    candidates = [column for column in range(len(titles)) if hits[column] >= least]
    if not candidates:
        _, images = _images_named(rows, len(titles), names, split, folder)
        candidates = [column for column, named in images.items() if 2 * len(named) >= len(names)]
    sample, most = rows[1 : 1 + SAMPLED_ROWS], max((len(images[column]) for column in candidates), default=0)

    def rank(column: int) -> tuple[bool, bool, bool, bool, int]:
        with_suffix = sum(is_image(row[column].strip()) for row in sample if column < len(row))
        numbered = not titles[column] or _ROW_NUMBERS.fullmatch(titles[column]) is not None
        many = 2 * len(images[column]) >= most
        return (
            titles[column] not in LABEL_COLUMNS,
            2 * with_suffix > len(sample),
            many,
            not numbered,
            len(images[column]),
        )

    return max(candidates, key=rank, default=None)


def _images_named(
    rows: Rows, columns: int, names: ImageNames, split: Split | None, folder: tuple[str, ...]
) -> tuple[Counter[int], dict[int, set[str]]]:
    """By column, in how many rows it names images, and which."""
    hits: Counter[int] = Counter()
    images: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        for column, value in enumerate(row[:columns]):
            if meant := names.meant(value, split, folder):
                hits[column] += 1
                images[column].update(meant)
    return hits, images


def _label_column(titles: list[str], columns: int, others: set[int | None]) -> tuple[int | None, bool]:
    """The column of the labels, and whether its title says so: one of a usual title, or the only one that is left.

    A column without a title, as pandas writes its row numbers, is none.
    """
    left = [index for index in range(columns) if index not in others and (not titles or titles[index])]
    named = [index for wanted in LABEL_COLUMNS for index in left if titles and titles[index] == wanted]
    if named:
        return named[0], True
    return (left[0] if len(left) == 1 else None), False


def _class_columns(rows: Rows, titles: list[str], others: set[int | None]) -> tuple[int, ...]:
    """The columns of the classes, if all other values are 0 and 1 and most rows have one 1, as Roboflow writes them."""
    columns = tuple(column for column, title in enumerate(titles) if title and column not in others)
    values = [[row[column].strip() for column in columns if column < len(row)] for row in rows[1:]]
    if any(len(row) < len(columns) or not set(row) <= {*_ONE, *_ZERO} for row in values):
        return ()
    single = sum(sum(value in _ONE for value in row) == 1 for row in values)
    return columns if 2 * single > len(values) else ()
