"""Datasets by name: open, download or import, check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import SPLITS, DataConfig, ImportConfig
from cifar_cli.core.data.results import ClassCount, DatasetCheck, DownloadResult
from cifar_cli.core.data.sources.mirrors import ARCHIVES, Archive
from cifar_cli.core.data.sources.obtain import obtain, require_source, unknown
from cifar_cli.core.data.store import (
    Store,
    content_problems,
    open_store,
    read_header,
    read_labels,
    write_store,
)  # fmt: skip
from cifar_cli.core.data.store_check import content_damage
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import DataError, ResourceError

if TYPE_CHECKING:
    from cifar_cli.core.data.sources.http_stream import Transport


def open_dataset(
    config: DataConfig,
    *,
    on_progress: OnProgress = silent,
    fetch: bool = True,
    archives: dict[str, Archive] = ARCHIVES,
) -> Store:
    """Open a dataset; if it is missing, first download (cifar10, cifar100) or draw (shapes) it.

    fetch: False opens existing datasets only. archives: the official archives by dataset.
    Raises DataError when there is none and it can't be obtained, ResourceError when it can't be written.
    """
    path = config.store_path
    if not path.exists() and path != Path(config.dataset):
        if not fetch:
            raise unknown(config)
        import_dataset(ImportConfig(data=config), archives=archives, on_progress=on_progress)
    return open_store(path)


def import_dataset(
    config: ImportConfig,
    *,
    on_progress: OnProgress = silent,
    transport: Transport | None = None,
    archives: dict[str, Archive] = ARCHIVES,
) -> DownloadResult:
    """Download, draw or import a dataset into its store, unless an intact one exists.

    transport: timeouts and thresholds of the download. archives: the official archives by dataset.
    Raises DataError when the source is missing or invalid, ResourceError when the store can't be written.
    """
    path = config.data.store_path
    if path == Path(config.data.dataset):
        raise DataError(f"--dataset {path} is a store file, not a name to import under", remedy="pass --dataset NAME")
    if found := _existing(config):
        return found
    require_source(config, archives)  # before the folder is created
    with _locked(config.data, on_progress):
        if found := _existing(config):  # another process has imported it in the meantime
            return found
        images = obtain(config, archives, transport, on_progress)
        return DownloadResult(dataset=write_store(path, name=config.data.dataset, images=images), already_there=False)


def check_dataset(
    config: DataConfig, *, archives: dict[str, Archive] = ARCHIVES, on_progress: OnProgress = silent
) -> DatasetCheck:
    """Read a complete dataset, and the downloaded archive beside it if it is still there, and verify checksums.

    Raises DataError when there is no dataset, or its header can't be read.
    """
    import numpy as np

    from cifar_cli.core.data.sources.archive import checksum_of

    header = read_header(config.store_path)
    summary = header.summary
    problems = content_problems(header)
    if not problems or not summary.encoded:  # misplaced files can't be read
        problems = content_damage(header, on_progress) + problems
    last = len(summary.classes) - 1
    counts = {}
    for split in SPLITS:
        labels = read_labels(header, split)
        counts[split] = np.bincount(labels.clip(0, last), minlength=last + 1).tolist()
    archive = None
    official = archives.get(summary.name)
    if official and (config.data_dir / official.filename).is_file():
        archive = config.data_dir / official.filename
        md5 = checksum_of(archive, "md5", on_progress)
        if md5 != f"md5:{official.md5}":
            problems.append(f"{archive} hashes to {md5}, expected md5:{official.md5}")
    per_class = tuple(
        ClassCount(name=name, train_images=train, test_images=test)
        for name, train, test in zip(summary.classes, counts["train"], counts["test"], strict=True)
    )
    return DatasetCheck(dataset=summary, per_class=per_class, archive=archive, problems=tuple(problems))


def _existing(config: ImportConfig) -> DownloadResult | None:
    """The existing dataset, if the header and the length of its store are valid, unless an import is forced.

    Reads no pixels, so that the answer is immediate.
    """
    if config.force:
        return None
    try:
        return DownloadResult(dataset=read_header(config.data.store_path).summary, already_there=True)
    except DataError:
        return None


@contextmanager
def _locked(config: DataConfig, on_progress: OnProgress) -> Iterator[None]:
    """Let one process at a time import a dataset. The lock ends with its process; the empty file remains."""
    import filelock

    folder = config.data_dir
    lock = filelock.FileLock(folder / f".{config.dataset}.lock")
    problem = "can't be created"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        problem = "can't be written to"
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            on_progress(Progress(task=f"wait for another cifar to finish with {config.dataset}"))
            lock.acquire()
    except OSError as error:
        reason = "is a file, not a folder" if folder.is_file() else f"{problem} ({error.strerror})"
        raise ResourceError(
            f"--data-dir {folder} {reason}", remedy="pass --data-dir for a folder you may write to"
        ) from error
    try:
        yield
    finally:
        lock.release()
