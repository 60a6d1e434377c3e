"""Datasets by name: open, download or import, check."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import BUILT_IN, SPLITS, STORE_SUFFIX, DataConfig, ImportConfig
from cifar_cli.core.data.results import ClassCount, DatasetCheck, DatasetSummary, DownloadResult, LeftOut
from cifar_cli.core.data.sources.images import SourceStream
from cifar_cli.core.data.sources.mirrors import ARCHIVES, Archive, without_secrets
from cifar_cli.core.data.sources.obtain import from_root, obtain, require_source, unknown
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
from cifar_cli.printable import printable

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
        summary = write_store(path, name=config.data.dataset, images=images)
        left_out = images.left_out() if isinstance(images, SourceStream) else ()
        listed = _list_left_out(path, left_out)
        return DownloadResult(dataset=summary, already_there=False, left_out=left_out, left_out_csv=listed)


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

    Reads no pixels, so that the answer is immediate. Raises DataError where something else is asked for than is stored.
    """
    if config.force:
        return None
    try:
        summary = read_header(config.data.store_path).summary
    except DataError:
        return None
    _require_same(config, summary)
    return DownloadResult(dataset=summary, already_there=True)


def _require_same(config: ImportConfig, stored: DatasetSummary) -> None:
    """Raise DataError if the config asks for another size or source than a store has."""
    differs = None
    if config.img_size not in (None, stored.img_size):
        differs = f"is stored with {stored.img_size} pixels a side, not {config.img_size}"
    for path in config.paths:
        source = stored.provenance.source
        same = source in (printable(str(path)), printable(str(from_root(path))))  # it is kept escaped
        if not same and path.resolve() != Path(source).resolve():
            differs = f"was imported from {source}, not from {path}"
    urls = [without_secrets(url) for url in config.urls]  # as a store keeps them
    if urls and stored.name not in BUILT_IN and stored.provenance.source not in urls:
        differs = f"was imported from {stored.provenance.source}, not from {urls[0]}"
    origin = stored.provenance
    for flag, asked, had in (
        ("--test-share", config.test_share, origin.test_share),
        ("--val-share", config.val_share, origin.val_share),
        ("--seed", config.seed, origin.split_seed),
    ):
        if asked not in (None, had):
            shown = asked if flag == "--seed" else f"{asked:.0%}"
            differs = differs or f"has its splits already, which {flag} {shown} would change"
    if config.columns not in (None, origin.columns):
        differs = differs or f"was imported with other columns than {','.join(config.columns or ())}"
    if differs:
        raise DataError(
            f"{stored.path} {differs}",
            remedy="pass --force to import it again, or another --dataset NAME to keep both",
        )


def _list_left_out(store: Path, left_out: tuple[LeftOut, ...]) -> Path | None:
    """Write what an import left out into a CSV file beside its store; without anything, remove an earlier one."""
    path = store.with_name(f"{store.name.removesuffix(STORE_SUFFIX)}.left-out.csv")
    try:
        if not left_out:
            path.unlink(missing_ok=True)
            return None
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "reason"))
            writer.writerows((printable(each.name), printable(each.reason)) for each in left_out)
    except OSError as error:
        raise ResourceError(
            f"{path} can't be written ({error.strerror})", remedy="free some space; the store itself is complete"
        ) from error
    return path


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
