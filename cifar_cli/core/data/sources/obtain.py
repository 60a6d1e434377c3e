"""Where a dataset's images come from: drawn, from a path, or over the network."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli import __version__
from cifar_cli.core.data.config import STORE_SUFFIX, DataConfig, ImportConfig, Provenance
from cifar_cli.core.data.sources.mirrors import ARCHIVES, Archive
from cifar_cli.core.progress import OnProgress
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import DataError

if TYPE_CHECKING:
    from cifar_cli.core.data.sources.http_stream import Transport
    from cifar_cli.core.data.sources.imported import ImportedImages

SHAPES = "shapes"
DRAWN = "drawn by cifar"


def obtain(
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
        raise unknown(config.data)
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


def datasets_in(data_dir: Path) -> list[str]:
    """Names of the datasets that were imported into a folder."""
    return sorted(path.name.removesuffix(STORE_SUFFIX) for path in data_dir.glob(f"[!.]*{STORE_SUFFIX}"))


def unknown(config: DataConfig) -> DataError:
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
