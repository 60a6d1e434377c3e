"""Configs of a training step, a training run, and a run that is resumed."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cifar_cli.core.augment.policy import policy_of, require_pipeline
from cifar_cli.core.choices import (
    DeviceChoice,
    Freeze,
    GraphChoice,
    MemoryFormat,
    MemoryFormatChoice,
    OptimizerName,
    PicturesChoice,
    PipelineName,
    Precision,
    PrecisionChoice,
    StrategyChoice,
    require_at_least,
    require_choice,
)
from cifar_cli.core.data.config import DataConfig, Normalisation
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.plain import plain
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.errors import ConfigError

MAX_IMG_SIZE = 4096  # pixels a side; the images of a batch are resized to it
MAX_SEED = 2**63 - 1  # of torch's generators


def runs_dir() -> Path:
    """The folder of the runs that are given no directory of their own: runs/, or CIFAR_RUNS_DIR."""
    return Path(os.environ.get("CIFAR_RUNS_DIR") or "runs")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """Everything that decides a training step except the model and the batch."""

    optimizer: OptimizerName = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    """L2 norm that gradients are clipped to; None for no clipping."""
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    """Share of the averaged weights that stays at each step; None for no averaged weights."""
    momentum: float | None = None
    """Here and below: of muon-sgd only, as in the recipe."""
    bias_lr: float | None = None
    head_lr: float | None = None
    freeze: Freeze = "none"
    head_first: bool = False
    """Keep head and backbone apart in the optimizer, because the backbone's learning rate begins later."""
    class_weights: tuple[float, ...] | None = None
    """Of the classes in the loss; None for equal ones."""
    precision: Precision = "32"
    memory_format: MemoryFormat = "contiguous"
    captured: bool = False
    """Keep the learning rates on the device, for a step that is captured as a CUDA graph."""

    @classmethod
    def of_recipe(
        cls, recipe: Recipe, *, learning_rate: float, precision: Precision, memory_format: MemoryFormat
    ) -> StepConfig:
        """The step that a recipe trains with; the schedule changes the learning rate afterwards."""
        return cls(
            optimizer=recipe.optimizer,
            learning_rate=learning_rate,
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip_norm,
            label_smoothing=recipe.label_smoothing,
            ema_decay=recipe.ema_decay,
            momentum=recipe.momentum,
            bias_lr=recipe.bias_lr,
            head_lr=recipe.head_lr,
            freeze=recipe.freeze,
            head_first=recipe.head_first > 0 and recipe.freeze == "none",
            precision=precision,
            memory_format=memory_format,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run, completely described.

    Raises ConfigError for a value that is not offered.
    """

    model: ModelConfig
    """Its classes and img_size follow the dataset."""
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = RECIPES["course"]
    img_size: int | None = None
    """Side in pixels that images are resized to; None keeps the dataset's, or takes up to 224 pixels of image files."""
    encoded: bool = False
    """Whether the dataset keeps image files, of which evaluation sees the middle; follows the dataset."""
    normalisation: Normalisation | None = None
    """Of the model's input; None for one that follows the weights and the dataset, which `prepare` fills in."""
    seed: int = 42
    """Decides initial weights, order and augmentation. The validation split has a fixed seed of its own, so that runs
    with different seeds are validated on the same images."""
    pipeline: PipelineName = "batched"
    augment_file: Path | None = None
    """A policy saved with albumentations' `A.save`, in place of the recipe's."""
    workers: int = 2
    """Processes of the albumentations pipeline, and those that decode image files."""
    device: DeviceChoice = "auto"
    devices: int | Literal["auto"] = 1
    """Processes on each node, one a device; "auto" takes all GPUs, or one process on the CPU. Under torchrun or srun
    the launcher decides."""
    num_nodes: int = 1
    """Machines; more than one need a launcher."""
    strategy: StrategyChoice = "auto"
    """How several processes share a step: "ddp" keeps all weights in each, "fsdp" a part; "auto" is "ddp"."""
    precision: PrecisionChoice = "auto"
    """"auto" takes the fastest precision on this machine whose loss agrees with float32."""
    memory_format: MemoryFormatChoice = "auto"
    deterministic: bool = False
    """Use deterministic kernels only, and let no measurement choose precision and memory format."""
    cuda_graph: GraphChoice = "auto"
    """Capture the training step as a CUDA graph; "auto" where it is possible and faster."""
    compile: bool = False
    """Run the model through torch.compile."""
    pictures: PicturesChoice = "best"
    """The epochs of which pictures are drawn for TensorBoard."""
    profile: bool = False
    """Write a profiler trace of a few steps."""
    fast_dev_run: bool = False
    """Run one batch each of train, val and test."""
    run_dir: Path | None = None
    """None creates one in `runs_dir()`."""
    checkpoint_seconds: float | None = None
    """Time between checkpoints within an epoch; None for one at the end of each epoch only."""

    def __post_init__(self) -> None:
        require_choice("--device", self.device, DeviceChoice)
        require_choice("--pipeline", self.pipeline, PipelineName)
        require_choice("--precision", self.precision, PrecisionChoice)
        require_choice("--memory-format", self.memory_format, MemoryFormatChoice)
        require_choice("--cuda-graph", self.cuda_graph, GraphChoice)
        require_choice("--pictures", self.pictures, PicturesChoice)
        require_choice("--strategy", self.strategy, StrategyChoice)
        if self.strategy == "fsdp" and self.recipe.optimizer.startswith("muon"):
            raise ConfigError(
                "--strategy fsdp keeps a part of each matrix in a process, and "
                f"--optimizer {self.recipe.optimizer} needs complete ones",
                remedy="pass --strategy ddp, or another --optimizer",
            )
        require_at_least("--num-nodes", self.num_nodes, 1, example=1)
        if isinstance(self.devices, int):
            require_at_least("--devices", self.devices, 1, example=2)
        if isinstance(self.devices, int) and self.recipe.batch < self.devices * self.num_nodes:
            raise ConfigError(
                f"--batch {self.recipe.batch} holds less than one image for each of "
                f"{self.devices * self.num_nodes} devices",
                remedy="pass a larger --batch, which is over all devices together, or fewer --devices",
            )
        side = max(self.img_size or 0, self.model.img_size)
        if side > MAX_IMG_SIZE:
            raise ConfigError(
                f"images of {side} pixels a side are too large to train on", remedy="pass for example --img-size 224"
            )
        if self.augment_file is not None and self.pipeline != "albumentations":
            raise ConfigError(
                "--augment names an albumentations policy, which the batched pipeline can't carry out",
                remedy="add --pipeline albumentations",
            )
        if self.augment_file is None:
            require_pipeline(policy_of(self.recipe.policy), self.pipeline)
        require_at_least("--seed", self.seed, 0, example=42)
        if self.seed > MAX_SEED:
            raise ConfigError(f"--seed {self.seed} is larger than {MAX_SEED}", remedy="pass for example --seed 42")
        if self.checkpoint_seconds is not None and not self.checkpoint_seconds > 0:
            raise ConfigError("--checkpoint-every must be longer than 0 seconds", remedy="pass for example 2m")
        require_at_least("--workers", self.workers, 0, example=2)

    @property
    def normalised_by(self) -> Normalisation:
        """How images become the model's input. Runs of an earlier version have CIFAR-10's."""
        return self.normalisation or Normalisation()

    def step_config(self) -> StepConfig:
        """The training step of this run. Its precision and memory format must be chosen."""
        assert self.precision != "auto"
        assert self.memory_format != "auto"
        return StepConfig.of_recipe(
            self.recipe,
            learning_rate=self.recipe.learning_rate or spec_of(self.model.name).learning_rate,
            precision=self.precision,
            memory_format=self.memory_format,
        )

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values, as config.yaml and checkpoints hold it."""
        values: dict[str, Any] = plain(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`. Raises TypeError or KeyError for anything else."""
        values = dict(values)
        data = dict(values.pop("data"))
        data["data_dir"] = Path(data["data_dir"])
        for name in ("run_dir", "augment_file"):
            values[name] = Path(values[name]) if values[name] else None
        normalisation = values.pop("normalisation", None)
        if "accelerator" in values:  # an earlier name, whose "gpu" meant CUDA or MPS
            values["device"] = values.pop("accelerator").replace("gpu", "auto")
        return cls(
            model=ModelConfig(**values.pop("model")),
            data=DataConfig(**data),
            recipe=Recipe(**values.pop("recipe")),
            normalisation=Normalisation(**normalisation) if normalisation else None,
            **values,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeConfig:
    """A run to continue, and what may differ from how it was started."""

    run_dir: Path
    data_dir: Path | None = None
    """Where the dataset is now; None for where it was."""
    max_epochs: int | None = None
    """None keeps the run's."""
    max_seconds: float | None = None
    """Of the whole run, the time before the interruption included. None keeps the run's."""
    patience: int | None = None
    """0 for no limit. None keeps the run's."""
    devices: int | Literal["auto"] | None = None
    """As in TrainConfig: a run may continue on another number of devices. None keeps the run's."""
    num_nodes: int | None = None
    """None keeps the run's."""

    def __post_init__(self) -> None:
        if isinstance(self.devices, int):
            require_at_least("--devices", self.devices, 1, example=2)
        if self.num_nodes is not None:
            require_at_least("--num-nodes", self.num_nodes, 1, example=2)
