"""Imports the folder or archive that a command names as its dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.errors import shell_line

if TYPE_CHECKING:
    from cifar_cli.core.data.config import DataConfig


def import_on_first_use(source: Path, data: DataConfig) -> None:
    """Import a folder or archive unless that was done before, and say where the dataset is.

    Raises what `import_dataset` raises.
    """
    from cifar_cli.core.data.config import ImportConfig
    from cifar_cli.core.data.dataset import import_dataset
    from cifar_cli.render import console, data_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = import_dataset(ImportConfig(data=data, sources=(str(source),)), on_progress=on_progress)
    found = result.dataset
    if result.already_there:
        console.note(f"{source} was imported before, as the dataset {found.name} in {found.path}")
        return
    for remark in data_tables.remarks(result):
        console.warn(remark)
    console.note(
        f"imported {found.train_images:,} training and {found.test_images:,} test images from {source} as the dataset "
        f"{found.name}, into {found.path}"
    )


def say_if_changed(data: DataConfig) -> None:
    """Say how to import a dataset again whose folder or archive has changed since."""
    from cifar_cli.core.data.first_use import has_changed, imported_from
    from cifar_cli.render import console

    source = imported_from(data)
    if source is not None and data.store_path.is_file() and has_changed(source, data):
        again = shell_line("cifar download --dataset", data.dataset, "--data-dir", data.data_dir, "--from", source)
        console.warn(
            f"{source} has changed since {data.dataset} was imported from it, and the imported images are used: "
            f"`{again} --force` imports them again"
        )
