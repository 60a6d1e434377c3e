"""Files that hold a dataset in a form of their own, told apart by their content."""

from __future__ import annotations

from pathlib import Path

from cifar_cli.core.data.sources.archive import first_folder
from cifar_cli.core.data.sources.images import SourceImages, SourceStream
from cifar_cli.core.data.sources.kinds import is_image
from cifar_cli.core.data.sources.tables import ImportChoices
from cifar_cli.core.data.sources.zip_archive import is_zip, open_zip
from cifar_cli.core.regular import open_regular
from cifar_cli.errors import DataError

REFUSED = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x28\xb5\x2f\xfd": "a file packed by zstd",
}
"""The first bytes of files that are not read, and what they are."""


def require_readable(path: Path) -> None:
    """Raise DataError for a file of a kind that is known and not read."""
    if path.is_dir():
        return
    try:
        with open_regular(path) as file:
            first = file.read(8)
    except OSError:
        return  # its reader says why
    for magic, what in REFUSED.items():
        if first.startswith(magic):
            raise DataError(
                f"{path} is {what}, which is not read",
                remedy="extract it and pass the folder, or pack a zip or tar archive",
            )
    if is_image(path.name):
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
