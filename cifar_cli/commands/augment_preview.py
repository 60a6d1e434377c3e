"""`cifar augment-preview`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_cli.errors import ConfigError
from cifar_cli.options import DataDirOpt, DatasetOpt, DebugOpt, JsonOpt, PipelineOpt, SeedOpt

if TYPE_CHECKING:
    from cifar_cli.core.augment.config import PreviewConfig
    from cifar_cli.core.augment.preview import PreviewResult


def augment_preview(
    dataset: DatasetOpt = "cifar10",
    data_dir: DataDirOpt = Path("data"),
    images: Annotated[int, typer.Option("--images", metavar="N", help="Rows: images, of different classes.")] = 8,
    variants: Annotated[int, typer.Option("--variants", metavar="N", help="Columns: augmented variants.")] = 8,
    steps: Annotated[bool, typer.Option("--steps", help="One column for each step of the policy instead.")] = False,
    pipeline: PipelineOpt = None,
    policy: Annotated[
        str, typer.Option("--policy", metavar="NAME", help="Augmentation: course, crop-flip, crop-flip-cutout, none.")
    ] = "course",
    augment: Annotated[
        Path | None,
        typer.Option(
            "--augment",
            metavar="FILE",
            help="A policy saved with albumentations' A.save; a Normalize at its end is left out.",
        ),
    ] = None,
    seed: SeedOpt = 42,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.png", help="Where the picture goes.")] = Path(
        "augment-preview.png"
    ),
    show: Annotated[bool, typer.Option("--show", help="Draw the picture in the terminal too, in true colour.")] = False,
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Show what the augmentation does to training images, as a picture and a table."""
    from cifar_cli.core.augment.config import PreviewConfig

    require_picture_path(out)
    config = PreviewConfig(
        images=images,
        variants=variants,
        steps=steps,
        pipeline=pipeline,
        policy=policy,
        augment_file=augment,
        seed=seed,
    )
    _preview(config, dataset, data_dir, out, show=show, as_json=as_json)


def require_picture_path(out: Path) -> None:
    """Raises ConfigError when `out` can't become a PNG file."""
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out} is not a PNG file's name", remedy=f"pass --out {out.with_suffix('.png')}")
    if not out.parent.is_dir():
        raise ConfigError(f"the folder {out.parent} for --out does not exist", remedy=f"mkdir -p {out.parent}")


def _preview(config: PreviewConfig, dataset: str, data_dir: Path, out: Path, *, show: bool, as_json: bool) -> None:
    from cifar_cli.core.augment.preview import preview, require_policy
    from cifar_cli.core.data.config import DataConfig
    from cifar_cli.core.data.dataset import open_dataset
    from cifar_cli.render.pictures import save_preview
    from cifar_cli.render.progress import progress_shown

    require_policy(config)  # before a dataset is fetched
    with progress_shown() as on_progress:
        store = open_dataset(DataConfig(dataset=dataset, data_dir=data_dir), on_progress=on_progress)
    result = preview(config, store.train.images_NHWC, store.train.labels_N, store.classes)
    save_preview(result, out)
    _report(result, out, dataset=store.name, show=show, as_json=as_json)


def _report(result: PreviewResult, out: Path, *, dataset: str, show: bool, as_json: bool) -> None:
    from cifar_cli.render import augment_tables, console, pictures

    screen = console.stderr() if as_json else console.stdout()
    if show and screen.is_terminal:
        pictures.show_preview(result, screen)
    elif show:
        console.note("--show draws in a terminal only; the picture file holds the same")
    if as_json:
        console.print_json(augment_tables.document(result, out, dataset))
    else:
        console.show(augment_tables.steps(result))
        console.note(f"picture: {out}")
