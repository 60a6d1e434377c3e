"""The options that several commands share. Each is declared once, here.

An option group is a dataclass: every field is an option, and a command takes the group as one parameter
(see `command.py`). Options of a single command are declared beside that command.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cifar_cli import parsers
from cifar_cli.core.augment.policy import POLICIES
from cifar_cli.core.choices import DeviceChoice, PatchSize, PipelineName
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import DEFAULT_BACKBONE, ModelConfig
from cifar_cli.core.models.registry import MODELS
from cifar_cli.errors import UsageError

DEFAULT_BATCH = 128

# An option in a panel of the help page.
data_option = partial(typer.Option, rich_help_panel="Data")
model_option = partial(typer.Option, rich_help_panel="Model")
augmentation_option = partial(typer.Option, rich_help_panel="Augmentation")
hardware_option = partial(typer.Option, rich_help_panel="Hardware")
output_option = partial(typer.Option, rich_help_panel="Output")


def adapted(option: Any, *, default: str | None = None, panel: str | None = None) -> Any:
    """The same option for another command: with another panel, or where leaving it out means something else.

    default: what the help page gives as the default, in words.
    """
    changed = copy(option)
    changed.show_default = changed.show_default if default is None else default
    changed.rich_help_panel = panel or changed.rich_help_panel
    return changed


def _show_traceback(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.find_root().obj = {"debug": True}
    return value


DATASET = data_option(
    "--dataset",
    metavar="NAME|PATH",
    help="Use this dataset: cifar10, cifar100, shapes (drawn, needs no download), one that you imported, or the path "
    "of a .safetensors file that cifar wrote.",
)
DATA_DIR = data_option("--data-dir", metavar="DIR", help="Read datasets from this folder, and save them there.")
POLICY = augmentation_option(
    "--policy",
    metavar="NAME",
    parser=parsers.one_of(POLICIES),
    help=f"Augment with this policy: {', '.join(POLICIES)}.",
)
PIPELINE = augmentation_option(
    "--pipeline",
    show_default="batched, or albumentations with --augment",
    help="Augment with this implementation: batched works on whole batches on the device, albumentations on single "
    "images in worker processes.",
)
AUGMENT = augmentation_option(
    "--augment",
    metavar="FILE",
    help="Read the policy from this file, which albumentations' A.save wrote. A Normalize step at its end is left out.",
)
MODEL_NAMES = model_option(
    "--model",
    "-m",
    metavar="NAME",
    help="Take this model: null, cnn, hybrid, any timm classifier as timm:NAME, or all for the first three. Separate "
    "several with commas, or repeat the option.",
)
BATCH = data_option("--batch", "--batch-size", "-b", help="Put this many images into a batch.")
SEED = typer.Option("--seed", help="Seed the random number generators with this number.")
PRECISION = hardware_option(
    "--precision", help="Compute in this precision: 32 is float32; bf16 and 16 run autocast over float32 weights."
)
MEMORY_FORMAT = hardware_option(
    "--memory-format",
    help="Lay images and convolution kernels out in memory in this format; onednn is oneDNN's own blocked layout, for "
    "CPUs.",
)
DEBUG = output_option("--debug", help="Show the traceback of an error.", callback=_show_traceback, is_eager=True)

PipelineOpt = Annotated[PipelineName | None, PIPELINE]
AugmentOpt = Annotated[Path | None, AUGMENT]
TrimBackboneOpt = Annotated[
    bool,
    model_option(
        "--trim-backbone/--full-backbone",
        help="Leave out the backbone layers of hybrid that never reach the logits. The outputs stay the same.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """A dataset and the folder it is in."""

    dataset: Annotated[str, DATASET] = "cifar10"
    data_dir: Annotated[Path, DATA_DIR] = Path("data")

    def config(self) -> DataConfig:
        """Raises ConfigError for a dataset that is neither a name nor a file."""
        return DataConfig(dataset=self.dataset, data_dir=self.data_dir)


@dataclass(frozen=True, kw_only=True)
class ArchitectureOptions:
    """The parts of the models `cnn` and `hybrid` that can be chosen."""

    backbone: Annotated[
        str, model_option("--backbone", metavar="NAME", help="Use this timm classifier as the model cnn.")
    ] = DEFAULT_BACKBONE
    patch_size: Annotated[
        PatchSize, model_option("--patch-size", help="Give the ViT of hybrid patches with sides of this many pixels.")
    ] = 2
    trim_backbone: TrimBackboneOpt = False


@dataclass(frozen=True, kw_only=True)
class CountedModels(ArchitectureOptions):
    """Models that are counted or profiled: they need no weights and no dataset."""

    model: Annotated[list[str], MODEL_NAMES]
    img_size: Annotated[
        int, model_option("--img-size", metavar="PIXELS", help="Assume square images with this many pixels a side.")
    ] = 32
    classes: Annotated[
        int, model_option("--classes", metavar="K", help="Give the model this many outputs, one for each class.")
    ] = 10

    def configs(self) -> tuple[ModelConfig, ...]:
        """One config for each model, in the order given, each model once. Raises ModelError for an unknown name."""
        asked = [name.strip() for value in self.model for name in value.split(",") if name.strip()]
        names = dict.fromkeys(known for name in asked for known in (MODELS if name == "all" else (name,)))
        return tuple(
            ModelConfig(
                name=name,
                classes=self.classes,
                img_size=self.img_size,
                backbone=self.backbone,
                weights="none",
                trim_backbone=self.trim_backbone,
                patch_size=self.patch_size,
            )
            for name in names
        )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """The device to compute on."""

    device: Annotated[
        DeviceChoice, hardware_option("--device", help="Compute on this device; auto takes a GPU if there is one.")
    ] = "auto"
    accelerator: Annotated[
        Literal["auto", "cpu", "gpu", "cuda", "mps"] | None,
        hardware_option("--accelerator", hidden=True, help="Compute on this device (use --device)."),
    ] = None

    def chosen_device(self) -> DeviceChoice:
        """The value of --device, or of its older spelling --accelerator, in which "gpu" means CUDA or MPS.

        Raises UsageError when the two contradict each other.
        """
        if self.accelerator is None:
            return self.device
        if self.device not in ("auto", self.accelerator):
            raise UsageError(
                f"--accelerator {self.accelerator} contradicts --device {self.device}",
                remedy=f"pass only --device {self.device}",
            )
        if self.accelerator != "gpu":
            return self.accelerator
        import torch

        return "mps" if torch.backends.mps.is_available() and not torch.cuda.is_available() else "cuda"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What a command prints."""

    as_json: Annotated[
        bool, output_option("--json", help="Print one JSON document on stdout, and everything else on stderr.")
    ] = False
    debug: Annotated[bool, DEBUG] = False
