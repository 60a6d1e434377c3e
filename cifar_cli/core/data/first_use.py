"""A folder or archive of images that is named as a dataset: the name it gets, and whether it has changed since."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from cifar_cli.core.data.config import BUILT_IN, DATASET_NAME, STORE_SUFFIX, DataConfig
from cifar_cli.core.data.sources.entries import is_run
from cifar_cli.core.data.sources.obtain import from_root, name_for
from cifar_cli.core.data.store import read_header
from cifar_cli.errors import DataError
from cifar_cli.printable import printable

UNNAMED = "images"
MAX_LOOKED_AT = 100_000  # files and folders, so that a start never waits for the rest of a large source
DIGITS = 6  # of a path's hash, where its name belongs to another source


def source_of(dataset: str, data_dir: Path) -> Path | None:
    """The folder or archive that `dataset` means, absolute; None for the name or the store file of a dataset.

    A name is a dataset if it is built in or in `data_dir`, even where a folder beside it has that name too.
    """
    if dataset.endswith(STORE_SUFFIX) or not Path(dataset).exists():
        return None
    if DATASET_NAME.fullmatch(dataset) and (
        DataConfig(dataset=dataset).dataset in BUILT_IN or _source(DataConfig(dataset=dataset, data_dir=data_dir))
    ):
        return None
    return from_root(Path(dataset))


def dataset_of(source: Path, data_dir: Path) -> DataConfig:
    """The dataset that a folder or archive is imported as: named after it, with a hash where that name is taken."""
    try:
        name = name_for(source)
    except DataError:  # no letter of its name may be in a dataset's
        name = UNNAMED
    data = DataConfig(dataset=name, data_dir=data_dir)
    known = _source(data)
    if known is not None and known not in (printable(str(source)), printable(str(source.resolve()))):
        digits = hashlib.sha256(str(source).encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS]
        data = DataConfig(dataset=f"{name}-{digits}", data_dir=data_dir)
    return data


def has_changed(source: Path, data: DataConfig) -> bool:
    """Whether something in the source, of its first MAX_LOOKED_AT files and folders, is newer than its dataset."""
    imported = data.store_path.stat().st_mtime_ns
    return any(changed > imported for changed in islice(_times(source, data.data_dir.absolute()), MAX_LOOKED_AT))


def imported_from(data: DataConfig) -> Path | None:
    """The folder or archive on this machine that a dataset was imported from; None where there is none."""
    path = Path(_source(data) or "")
    return path if path.is_absolute() and path.exists() else None


def _holds_runs(folder: Path) -> bool:
    with suppress(OSError):
        return is_run(folder) or any(is_run(each) for each in folder.iterdir())
    return False


def _source(data: DataConfig) -> str | None:
    try:
        return read_header(data.store_path).summary.provenance.source
    except DataError:
        return None


def _times(source: Path, data_dir: Path) -> Iterator[int]:
    """When the source and everything in it was changed last; a file that was removed changes its folder.

    Datasets and runs that are written into the source are no change.
    """
    if not data_dir.is_relative_to(source.absolute()):
        yield source.stat().st_mtime_ns
    for folder, folders, files in os.walk(source):
        here = Path(folder)
        folders[:] = [name for name in folders if here / name != data_dir and not _holds_runs(here / name)]
        for name in (*folders, *files):
            try:
                yield (Path(folder) / name).stat().st_mtime_ns
            except OSError:
                continue  # a link to nothing, or gone in the meantime
