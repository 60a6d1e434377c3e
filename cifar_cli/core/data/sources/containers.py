"""Files that hold a dataset in a form of their own, told apart by their content."""

from __future__ import annotations

from pathlib import Path

from cifar_cli.core.data.sources.archive import first_folder
from cifar_cli.core.data.sources.images import SourceImages, SourceStream
from cifar_cli.core.data.sources.kinds import is_image
from cifar_cli.core.data.sources.reading import ImportChoices
from cifar_cli.core.data.sources.zip_archive import is_zip, open_zip
from cifar_cli.errors import DataError


def refuse_single_image(path: Path) -> None:
    """Raise DataError for the path of an image, by its suffix."""
    if not path.is_dir() and is_image(path.name):
        raise DataError(
            f"{path} is a single image, not a dataset",
            remedy="pass a folder of images; `cifar predict` classifies single ones",
        )


def from_container(path: Path, choices: ImportChoices) -> SourceImages | SourceStream | None:
    """Read a parquet file or a folder of them, a .npz file, or CIFAR's binary version; None for anything else.

    Raises DataError for one that can't be read.
    """
    from cifar_cli.core.data.sources.parquet import import_parquet, parquet_files

    if parquet_files(path):
        return import_parquet(path, choices)
    if is_zip(path):
        return _from_arrays(path, choices)
    from cifar_cli.core.data.sources.cifar_binary import binary_version, import_binary

    found = binary_version(path, "" if path.is_dir() else first_folder(path))
    return None if found is None else import_binary(*found, choices)


def _from_arrays(path: Path, choices: ImportChoices) -> SourceStream | None:
    from cifar_cli.core.data.sources.npz import import_npz

    with open_zip(path) as members:
        files = [name for name in members.sizes if not name.endswith("/")]
        holds_arrays = bool(files) and all(name.endswith(".npy") for name in files)
    return import_npz(path, choices) if holds_arrays else None
