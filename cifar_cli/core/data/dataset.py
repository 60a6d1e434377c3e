"""Datasets by name: open one, fetch or import one, check one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import DataConfig, ImportConfig, Provenance
from cifar_cli.core.data.results import ClassCount, DatasetCheck, DownloadResult
from cifar_cli.core.data.sources.mirrors import ARCHIVES, Archive
from cifar_cli.core.data.sources.obtain import obtain, unknown
from cifar_cli.core.data.store_file import SIDES, checksum_of_content, read_header, read_labels
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import DataError, ResourceError

if TYPE_CHECKING:
    from cifar_cli.core.data.sources.http_stream import Transport
    from cifar_cli.core.data.sources.imported import ImportedImages
    from cifar_cli.core.data.store import Store


def open_dataset(config: DataConfig, *, on_progress: OnProgress = silent, fetch: bool = True) -> Store:
    """Open a dataset, after fetching (cifar10, cifar100) or drawing (shapes) it when it is missing.

    fetch: False opens only what is there.
    Raises DataError when there is none and it can't be had, ResourceError when it can't be written.
    """
    from cifar_cli.core.data.store import open_store

    path = config.store_path
    if not path.exists():
        if path == Path(config.dataset):
            return open_store(path)  # names the missing file
        if not fetch:
            raise unknown(config)
        import_dataset(ImportConfig(data=config), on_progress=on_progress)
    return open_store(path)


def import_dataset(
    config: ImportConfig,
    *,
    on_progress: OnProgress = silent,
    transport: Transport | None = None,
    archives: dict[str, Archive] = ARCHIVES,
) -> DownloadResult:
    """Fetch, draw or import a dataset into its store, unless a whole one is there.

    transport: timeouts and thresholds of the download. archives: the official archives by dataset.
    Raises DataError when the source is missing or not what it should be, ResourceError when there is no
    place to write to.
    """
    path = config.data.store_path
    if path == Path(config.data.dataset):
        raise DataError(f"--dataset {path} is a store file, not a name to import under", remedy="pass --dataset NAME")
    if not config.force and (found := _whole(path)):
        return found
    with _locked(config.data, on_progress):
        if not config.force and (found := _whole(path)):
            return found  # another process was quicker
        images, provenance = obtain(config, archives, transport, on_progress)
        _write(config.data, images, provenance)
    return DownloadResult(dataset=read_header(path).summary(), already_there=False)


def check_dataset(
    config: DataConfig, *, archives: dict[str, Archive] = ARCHIVES, on_progress: OnProgress = silent
) -> DatasetCheck:
    """Read a dataset to its last byte, and the downloaded archive beside it if there is one.

    Raises DataError when there is none, or its header can't be read.
    """
    import numpy as np

    from cifar_cli.core.data.sources.archive import checksum_of

    header = read_header(config.store_path)
    problems = []
    actual = checksum_of_content(header, on_progress)
    if actual != header.content:
        problems.append(f"images and labels hash to {actual}, expected {header.content}")
    counts = {}
    for side in SIDES:
        labels = read_labels(header, side)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(header.classes):
            problems.append(f"a {side} label lies outside 0..{len(header.classes) - 1}")
        counts[side] = np.bincount(labels.clip(0, len(header.classes) - 1), minlength=len(header.classes))
    official = archives.get(header.name)
    archive = config.data_dir / official.filename if official else None
    if official and archive and archive.is_file():
        md5 = checksum_of(archive, "md5", on_progress)
        if md5 != f"md5:{official.md5}":
            problems.append(f"{archive} hashes to {md5}, expected md5:{official.md5}")
    else:
        archive = None
    per_class = tuple(
        ClassCount(name=name, train_images=int(counts["train"][index]), test_images=int(counts["test"][index]))
        for index, name in enumerate(header.classes)
    )
    return DatasetCheck(dataset=header.summary(), per_class=per_class, archive=archive, problems=tuple(problems))


def _whole(path: Path) -> DownloadResult | None:
    """What is there, when its header and length hold. Reads no pixel: this must be quick."""
    try:
        return DownloadResult(dataset=read_header(path).summary(), already_there=True)
    except DataError:
        return None


@contextmanager
def _locked(config: DataConfig, on_progress: OnProgress) -> Iterator[None]:
    """Let one process at a time fetch a dataset. The lock dies with its process; the empty file stays."""
    import filelock

    folder = config.data_dir
    remedy = "pass --data-dir for a folder you may write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ResourceError(f"--data-dir {folder} is a file, not a folder", remedy=remedy) from error
    except OSError as error:
        raise ResourceError(f"--data-dir {folder} can't be made ({error.strerror})", remedy=remedy) from error
    lock = filelock.FileLock(folder / f".{config.dataset}.lock")
    try:
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            on_progress(Progress(task=f"wait for another cifar to finish with {config.dataset}"))
            lock.acquire()
    except OSError as error:
        raise ResourceError(f"--data-dir {folder} can't be written to ({error.strerror})", remedy=remedy) from error
    try:
        yield
    finally:
        lock.release()


def _write(config: DataConfig, images: ImportedImages, provenance: Provenance) -> None:
    from cifar_cli.core.data.store_file import checksum_of_arrays, write_store_file

    arrays = images.arrays()
    content = checksum_of_arrays(arrays)
    write_store_file(
        config.store_path,
        name=config.dataset,
        classes=images.classes,
        arrays=arrays,
        content=content,
        provenance=replace(
            provenance,
            checksum=provenance.checksum or content,
            resized_images=images.resized_images,
            skipped_images=images.skipped_images,
        ),
    )
