"""Datasets by name: open one, fetch or import one, check one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli import __version__
from cifar_cli.core.data.config import STORE_SUFFIX, DataConfig, ImportConfig, Provenance
from cifar_cli.core.data.results import ClassCount, DatasetCheck, DownloadResult
from cifar_cli.core.data.sources.mirrors import ARCHIVES, Archive
from cifar_cli.core.data.store_file import SIDES, checksum_of_content, read_header, read_labels
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import DataError, ResourceError

if TYPE_CHECKING:
    from cifar_cli.core.data.sources.http_stream import Transport
    from cifar_cli.core.data.sources.imported import ImportedImages
    from cifar_cli.core.data.store import Store

SHAPES = "shapes"
DRAWN = "drawn by cifar"


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
            raise _unknown(config)
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
        images, provenance = _obtain(config, archives, transport, on_progress)
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


def datasets_in(data_dir: Path) -> list[str]:
    """Names of the datasets that were imported into a folder."""
    return sorted(path.name.removesuffix(STORE_SUFFIX) for path in data_dir.glob(f"[!.]*{STORE_SUFFIX}"))


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


def _obtain(
    config: ImportConfig, archives: dict[str, Archive], transport: Transport | None, on_progress: OnProgress
) -> tuple[ImportedImages, Provenance]:
    """Get the images of a dataset from wherever the config says."""
    name = config.data.dataset
    if name == SHAPES:
        if config.sources:
            raise DataError(f"{SHAPES} is drawn by cifar, not imported", remedy="pass another --dataset NAME")
        return _draw(on_progress)
    if config.paths:
        return _from_path(config, config.paths[0], str(config.paths[0]), archives, on_progress)
    if name in archives:
        return _from_mirrors(config, archives[name], transport, on_progress)
    if not config.urls:
        if config.data.store_path.exists():
            raise DataError(
                f"{config.data.store_path} can only be imported again from its source",
                remedy=f"`cifar download --dataset {name} --from PATH --force`",
            )
        raise _unknown(config.data)
    from cifar_cli.core.data.sources.download import fetch_images_archive

    fetched = fetch_images_archive(
        config.urls, config.data.data_dir, name=name, transport=transport, on_progress=on_progress
    )
    return _from_path(config, fetched.path, fetched.url, archives, on_progress)


def _from_path(
    config: ImportConfig, path: Path, source: str, archives: dict[str, Archive], on_progress: OnProgress
) -> tuple[ImportedImages, Provenance]:
    """Import a folder or archive: an official one if it looks like one, else images."""
    from cifar_cli.core.data.sources.archive import checksum_of, first_folder
    from cifar_cli.core.data.sources.cifar_pickle import import_archive, import_folder
    from cifar_cli.core.data.sources.folder import import_images

    if not path.exists():
        raise DataError(
            f"--from {path} does not exist", remedy="check the spelling; it is a folder, an archive or a URL"
        )
    official = _batches_folder(path, archives) if path.is_dir() else None
    if official:
        folder, archive = official
        _require_own(config, archive, path)
        return import_folder(folder, archive, on_progress), _provenance(source, "")
    by_folder = {archive.folder: archive for archive in archives.values()}
    archive_of_path = None if path.is_dir() else by_folder.get(first_folder(path))
    if archive_of_path:
        _require_own(config, archive_of_path, path)
        md5 = checksum_of(path, "md5", on_progress)
        if md5 != f"md5:{archive_of_path.md5}":
            raise DataError(
                f"{path} is not the official archive: its checksum is {md5}, expected md5:{archive_of_path.md5}",
                remedy=f"fetch it again with `cifar download --dataset {archive_of_path.dataset}`",
            )
        return import_archive(path, archive_of_path, on_progress), _provenance(source, md5)
    own = archives.get(config.data.dataset)
    images = import_images(
        path,
        img_size=config.img_size,
        skip_bad=config.skip_bad,
        expected_classes=own.classes if own else None,
        on_progress=on_progress,
    )
    checksum = "" if path.is_dir() else checksum_of(path, "sha256", on_progress)
    return images, _provenance(source, checksum)


def _from_mirrors(
    config: ImportConfig, archive: Archive, transport: Transport | None, on_progress: OnProgress
) -> tuple[ImportedImages, Provenance]:
    from cifar_cli.core.data.sources.cifar_pickle import import_archive
    from cifar_cli.core.data.sources.download import fetch_archive

    fetched = fetch_archive(
        archive, config.data.data_dir, extra_mirrors=config.urls, transport=transport, on_progress=on_progress
    )
    images = import_archive(fetched.path, archive, on_progress)
    return images, _provenance(fetched.url, f"md5:{archive.md5}")


def _draw(on_progress: OnProgress) -> tuple[ImportedImages, Provenance]:
    from cifar_cli.core.data.sources.imported import ImportedImages
    from cifar_cli.core.data.sources.shapes import SHAPE_CLASSES, draw_shapes

    train, test = draw_shapes(on_progress=on_progress)
    images = ImportedImages(
        classes=SHAPE_CLASSES,
        train_images=train.images_NHWC.numpy(),
        train_labels=train.labels_N.numpy(),
        test_images=test.images_NHWC.numpy(),
        test_labels=test.labels_N.numpy(),
    )
    return images, replace(_provenance(DRAWN, ""), synthetic=True)


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


def _provenance(source: str, checksum: str) -> Provenance:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Provenance(source=source, checksum=checksum, imported_at=now, tool_version=__version__)


def _batches_folder(path: Path, archives: dict[str, Archive]) -> tuple[Path, Archive] | None:
    """The extracted official archive that a folder is, or holds."""
    for archive in archives.values():
        for folder in (path, path / archive.folder):
            if all((folder / name).is_file() for name in archive.meta) and not (folder / "train").is_dir():
                return folder, archive
    return None


def _require_own(config: ImportConfig, archive: Archive, path: Path) -> None:
    if config.data.dataset != archive.dataset:
        raise DataError(
            f"{path} is {archive.dataset}'s official archive, not {config.data.dataset}",
            remedy=f"`cifar download --dataset {archive.dataset} --from {path}`",
        )
    if config.img_size not in (None, 32):
        raise DataError(
            f"{archive.dataset}'s official images have 32×32 pixels and are stored as they are",
            remedy="leave --img-size out here and pass it to `cifar train`",
        )


def _unknown(config: DataConfig) -> DataError:
    """There is no such dataset: say what is, and how to get one."""
    here = datasets_in(config.data_dir)
    known = {*ARCHIVES, SHAPES, *here}
    if config.dataset in known:
        return DataError(
            f"there is no {config.dataset} in {config.data_dir}",
            remedy=f"fetch it with `cifar download --dataset {config.dataset}`",
        )
    return DataError(
        f"there is no dataset named {config.dataset!r} in {config.data_dir}",
        remedy=f"`cifar download --dataset {config.dataset} --from PATH` to import images under this name; otherwise "
        f"{nearest(config.dataset, known)}",
    )
