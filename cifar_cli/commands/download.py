"""`cifar download`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from cifar_cli.command import command, option_group
from cifar_cli.options import DataOptions, OutputOptions

if TYPE_CHECKING:
    from cifar_cli.core.data.config import DataConfig


@option_group("Import")
class ImportOptions:
    """The source of the images, and settings of the import."""

    source: Annotated[list[str] | None, Option("--from", metavar="URL|PATH")] = None
    """Import images from here: a folder or tar archive of images, an official archive or its extracted folder, your
    own function as path/to/file.py:function, or the URL of one more mirror. Several URLs are tried side by side.
    """
    img_size: Annotated[int | None, Option(metavar="PIXELS", show_default="the size that most images have")] = None
    """Scale and crop images to squares with this many pixels a side."""
    skip_bad: bool = False
    """Leave out images that can't be read, and count them."""
    force: bool = False
    """Fetch or import the dataset again, even if it is already there."""
    check: bool = False
    """Check every byte of the dataset on disk and fetch nothing. Exit with status 1 if it is damaged or missing."""


@command(
    examples=(
        ("Fetch CIFAR-10 from the fastest of its mirrors.", "cifar download"),
        (
            "Import a folder laid out as train/CLASS/*.png and test/CLASS/*.png.",
            "cifar download --dataset pets --from pets/",
        ),
        ("Verify what is on disk.", "cifar download --check"),
    )
)
def download(data: DataOptions, images: ImportOptions, output: OutputOptions) -> None:
    """Fetch a dataset, import your own images, or check what is on disk."""
    from cifar_cli.core.data.config import ImportConfig

    if images.check:
        _check(data.config(), as_json=output.as_json)
        return
    config = ImportConfig(
        data=data.config(),
        sources=tuple(images.source or ()),
        img_size=images.img_size,
        skip_bad=images.skip_bad,
        force=images.force,
    )
    from cifar_cli.core.data.dataset import import_dataset
    from cifar_cli.render import console, data_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = import_dataset(config, on_progress=on_progress)
    if output.as_json:
        console.print_json(result.to_dict())
        return
    console.show(data_tables.downloaded(result))
    for remark in data_tables.remarks(result):
        console.warn(remark)
    if result.already_there:
        console.note("already exists; --force imports it again, --check verifies it")


def _check(data: DataConfig, *, as_json: bool) -> None:
    """Verify a dataset. Raises DataError unless it is intact."""
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
        for remark in result.remarks:
            console.warn(remark)
    if not result.intact:
        raise DataError(
            f"{result.dataset.path} is not intact: {'; '.join(result.problems)}",
            remedy=f"fetch or import it again: `{result.dataset.command_again}`",
        )
