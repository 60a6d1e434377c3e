"""Configs of memory estimates and measurements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cifar_cli.core.choices import (
    DeviceChoice,
    MemoryFormat,
    OptimizerName,
    Precision,
    StrategyChoice,
    require_at_least,
    require_choice,
)
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.errors import ConfigError

Backend = Literal["cuda", "cpu"]
Risk = Literal["even", "safe"]
"""How a prediction allows for memory that is not derived: by half of the range seen, or by all of it."""
MOST_MARGIN = 0.9

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """A model and its training step.

    Raises ConfigError for a value that is not offered, and for values that contradict each other.
    """

    model: ModelConfig
    step: StepConfig = field(default_factory=StepConfig)
    backend: Backend = "cuda"
    """Where the step runs: its operators, autocast lists and optimizer kernels are those of this backend."""
    evaluate: bool = False
    """A forward pass without gradients in place of a training step."""
    accumulate: int = 1
    """Parts of the batch, one after the other, whose gradients are added before the weights change."""
    grad_checkpointing: bool = False
    """Keep the input of each block only, and compute its activations again in the backward pass."""
    compile: bool = False
    """Run the model through torch.compile. A trace doesn't see what that changes."""
    devices: int = 1
    """GPUs that share the batch; the memory is that of one of them."""
    strategy: StrategyChoice = "auto"
    """How several GPUs share a step, as in TrainConfig."""

    def __post_init__(self) -> None:
        require_choice("--optimizer", self.step.optimizer, OptimizerName)
        require_choice("--precision", self.step.precision, Precision)
        require_choice("--memory-format", self.step.memory_format, MemoryFormat)
        require_choice("--strategy", self.strategy, StrategyChoice)
        require_at_least("--accumulate", self.accumulate, 1, example=4)
        require_at_least("--devices", self.devices, 1, example=4)
        for flag, given in self._of_training().items():
            if self.evaluate and given:
                raise ConfigError(
                    f"{flag} belongs to a training step, and --eval is a forward pass", remedy="leave one of them out"
                )
        if self.shards and self.step.optimizer.startswith("muon"):
            raise ConfigError(
                f"--optimizer {self.step.optimizer} needs whole matrices, and --strategy fsdp keeps parts",
                remedy="pass --strategy ddp, or another --optimizer",
            )

    def _of_training(self) -> dict[str, bool]:
        return {
            "--accumulate": self.accumulate > 1,
            "--grad-checkpointing": self.grad_checkpointing,
            "--devices": self.devices > 1,
            "--ema-decay": self.step.ema_decay is not None,
            "--freeze": self.step.freeze != "none",
        }

    @property
    def shards(self) -> bool:
        """Whether each GPU keeps a part of the weights only."""
        return self.devices > 1 and self.strategy == "fsdp"

    def images_at_once(self, batch: int) -> int:
        """Images of a batch that one GPU computes with at the same time."""
        return -(-batch // (self.devices * self.accumulate))


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRequest:
    """The request of `cifar profile-memory`.

    Raises ConfigError for values that contradict each other or are out of range.
    """

    configs: tuple[MemoryConfig, ...]
    batches: tuple[int, ...] = (128,)
    """Images per step, one peak each. Not used with `find_max_batch`."""
    find_max_batch: bool = False
    gpus: tuple[str, ...] = ()
    """Names of cards to estimate for."""
    memory_bytes: int | None = None
    """Memory of the card to estimate for; with `measure`, the upper limit. None for all memory of the device."""
    estimate: bool = False
    """Only predict, even on a machine with a GPU."""
    measure: bool = False
    """Run real steps. Raises where the device is missing."""
    device: DeviceChoice = "auto"
    """Where real steps run: "auto" is the CUDA GPU, and estimates where there is none."""
    risk: Risk = "safe"
    margin: float = 0.0
    """Share of the memory that stays free, 0 to 0.9."""
    multiple_of: int = 1
    """Only multiples of this number are considered."""
    precision_auto: bool = False
    """Take on each card the precision that training probably chooses there, in place of the configs'."""
    what_would_help: bool = False
    """Rank the measures that save memory, for each batch that doesn't fit."""

    @property
    def names_memory(self) -> bool:
        """Whether the memory of a card is given, which need not be this machine's."""
        return bool(self.gpus) or self.memory_bytes is not None

    def __post_init__(self) -> None:
        require_choice("--device", self.device, DeviceChoice)
        require_choice("--risk", self.risk, Risk)
        for batch in self.batches:
            require_at_least("--batch", batch, 1, example=128)
            for config in self.configs:
                if not self.find_max_batch and batch < config.devices * config.accumulate:
                    raise ConfigError(
                        f"--batch {batch} holds less than one image for each of {config.devices * config.accumulate} "
                        "parts",
                        remedy="pass a larger --batch, which is over all devices and parts together",
                    )
        if self.device == "mps":
            raise ConfigError("the memory of an MPS device can't be measured", remedy="pass --device cpu, cuda or auto")
        if self.gpus and self.memory_bytes is not None:
            raise ConfigError("--gpu and --memory both set the memory size", remedy="pass one of them")
        if self.estimate and self.measure:
            raise ConfigError("--estimate and --measure contradict each other", remedy="pass one of them")
        if self.measure and any(config.devices > 1 for config in self.configs):
            raise ConfigError(
                "--measure runs steps in one process, and --devices asks for several",
                remedy="leave one of them out",
            )
        if self.what_would_help and (self.find_max_batch or self.measure):
            raise ConfigError(
                "--what-would-help estimates given batch sizes",
                remedy=f"leave {'--find-max-batch' if self.find_max_batch else '--measure'} out",
            )
        require_at_least("--multiple-of", self.multiple_of, 1, example=8)
        if self.measure and self.gpus:
            raise ConfigError(
                "--gpu names a card to estimate for, and --measure runs on this machine", remedy="leave one of them out"
            )
        if not 0 <= self.margin <= MOST_MARGIN:
            raise ConfigError(
                f"--margin {self.margin:g} is not a share of the memory", remedy="pass --margin 5%, at most 90%"
            )
        if self.memory_bytes is not None:
            require_at_least("--memory", self.memory_bytes, 1, example="24GiB")
