"""The options that several commands share. Each is declared once, here.

An option group is a class whose fields are options, and a command takes the group as one parameter (see `command.py`).
Options of a single command are declared beside that command.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Option

from cifar_cli import completion, parsers
from cifar_cli.command import option_group, typed
from cifar_cli.core.augment.policy import POLICIES
from cifar_cli.core.choices import DeviceChoice, PatchSize, PipelineName
from cifar_cli.core.data.config import DATA_DIR as FOLDER_OF_DATA
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import DEFAULT_BACKBONE, ModelConfig, RectangularConfig
from cifar_cli.core.models.registry import MODELS
from cifar_cli.errors import UsageError

DEFAULT_BATCH = 128


def _for_all_commands(name: str, help_text: str, *spellings: str) -> Any:
    """A flag that may stand before or after the name of the command. The root context remembers it in its `obj`."""

    def remember(ctx: typer.Context, value: bool) -> bool:
        flags = ctx.find_root().ensure_object(dict)
        flags[name] = value or flags.get(name, False)
        return bool(flags[name])

    return Option(f"--{name}", *spellings, help=help_text, callback=remember, is_eager=True)


# Options whose type or default differs between commands: DATASET() is the option, DATASET(show_default=…) the same one
# where leaving it out means something else.
DATASET = partial(
    Option,
    autocompletion=completion.datasets,
    metavar="NAME|PATH",
    help="Use this dataset: cifar10, cifar100, shapes (drawn, needs no download), one that you imported, or the path "
    "of a .safetensors file that cifar wrote.",
)
DATA_DIR = partial(
    Option,
    metavar="DIR",
    envvar=FOLDER_OF_DATA,
    help="Read datasets from this folder, and save them there.",
)
POLICY = partial(
    Option,
    metavar="NAME",
    parser=parsers.one_of(POLICIES),
    autocompletion=completion.policies,
    rich_help_panel="Augmentation",
    help=f"Augment with this policy: {', '.join(POLICIES)}.",
)
BATCH = partial(Option, "--batch", "--batch-size", "-b")
PRECISION = partial(
    Option,
    rich_help_panel="Hardware",
    help="Compute in this precision: 32 is float32; bf16 and 16 run autocast over float32 weights.",
)
MEMORY_FORMAT = partial(
    Option,
    rich_help_panel="Hardware",
    help="Store images and convolution kernels in this memory format; onednn is oneDNN's own blocked layout, for CPUs.",
)

BatchOpt = Annotated[int, BATCH(help="Use batches of this many images.")]
SeedOpt = Annotated[
    int, Option(metavar="N", parser=parsers.seed, help="Seed the random number generators with this number.")
]
DebugOpt = Annotated[bool, _for_all_commands("debug", "Show the traceback of an error.")]
QuietOpt = Annotated[bool, _for_all_commands("quiet", "Print results, warnings and errors only.", "-q")]
VERBOSE = partial(_for_all_commands, "verbose")
VerboseOpt = Annotated[bool, VERBOSE("Show the cause of an error as well.", "-v")]
ModelNames = Annotated[
    list[str],
    Option(
        "--model",
        "-m",
        metavar="NAME",
        autocompletion=completion.models,
        help="Use this model: null, cnn, hybrid, airbench, any timm classifier as timm:NAME, or all for the first "
        "four. Separate several with commas, or repeat the option.",
    ),
]
PipelineOpt = Annotated[
    PipelineName | None,
    Option(
        show_default="batched, or albumentations with --augment",
        help="Augment with this implementation: batched works on complete batches on the device, albumentations on "
        "single images in worker processes.",
    ),
]
AugmentOpt = Annotated[
    Path | None,
    Option(
        "--augment",
        metavar="FILE",
        help="Read the policy from this file, which albumentations' A.save wrote. A Normalize step at its end "
        "must have the run's numbers.",
    ),
]
TrimBackboneOpt = Annotated[
    bool,
    Option(
        "--trim-backbone/--full-backbone",
        help="Leave out the backbone layers of hybrid that never reach the logits. The outputs stay the same.",
    ),
]


def chosen_pipeline(pipeline: PipelineName | None, augment_file: Path | None) -> PipelineName:
    """The value of --pipeline, or its default. Raises UsageError if it can't apply the policy of --augment."""
    if augment_file is not None and pipeline == "batched":
        raise UsageError(
            "--augment takes an albumentations policy, which --pipeline batched can't apply",
            remedy="pass --pipeline albumentations",
        )
    return pipeline or ("batched" if augment_file is None else "albumentations")


