"""Imports the folder or archive that a command names as its dataset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_cli.errors import CifarError, shell_line
from cifar_cli.printable import printable

if TYPE_CHECKING:
    from cifar_cli.core.data.config import DataConfig

_OPTION = re.compile(r"--(?!data)[a-z-]+(?: [A-Z,]+\b| \d+%?)?")
"""An option of an import, with its value: all but --dataset and --data-dir, which every command has."""


def import_on_first_use(source: Path, data: DataConfig) -> None:
    """Import a folder or archive unless that was done before, and say where the dataset is.

    Raises what `import_dataset` raises; a remedy that names an option of `cifar download` has the command with it.
    """
    from cifar_cli.core.data.config import ImportConfig
    from cifar_cli.core.data.dataset import import_dataset
    from cifar_cli.render import console, data_tables
    from cifar_cli.render.progress import progress_shown

    try:
        with progress_shown() as on_progress:
            result = import_dataset(ImportConfig(data=data, sources=(str(source),)), on_progress=on_progress)
    except CifarError as error:
        if options := _options_in(error.remedy or ""):
            error.remedy = printable(f"{error.remedy}: `{_download(source, data)} {' '.join(options)}`")
        raise
    found = result.dataset
    if result.already_there:
        console.note(f"{source} was imported before, as the dataset {found.name} in {found.path}")
        return
    remarks = data_tables.remarks(result)
    for remark in remarks:
        console.warn(remark)
    if named := dict.fromkeys(option for remark in remarks for option in _options_in(remark)):
        console.note(f"to import it otherwise, pass {', '.join(named)} to `{_download(source, data)} --force`")
    console.note(
        f"imported {found.train_images:,} training and {found.test_images:,} test images from {source} as the dataset "
        f"{found.name}, into {found.path}"
    )


def say_if_changed(data: DataConfig) -> None:
    """Say how to import a dataset again whose folder or archive has changed since."""
    from cifar_cli.core.data.first_use import has_changed, imported_from
    from cifar_cli.core.data.store import read_header
    from cifar_cli.render import console

    source = imported_from(data)
    if source is not None and data.store_path.is_file() and has_changed(source, data):
        again = read_header(data.store_path).summary.command_again
        console.warn(
            f"{source} has changed since {data.dataset} was imported from it, and the imported images are used: "
            f"`{again}` imports them again"
        )


def _options_in(text: str) -> list[str]:
    """The options that a text names outside of commands."""
    return _OPTION.findall(" ".join(text.split("`")[::2]))


def _download(source: Path, data: DataConfig) -> str:
    return shell_line("cifar download --dataset", data.dataset, "--data-dir", data.data_dir, "--from", source)
