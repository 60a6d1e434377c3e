"""Reads all of a store and says what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice

from cifar_cli.core.data.config import SPLITS
from cifar_cli.core.data.store import FORCE_REMEDY, StoreHeader, names_of, part_of, read_integers, read_labels
from cifar_cli.core.data.store_schema import FILES, FORMAT_WITH_NAMES
from cifar_cli.core.data.store_writer import RowsHash
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import DataError

MAX_NAMED = 20  # damaged images that a check names
CHECKED_AT_ONCE = 500  # images, between two reports of progress


def content_damage(header: StoreHeader, on_progress: OnProgress = silent) -> list[str]:
    """What is wrong with images, labels or names, a sentence each. Reads all of them."""
    try:
        actual = checksum_of_content(header, on_progress)
        bad = list(islice(damaged_pictures(header, on_progress), MAX_NAMED + 1))
    except DataError as error:
        return [error.what]
    problems = bad[:MAX_NAMED] + (["more images can't be decoded"] if len(bad) > MAX_NAMED else [])
    if actual != header.summary.content:
        problems.insert(0, f"images and labels hash to {actual}, expected {header.summary.content}")
    return problems


def checksum_of_content(header: StoreHeader, on_progress: OnProgress = silent) -> str:
    """Hash all images and labels of a store on disk: "sha256:…". Raises DataError when it can't be read."""
    from cifar_cli.core.data.sources.archive import checksum_of

    if header.layout.metadata.format == FORMAT_WITH_NAMES:
        return _checksum_of_rows(header, on_progress)
    first = min(start for start, _ in header.offsets.values())
    return checksum_of(header.summary.path, "sha256", on_progress, start=first)


def _checksum_of_rows(header: StoreHeader, on_progress: OnProgress) -> str:
    summary, hashed, done = header.summary, RowsHash(), 0
    total = summary.train_images + summary.test_images
    try:
        with summary.path.open("rb") as file:
            for split in SPLITS:
                names, labels = names_of(header, split), read_labels(header, split).tolist()
                assert names is not None
                places = zip(*_places(header, split), strict=True)
                given_val_from = len(labels) - (summary.val_images if split == "train" else 0)
                for row, (name, label, (start, length)) in enumerate(zip(names, labels, places, strict=True)):
                    file.seek(start)
                    digest = hashlib.sha256(file.read(length)).digest()
                    as_given = "val" if row >= given_val_from else split
                    hashed.add(split=as_given, label=label, name=name, content_digest=digest)
                    done += 1
                    if done % CHECKED_AT_ONCE == 0:
                        on_progress(Progress(task=f"verify {summary.name}", done=done, total=total, unit="images"))
    except OSError as error:
        raise DataError(f"{summary.path} can't be read ({error.strerror})", remedy=FORCE_REMEDY) from error
    return str(hashed)


def _places(header: StoreHeader, split: str) -> tuple[list[int], list[int]]:
    """Of each image of a split, its first byte in the file, and its bytes."""
    if header.layout.encoded:
        first = header.offsets[FILES][0]
        offsets, lengths = (read_integers(header, f"{split}_{kind}") for kind in ("offsets", "lengths"))
        return (first + offsets).tolist(), lengths.tolist()
    start, end = header.offsets[f"{split}_images"]
    size = 3 * header.summary.img_size**2
    return list(range(start, end, size)), [size] * ((end - start) // size)


def damaged_pictures(header: StoreHeader, on_progress: OnProgress = silent) -> Iterator[str]:
    """Decode every image of an encoded store, and say which can't be decoded completely, a sentence each."""
    for split in SPLITS if header.layout.encoded else ():
        pictures, names = part_of(header, split).pictures, names_of(header, split)
        assert pictures is not None
        assert names is not None
        for row, name in enumerate(names):
            if problem := pictures.problem(row):
                yield f"{name} can't be decoded ({problem})"
            if row % CHECKED_AT_ONCE == 0:
                on_progress(Progress(task=f"decode {split}", done=row, total=len(names), unit="images"))