@option_group("Data")
class DataOptions:
    """A dataset and the folder it is in."""

    dataset: Annotated[str, DATASET()] = "cifar10"
    data_dir: Annotated[Path, DATA_DIR()] = Path("data")

    def config(self) -> DataConfig:
        """Raises ConfigError for a dataset that is neither a name nor a file."""
        return DataConfig(dataset=self.dataset, data_dir=self.data_dir)


@option_group("Model")
class ArchitectureOptions:
    """The parts of the models `cnn`, `hybrid` and `airbench` that can be chosen."""

    backbone: Annotated[str, Option(metavar="NAME", autocompletion=completion.backbones)] = DEFAULT_BACKBONE
    """Use this timm classifier as the model cnn."""
    patch_size: PatchSize = 2
    """Set the patch size of hybrid's ViT, in pixels."""
    trim_backbone: TrimBackboneOpt = False
    width: float = 1.0
    """Multiply the channels of airbench by this number."""
    residual: Annotated[bool, Option("--residual/--no-residual")] = False
    """Give each block of airbench a third convolution, around a shortcut, as --recipe best does in cifar train."""
    small_images: bool = False
    """Give the first convolution of cnn or timm:NAME a stride of 1, which keeps the details of images of about 32
    pixels and takes about four times the time."""

    def model_config(self, name: str, **given: Any) -> ModelConfig:
        """The model with these parts. Raises ModelError for an unknown name and ConfigError for a bad value."""
        kind = RectangularConfig if "img_width" in given else ModelConfig
        return kind(
            name=name,
            backbone=self.backbone,
            patch_size=self.patch_size,
            trim_backbone=self.trim_backbone,
            width=self.width,
            residual=self.residual,
            small_images=self.small_images,
            **given,
        )


PARTS = {"backbone": "cnn", "patch_size": "hybrid", "trim_backbone": "hybrid"}
"""Options that one model has, where `ModelConfig` can't see whether they were passed."""


def refuse_foreign_parts(ctx: typer.Context, names: Sequence[str]) -> None:
    """Raise UsageError if the user passed an option that none of the models has."""
    passed = typed(ctx)
    for option, model in PARTS.items():
        if option in passed and model not in names:
            raise UsageError(
                f"{' and '.join(names)} {'have' if len(names) > 1 else 'has'} no {passed[option]}",
                remedy=f"leave it out, or pass --model {model}",
            )


@option_group("Model")
class NamedModels(ArchitectureOptions):
    """Models that need no weights and no dataset."""

    model: ModelNames
    classes: Annotated[int, Option(metavar="K")] = 10
    """Set the number of classes."""

    def names(self) -> tuple[str, ...]:
        """The models in the order given, each once. Raises UsageError where there is none."""
        asked = [_as_registered(name.strip()) for value in self.model for name in value.split(",") if name.strip()]
        if not asked:
            raise UsageError("--model names no model", remedy="pass for example --model null")
        return tuple(dict.fromkeys(known for name in asked for known in (MODELS if name == "all" else (name,))))


@option_group("Model")
class CountedModels(NamedModels):
    """Models that are counted."""

    model: ModelNames
    img_size: Annotated[int, Option(metavar="PIXELS")] = 32
    """Use square images with this many pixels a side."""

    def configs(self) -> tuple[ModelConfig, ...]:
        """One config for each model. Raises ModelError for an unknown name."""
        sizes = {"classes": self.classes, "img_size": self.img_size}
        return tuple(self.model_config(name, weights="none", **sizes) for name in self.names())


def _as_registered(name: str) -> str:
    """`timm:NAME` for the names under which the hub holds timm's models: timm/NAME and hf-hub:timm/NAME."""
    on_hub = name.removeprefix("timm:").removeprefix("hf-hub:").removeprefix("hf_hub:")
    return f"timm:{on_hub.removeprefix('timm/')}" if on_hub.startswith("timm/") else name


@option_group("Hardware")
class DeviceOptions:
    """The device to compute on."""

    device: DeviceChoice = "auto"
    """Compute on this device; auto uses a GPU if there is one."""
    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"] | None, Option(hidden=True)] = None
    """Compute on this device (use --device)."""

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


@option_group("Output")
class OutputOptions:
    """Output of a command."""

    as_json: Annotated[bool, Option("--json")] = False
    """Print one JSON document on stdout, and everything else on stderr."""
    quiet: QuietOpt = False
    verbose: VerboseOpt = False
    debug: DebugOpt = False
