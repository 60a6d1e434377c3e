"""Choose the source of a dataset: drawn shapes, a path, or an archive from the network."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.core.data.config import BUILT_IN, DATASET_NAME, STORE_SUFFIX, DataConfig, ImportConfig
from cifar_cli.core.data.sources.mirrors import Archive
from cifar_cli.core.data.sources.own import call_own, own_source
from cifar_cli.core.progress import OnProgress
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import DataError, shell_line

if TYPE_CHECKING:
    from cifar_cli.core.data.sources.http_stream import Transport
    from cifar_cli.core.data.sources.images import SourceImages, SourceStream

SHAPES = "shapes"


def require_source(config: ImportConfig, archives: dict[str, Archive]) -> None:
    """Raise DataError if the config names no source, or a path that does not exist. Reads and writes nothing."""
    name = config.data.dataset
    if name == SHAPES:
        if config.sources:
            raise DataError(f"{SHAPES} is drawn by cifar, not imported", remedy="pass another --dataset NAME")
    elif own_source(config):
        return
    elif config.paths:
        if not config.paths[0].exists():
            raise DataError(
                f"--from {config.paths[0]} does not exist",
                remedy="check the spelling; pass a folder, an archive or a URL",
            )
    elif name not in archives and not config.urls:
        if config.data.store_path.exists():
            raise DataError(
                f"{config.data.store_path} can only be imported again from its source",
                remedy=f"`cifar download --dataset {name} --from PATH --force`",
            )
        raise unknown(config.data)


def obtain(
    config: ImportConfig, archives: dict[str, Archive], transport: Transport | None, on_progress: OnProgress
) -> SourceImages | SourceStream:
    """Get the images of a dataset from the source that the config names; `require_source` has accepted it."""
    name, folder = config.data.dataset, config.data.data_dir
    if (not config.paths and not config.urls) or own_source(config):
        _require_no_choices(config)
    if name == SHAPES:
        from cifar_cli.core.data.sources.shapes import draw_shapes

        return draw_shapes(on_progress=on_progress)
    if own := own_source(config):
        return call_own(own)
    if config.paths:
        path = config.paths[0]
        return _from_path(config, path, str(from_root(path)), archives, on_progress)
    from cifar_cli.core.data.sources.cifar_pickle import import_archive
    from cifar_cli.core.data.sources.download import fetch_archive, fetch_images_archive
    from cifar_cli.core.data.sources.http_stream import Transport

    transport = transport or Transport()
    if name in archives:
        archive = archives[name]
        fetched = fetch_archive(
            archive, folder, extra_mirrors=config.urls, transport=transport, on_progress=on_progress
        )
        return import_archive(fetched.path, archive, source=fetched.url, on_progress=on_progress)
    fetched = fetch_images_archive(config.urls, folder, name=name, transport=transport, on_progress=on_progress)
    return _from_path(config, fetched.path, fetched.url, archives, on_progress)


def _from_path(
    config: ImportConfig, path: Path, source: str, archives: dict[str, Archive], on_progress: OnProgress
) -> SourceImages | SourceStream:
    """Import a folder or archive: an official one if it has the names of one, otherwise images."""
    from cifar_cli.core.data.sources.archive import checksum_of
    from cifar_cli.core.data.sources.cifar_pickle import import_archive, import_folder
    from cifar_cli.core.data.sources.containers import from_container, refuse_single_image
    from cifar_cli.core.data.sources.folder import import_images
    from cifar_cli.core.data.sources.layout import Shares
    from cifar_cli.core.data.sources.reading import ImportChoices

    refuse_single_image(path)
    own = archives.get(config.data.dataset)
    choices = ImportChoices(
        source=source,
        img_size=config.img_size,
        skip_bad=config.skip_bad,
        expected_classes=own.classes if own else None,
        shares=Shares(test=config.test_share, val=config.val_share, seed=config.seed),
        columns=config.columns,
        without=config.data.data_dir.absolute(),
        on_progress=on_progress,
    )
    if (found := from_container(path, choices)) is not None:
        return found
    if official := _official(path, archives):
        archive, place = official
        if config.data.dataset != archive.dataset:
            raise DataError(
                f"{path} is {archive.dataset}'s official archive, not {config.data.dataset}",
                remedy=f"`{shell_line(f'cifar download --dataset {archive.dataset} --from', path)}`",
            )
        _require_no_choices(config)
        if place.is_dir():
            return import_folder(place, archive, source=source, on_progress=on_progress)
        md5 = checksum_of(path, "md5", on_progress)
        if md5 != f"md5:{archive.md5}":
            raise DataError(
                f"{path} is not the official archive: its checksum is {md5}, expected md5:{archive.md5}",
                remedy=f"download it again with `cifar download --dataset {archive.dataset}`",
            )
        return import_archive(path, archive, source=source, on_progress=on_progress)
    return import_images(path, choices)


def _require_no_choices(config: ImportConfig) -> None:
    """Raise DataError for shares, a seed, columns or a size of a source that has its splits, labels and pixels."""
    if (config.test_share, config.val_share, config.seed) != (None, None, None):
        raise DataError(
            f"{config.data.dataset} has a training and a test split of its own",
            remedy="leave out --test-share, --val-share and --seed",
        )
    if config.columns is not None:
        raise DataError(
            f"{config.data.dataset} has no CSV or parquet file whose columns --columns could name",
            remedy="leave out --columns",
        )
    if config.img_size not in (None, 32) or (config.img_size and own_source(config)):
        raise DataError(
            f"{config.data.dataset}'s images are stored in the size that they have",
            remedy="leave out --img-size here and pass it to `cifar train`",
        )


def _official(path: Path, archives: dict[str, Archive]) -> tuple[Archive, Path] | None:
    """The official archive at `path`, or extracted there or directly below it, and its place."""
    from cifar_cli.core.data.sources.archive import first_folder
    from cifar_cli.core.data.sources.zip_archive import is_zip

    top = None if path.is_dir() or is_zip(path) else first_folder(path)
    for archive in archives.values():
        if top == archive.folder:
            return archive, path
        for folder in (path, path / archive.folder):
            if all((folder / name).is_file() for name in archive.meta) and not (folder / "train").is_dir():
                return archive, folder
    return None


def from_root(path: Path) -> Path:
    """The absolute path, without `..`, so that the same source is recognised from any folder."""
    return path.resolve() if ".." in path.parts else path.absolute()


def name_for(path: Path | str) -> str:
    """The name under which a folder or an archive is imported by default: its own, in letters that a name may have.

    `My pets.tar.gz` is `My-pets`. Raises DataError for a path whose name has no such letter.
    """
    name = re.sub(r"(\.(tar|tgz|zip|npz|parquet|gz|bz2|xz))+$", "", Path(path).resolve().name, flags=re.IGNORECASE)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")
    if not DATASET_NAME.fullmatch(plain):
        raise DataError(f"{path} has no name that a dataset can have", remedy="pass --dataset NAME")
    return f"{plain}-folder" if re.sub(r"[_-]", "", plain).lower() in BUILT_IN else plain


def datasets_in(data_dir: Path) -> list[str]:
    """Names of the datasets that have a store in a folder."""
    return sorted(path.name.removesuffix(STORE_SUFFIX) for path in data_dir.glob(f"[!.]*{STORE_SUFFIX}"))


def unknown(config: DataConfig) -> DataError:
    """The error for a dataset that does not exist; its remedy names similar datasets and how to get this one."""
    known = {*BUILT_IN, *datasets_in(config.data_dir)}
    if config.dataset in known:
        return DataError(
            f"there is no {config.dataset} in {config.data_dir}",
            remedy=f"download it with `cifar download --dataset {config.dataset}`",
        )
    return DataError(
        f"there is no dataset named {config.dataset!r} in {config.data_dir}",
        remedy=f"`cifar download --dataset {config.dataset} --from PATH` to import images under this name; otherwise "
        f"{nearest(config.dataset, known)}",
    )
