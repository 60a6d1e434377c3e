"""`cifar augment-preview`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from cifar_cli import completion, parsers
from cifar_cli.command import command, given, option_group, refuse_beside, refuse_both
from cifar_cli.core.choices import require_picture_path
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.options import POLICY, AugmentOpt, DataOptions, OutputOptions, PipelineOpt, SeedOpt, chosen_pipeline

if TYPE_CHECKING:
    from cifar_cli.core.augment.config import PreviewConfig
    from cifar_cli.core.augment.preview import PreviewResult
    from cifar_cli.core.data.store import Store


@option_group("Augmentation")
class AugmentationOptions:
    """The augmentation that is shown."""

    policy: Annotated[str, POLICY()] = "course"
    augment_file: AugmentOpt = None
    recipe: Annotated[
        str | None,
        Option(metavar="|".join(RECIPES), parser=parsers.one_of(RECIPES), autocompletion=completion.recipes),
    ] = None
    """Show the policy of this recipe."""
    run: Annotated[Path | None, Option(metavar="RUN_DIR", autocompletion=completion.run_paths)] = None
    """Show the policy, the image size and the dataset of this run."""
    img_size: Annotated[int | None, Option(metavar="PIXELS", show_default="the run's, or the dataset's")] = None
    """Show images of this size, as `cifar train --img-size` does."""
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
        ("See what a run was trained on.", "cifar augment-preview --run runs/20261124-093000-null"),
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
    for first, second in combinations(("policy", "augment_file", "recipe", "run"), 2):
        refuse_both(ctx, first, second)
    refuse_beside(ctx, "steps", ("variants",), "draws a column for each step")
    from cifar_cli.core.augment.config import PreviewConfig

    require_picture_path(picture.out)
    shown, dataset = _of_a_run(augmentation, data, given(ctx)) if augmentation.run else (augmentation, data.config())
    config = PreviewConfig(
        images=picture.images,
        variants=picture.variants,
        steps=picture.steps,
        policy=RECIPES[shown.recipe].policy if shown.recipe else shown.policy,
        augment_file=shown.augment_file,
        img_size=shown.img_size,
        pipeline=chosen_pipeline(shown.pipeline, shown.augment_file),
        seed=shown.seed,
    )
    named = {"dataset", "data_dir"} & set(given(ctx))
    result, name = _preview(config, dataset, run=None if named else augmentation.run)
    _report(result, picture, dataset=name, as_json=output.as_json)


def _of_a_run(
    asked: AugmentationOptions, data: DataOptions, passed: Mapping[str, str]
) -> tuple[AugmentationOptions, DataConfig]:
    """The augmentation and the dataset of a run, except for what the user passed."""
    assert asked.run is not None
    from cifar_cli.core.evaluation.report.recorded import read_run

    config = read_run(asked.run).config
    dataset = replace(config.data, **{name: getattr(data, name) for name in ("dataset", "data_dir") if name in passed})
    return replace(
        asked,
        policy=config.recipe.policy,
        augment_file=config.augment_file,
        img_size=asked.img_size or config.model.img_size,
        pipeline=asked.pipeline or config.pipeline,
        seed=asked.seed if "seed" in passed else config.seed,
    ), dataset


def _preview(config: PreviewConfig, data: DataConfig, *, run: Path | None) -> tuple[PreviewResult, str]:
    """The preview and the name of the dataset it shows. run: whose dataset it is, which is then not downloaded."""
    from cifar_cli.core.augment.preview import preview, require_policy
    from cifar_cli.core.data.dataset import open_dataset
    from cifar_cli.render.progress import progress_shown

    require_policy(config)  # before a dataset is fetched
    with progress_shown() as on_progress:
        store = open_dataset(data, on_progress=on_progress) if run is None else _dataset_of(run, data)
    shown = store.train.at_side(config.img_size or store.default_side)
    result = preview(config, shown.images_NHWC, shown.labels_N, store.classes)
    if store.encoded and any(step.name == "RandomResizedCrop" for step in result.steps):
        from cifar_cli.render import console

        console.note("the crops shown here are of the middle of each photograph; training crops the whole picture")
    return result, store.name


def _dataset_of(run: Path, data: DataConfig) -> Store:
    from cifar_cli.core.training.trained_on import open_trained

    return open_trained(data, at=run, content=None, remedy="")


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
