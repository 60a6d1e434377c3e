"""Configs of memory estimates and measurements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cifar_cli.core.choices import (
    DeviceChoice,
    MemoryFormat,
    OptimizerName,
    Precision,
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

    Raises ConfigError for an optimizer, a precision or a memory format that is not offered.
    """

    model: ModelConfig
    step: StepConfig = field(default_factory=StepConfig)
    backend: Backend = "cuda"
    """Where the step runs: its operators, autocast lists and optimizer kernels are those of this backend."""

    def __post_init__(self) -> None:
        require_choice("--optimizer", self.step.optimizer, OptimizerName)
        require_choice("--precision", self.step.precision, Precision)
        require_choice("--memory-format", self.step.memory_format, MemoryFormat)


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

    def __post_init__(self) -> None:
        require_choice("--device", self.device, DeviceChoice)
        require_choice("--risk", self.risk, Risk)
        for batch in self.batches:
            require_at_least("--batch", batch, 1, example=128)
        if self.device == "mps":
            raise ConfigError("the memory of an MPS device can't be measured", remedy="pass --device cpu, cuda or auto")
        if self.gpus and self.memory_bytes is not None:
            raise ConfigError("--gpu and --memory both set the memory size", remedy="pass one of them")
        if self.estimate and self.measure:
            raise ConfigError("--estimate and --measure contradict each other", remedy="pass one of them")
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
