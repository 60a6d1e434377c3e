"""`cifar augment-preview`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from cifar_cli.command import command, option_group, refuse_both
from cifar_cli.core.choices import require_picture_path
from cifar_cli.options import POLICY, AugmentOpt, DataOptions, OutputOptions, PipelineOpt, SeedOpt, chosen_pipeline

if TYPE_CHECKING:
    from cifar_cli.core.augment.config import PreviewConfig
    from cifar_cli.core.augment.preview import PreviewResult


@option_group("Augmentation")
class AugmentationOptions:
    """The augmentation that is shown."""

    policy: Annotated[str, POLICY()] = "course"
    augment_file: AugmentOpt = None
    pipeline: PipelineOpt = None
    seed: SeedOpt = 42


@option_group("Picture")
class PictureOptions:
    """The picture that is drawn."""

    images: int = 8
    """Draw this many images, one per row, from different classes."""
    variants: int = 8
    """Draw this many augmented variants of each image, one per column."""
    steps: bool = False
    """Draw one column for each step of the policy instead."""
    out: Annotated[Path, Option(metavar="FILE.png")] = Path("augment-preview.png")
    """Write the picture to this file."""
    show: bool = False
    """Draw the picture in the terminal as well, in true colour."""


@command(
    examples=(
        ("See eight variants of eight images.", "cifar augment-preview"),
        ("See what each step of a policy does, in the terminal.", "cifar augment-preview --steps --show"),
        ("See your own albumentations policy.", "cifar augment-preview --augment mine.yaml"),
    )
)
def augment_preview(
    ctx: typer.Context,
    data: DataOptions,
    augmentation: AugmentationOptions,
    picture: PictureOptions,
    output: OutputOptions,
) -> None:
    """Show what the augmentation does to training images, as a picture and a table."""
    refuse_both(ctx, "policy", "augment_file")
    from cifar_cli.core.augment.config import PreviewConfig

    require_picture_path(picture.out)
    config = PreviewConfig(
        images=picture.images,
        variants=picture.variants,
        steps=picture.steps,
        **vars(augmentation) | {"pipeline": chosen_pipeline(augmentation.pipeline, augmentation.augment_file)},
    )
    result, dataset = _preview(config, data)
    _report(result, picture, dataset=dataset, as_json=output.as_json)


def _preview(config: PreviewConfig, data: DataOptions) -> tuple[PreviewResult, str]:
    """The preview and the name of the dataset it shows."""
    from cifar_cli.core.augment.preview import preview, require_policy
    from cifar_cli.core.data.dataset import open_dataset
    from cifar_cli.render.progress import progress_shown

    require_policy(config)  # before a dataset is fetched
    with progress_shown() as on_progress:
        store = open_dataset(data.config(), on_progress=on_progress)
    return preview(config, store.train.images_NHWC, store.train.labels_N, store.classes), store.name


def _report(result: PreviewResult, picture: PictureOptions, *, dataset: str, as_json: bool) -> None:
    from cifar_cli.render import augment_tables, console, pictures

    pictures.save_preview(result, picture.out)
    screen = console.stderr() if as_json else console.stdout()
    if picture.show and screen.is_terminal:
        pictures.show_preview(result, screen)
    elif picture.show:
        console.note("--show draws in a terminal only; the picture file holds the same")
    if as_json:
        console.print_json(result.to_dict(dataset=dataset, picture=picture.out))
    else:
        console.show(augment_tables.steps(result))
        console.note(f"picture: {picture.out}")
