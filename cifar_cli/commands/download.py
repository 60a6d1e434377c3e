"""`cifar download`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_cli.options import DataDirOpt, DatasetOpt, DebugOpt, JsonOpt

if TYPE_CHECKING:
    from cifar_cli.core.data.config import DataConfig


def download(
    dataset: DatasetOpt = "cifar10",
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="URL|PATH",
            help="A folder or tar archive of images, an official archive or its extracted folder, or the URL of "
            "one more mirror; several URLs are tried side by side.",
        ),
    ] = None,
    data_dir: DataDirOpt = Path("data"),
    img_size: Annotated[
        int | None,
        typer.Option(
            "--img-size", metavar="PIXELS", help="Side of the stored images.", show_default="the size most images have"
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out and count them.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Verify what is on disk; exit 1 if it is not whole.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch or import again what is already there.")] = False,
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Fetch a dataset, import your own images, or check what is on disk."""
    from cifar_cli.core.data.config import DataConfig, ImportConfig
    from cifar_cli.core.data.dataset import import_dataset
    from cifar_cli.render import console, data_tables
    from cifar_cli.render.progress import progress_shown

    data = DataConfig(dataset=dataset, data_dir=data_dir)
    if check:
        _check(data, as_json=as_json)
        return
    config = ImportConfig(data=data, sources=tuple(source or ()), img_size=img_size, skip_bad=skip_bad, force=force)
    with progress_shown() as on_progress:
        result = import_dataset(config, on_progress=on_progress)
    if as_json:
        console.print_json(result.to_dict())
        return
    console.show(data_tables.downloaded(result))
    for remark in data_tables.remarks(result):
        console.warn(remark)
    if result.already_there:
        console.note("already there; --force fetches or imports it again, --check reads it to the last byte")


def _check(data: DataConfig, *, as_json: bool) -> None:
    """Verify a dataset; exit 1 unless it is whole."""
    from cifar_cli.core.data.dataset import check_dataset
    from cifar_cli.errors import DataError
    from cifar_cli.render import console, data_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = check_dataset(data, on_progress=on_progress)
    if as_json:
        console.print_json(result.to_dict())
    else:
        console.show(data_tables.checked(result))
    if not result.whole:
        raise DataError(
            f"{result.dataset.path} is not whole: {'; '.join(result.problems)}",
            remedy=f"fetch or import it again: `{result.dataset.command_again}`",
        )
