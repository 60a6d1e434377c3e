"""`cifar download`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from cifar_cli import parsers
from cifar_cli.command import command, option_group, refuse_beside, refuse_without
from cifar_cli.options import DataOptions, OutputOptions

if TYPE_CHECKING:
    from cifar_cli.core.data.config import DataConfig


@option_group("Import")
class ImportOptions:
    """The source of the images, and settings of the import."""

    source: Annotated[list[str] | None, Option("--from", metavar="URL|PATH")] = None
    """Import images from here: a folder, zip or tar archive of images in class folders or with a CSV file of labels,
    parquet files, a .npz file, an official archive or its extracted folder, your own function as
    path/to/file.py:function, or the URL of one more mirror. Several URLs are tried side by side.
    """
    img_size: Annotated[int | None, Option(metavar="PIXELS", show_default="the size of most images, at most 224")] = (
        None
    )
    """Store images for squares with this many pixels a side."""
    test_share: Annotated[float | None, Option(metavar="SHARE", parser=parsers.share, show_default="20%")] = None
    """Set this share of each class aside as the test split, if the images have none."""
    val_share: Annotated[float | None, Option(metavar="SHARE", parser=parsers.share)] = None
    """Set this share of each class's training images aside for validation, if the images have no such split."""
    seed: Annotated[int | None, Option(metavar="N", parser=parsers.seed)] = None
    """Draw other images for these splits. Without it, the images' names alone decide."""
    columns: Annotated[tuple[str, str] | None, Option(metavar="IMAGE,LABEL", parser=parsers.two_columns)] = None
    """Read images or their names, and labels, from these columns of a CSV or parquet file: titles, or numbers from 1.
    """
    skip_bad: bool = False
    """Leave out files and folders that can't be read, and say which."""
    force: bool = False
    """Fetch or import the dataset again, even if it is already there."""
    check: bool = False
    """Check every byte of the dataset on disk and fetch nothing. Exit with status 1 if it is damaged or missing."""
    duplicates: bool = False
    """Check the dataset as --check does, and search it for identical and nearly identical images, inside its splits
    and across them."""
    out: Annotated[Path | None, Option(metavar="DIR", show_default="beside the dataset")] = None
    """With --duplicates: write duplicates.csv and duplicates.png into this folder."""


OF_AN_IMPORT = ("source", "img_size", "test_share", "val_share", "seed", "columns", "skip_bad", "force")


@command(
    examples=(
        ("Fetch CIFAR-10 from the fastest of its mirrors.", "cifar download"),
        (
            "Import a folder of images in class folders, with or without train/ and test/ above them.",
            "cifar download --dataset pets --from pets/",
        ),
        ("Verify what is on disk.", "cifar download --check"),
        ("Find test images that are among the training images as well.", "cifar download --duplicates"),
    )
)
def download(ctx: typer.Context, data: DataOptions, images: ImportOptions, output: OutputOptions) -> None:
    """Fetch a dataset, import your own images, or check what is on disk."""
    refuse_without(ctx, "out", "duplicates")
    for chosen in ("check", "duplicates"):
        refuse_beside(ctx, chosen, OF_AN_IMPORT, "imports nothing")
    from cifar_cli.core.data.config import ImportConfig

    if images.check or images.duplicates:
        _check(data.config(), duplicates=images.duplicates, out=images.out, as_json=output.as_json)
        return
    config = ImportConfig(
        data=data.config(),
        sources=tuple(images.source or ()),
        img_size=images.img_size,
        skip_bad=images.skip_bad,
        force=images.force,
        test_share=images.test_share,
        val_share=images.val_share,
        seed=images.seed,
        columns=images.columns,
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


def _check(data: DataConfig, *, duplicates: bool, out: Path | None, as_json: bool) -> None:
    """Verify a dataset, and search it. Raises DataError unless it is intact."""
    from cifar_cli.core.data.dataset import check_dataset
    from cifar_cli.errors import DataError
    from cifar_cli.render import console, data_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = check_dataset(data, on_progress=on_progress)
    if not as_json:
        console.show(data_tables.checked(result))
        for remark in result.remarks:
            console.warn(remark)
    found = _find_duplicates(data, out, as_json=as_json) if duplicates and result.intact else {}
    if as_json:
        console.print_json(result.to_dict() | found)
    if not result.intact:
        raise DataError(
            f"{result.dataset.path} is not intact: {'; '.join(result.problems)}",
            remedy=f"fetch or import it again: `{result.dataset.command_again}`",
        )


def _find_duplicates(data: DataConfig, folder: Path | None, *, as_json: bool) -> dict[str, Any]:
    """Search a dataset, show what is found, and return it as a part of the document."""
    from cifar_cli.core.data.duplicates import find_duplicates
    from cifar_cli.render import console, data_tables
    from cifar_cli.render.progress import progress_shown

    with progress_shown() as on_progress:
        result = find_duplicates(data, folder=folder, on_progress=on_progress)
    if not as_json:
        console.show(data_tables.duplicates(result))
    for path in filter(None, (result.table, result.picture)):
        console.note(f"written: {path}")
    if twins := result.test_images_with_a_twin_in_train:
        known = "1 test image has" if twins == 1 else f"{twins:,} test images have"
        console.warn(f"{known} a twin among the training images, so the test accuracy is not of new images only")
    return {"duplicates": result.to_dict()}
