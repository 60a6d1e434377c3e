"""The options of `cifar train` that no other command has, in groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Option

from cifar_cli import completion, parsers
from cifar_cli.command import option_group
from cifar_cli.core.choices import GraphChoice, MemoryFormatChoice, PicturesChoice, PrecisionChoice, StrategyChoice
from cifar_cli.core.training.config import runs_dir
from cifar_cli.errors import UsageError
from cifar_cli.options import (
    DATASET,
    MEMORY_FORMAT,
    PRECISION,
    VERBOSE,
    ArchitectureOptions,
    AugmentOpt,
    DataOptions,
    OutputOptions,
    PipelineOpt,
    SeedOpt,
    TrimBackboneOpt,
)


@option_group("Model")
class TrainedModel(ArchitectureOptions):
    """The model to train."""

    model: Annotated[str, Option("--model", "-m", metavar="NAME", autocompletion=completion.models)] = "null"
    """Train this model: null, cnn, hybrid, airbench, any timm classifier as timm:NAME, or your own function as
    path/to/file.py:function.
    """
    weights: Annotated[str | None, Option(metavar="NAME|PATH", show_default="imagenet; none for null and airbench")] = (
        None
    )
    """Start from these weights: imagenet, none (random weights), bundled (an installed package, for cnn) or the path of
    a checkpoint.
    """
    trim_backbone: TrimBackboneOpt = True
    drop_path: Annotated[float, Option(metavar="SHARE")] = 0.0
    """Leave residual branches of cnn or timm:NAME out of training steps, the last with this probability and earlier
    ones with less (stochastic depth).
    """
    img_size: Annotated[int | None, Option(metavar="PIXELS", show_default="the dataset's")] = None
    """Resize the images to squares with this many pixels a side."""

    def values(self) -> dict[str, Any]:
        """The fields of ModelConfig that do not follow the dataset."""
        return {
            "name": self.model,
            "weights": self.weights,
            "backbone": self.backbone,
            "patch_size": self.patch_size,
            "trim_backbone": self.trim_backbone,
            "width": self.width,
            "residual": self.residual,
            "small_images": self.small_images,
            "drop_path": self.drop_path,
        }


@option_group("Data")
class TrainData(DataOptions):
    """The dataset to train on."""

    dataset: Annotated[
        str,
        DATASET(
            help="Train on this dataset: cifar10, cifar100, shapes (drawn, needs no download), one that you imported, "
            "the path of a .safetensors file that cifar wrote, or images in a folder or archive, imported once."
        ),
    ] = "cifar10"


@option_group("Augmentation")
class AugmentationOptions:
    """How training images are augmented."""

    augment_file: AugmentOpt = None
    pipeline: PipelineOpt = None
    workers: int = 2
    """Decode image files, and run the albumentations pipeline, in this many processes."""


@option_group("Hardware")
class NumericsOptions:
    """Precision, memory format and compilation."""

    precision: Annotated[
        PrecisionChoice, PRECISION(show_default="auto, the fastest whose loss agrees with float32")
    ] = "auto"
    memory_format: Annotated[MemoryFormatChoice, MEMORY_FORMAT(show_default="auto, the fastest on this machine")] = (
        "auto"
    )
    deterministic: bool = False
    """Use deterministic kernels, and float32 unless --precision is given, so that equal commands give equal weights on
    a GPU too. This is slower.
    """
    cuda_graph: GraphChoice = "auto"
    """Launch the training step on a CUDA GPU as one graph; auto where a trial shows the same losses and a higher speed.
    """
    compile: Annotated[bool, Option("--compile/--no-compile")] = False
    """Compile the model with torch.compile."""


@option_group("Hardware")
class ProcessOptions:
    """The processes that train together, one on each device."""

    devices: Annotated[int | Literal["auto"], Option(metavar="N|auto", parser=parsers.integer_or_auto)] = 1
    """Train on this many devices of each machine, with one process on each; auto takes all GPUs. They share each batch
    of --batch images. torchrun and srun set the number themselves.
    """
    num_nodes: int = 1
    """Train on this many machines; torchrun or srun starts the processes."""
    strategy: StrategyChoice = "auto"
    """Share a training step between devices in this way: ddp keeps all weights on each device and averages the
    gradients; fsdp keeps a part of the weights, gradients and optimizer states on each, which needs less memory and
    more messages; auto takes ddp.
    """


@option_group("Run")
class RunOptions:
    """The run: its directory, its seeds, what it writes."""

    run_dir: Annotated[Path | None, Option(metavar="DIR", show_default="runs/TIME-MODEL")] = None
    """Write the run to this directory."""
    name: Annotated[str | None, Option(metavar="RUN", show_default="TIME-MODEL")] = None
    """Write the run to the folder with this name in runs, or in CIFAR_RUNS_DIR."""
    resume: Annotated[Path | None, Option(metavar="RUN_DIR", autocompletion=completion.run_paths)] = None
    """Continue an interrupted run with its own settings. Only --data-dir, --max-epochs, --max-time, --patience,
    --devices, --num-nodes and the output options can be passed beside it.
    """
    seed: SeedOpt = 42
    seeds: Annotated[tuple[int, ...] | None, Option(metavar="0,1,2", parser=parsers.seeds)] = None
    """Train once with each of these seeds and report mean and standard deviation."""
    checkpoint_seconds: Annotated[
        float | None,
        Option("--checkpoint-every", metavar="HH:MM:SS", parser=parsers.duration, show_default="only after each epoch"),
    ] = None
    """Also write a checkpoint within an epoch whenever this time has passed, such as 2m."""
    requeue: bool = False
    """Under SLURM, put the job back into the queue when its time limit interrupts the run: after SIGUSR1, which
    `sbatch --signal=USR1@120` sends two minutes before the limit. Started again, the same command continues --run-dir.
    """
    pictures: PicturesChoice = "best"
    """Draw confusion matrices and sample predictions for TensorBoard of every epoch, of the best and the last one, at
    the end of the run, or of none.
    """
    profile: bool = False
    """Write a trace of ten steps for TensorBoard and Perfetto."""
    report: Annotated[bool, Option("--report/--no-report")] = True
    """Write report.html, a page about the run, at the end."""
    loggers: Annotated[list[str] | None, Option("--logger", metavar="wandb|mlflow|csv")] = None
    """Log the metrics for this program as well as for TensorBoard: CSV files, Weights & Biases (offline unless
    WANDB_MODE is set) or MLflow (in the run directory unless MLFLOW_TRACKING_URI is set). Can be repeated.
    """
    fast_dev_run: bool = False
    """Run one batch each of training, validation and test, to try a command."""

    def directory(self) -> Path | None:
        """The directory of the run where the user names it. Raises UsageError for a name that is a path."""
        if self.name is None:
            return self.run_dir
        if Path(self.name).name != self.name or self.name == "..":
            raise UsageError(f"--name {self.name} is not a name", remedy=f"pass --run-dir {self.name}")
        return runs_dir() / self.name


@option_group("Output")
class TrainOutput(OutputOptions):
    """Output on the terminal."""

    verbose: Annotated[
        bool, VERBOSE("Show the measured speed of each precision and memory format, and the cause of an error.", "-v")
    ] = False
