"""What to profile, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import MODELS
from cifar_cli.errors import ConfigError

Precision = Literal["32", "16", "bf16"]
OptimizerName = Literal["adam", "adamw", "sgd"]
Physics = Literal["cuda", "cpu"]

MIB = 1024**2
GIB = 1024**3
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": MIB, "gib": GIB}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """Everything that decides the memory of a training step, but the model and the batch.

    precision: "32", or autocast to "16" or "bf16" with float32 weights. clip_norm: L2, None for no clipping.
    keep_gradients: zero gradients in place instead of dropping them. backward_in_autocast: as some benchmarks do.
    foreach: optimizer over lists of tensors, torch's default on CUDA; None means that default.
    physics: whose operators and autocast lists to follow.
    """

    precision: Precision = "32"
    optimizer: OptimizerName = "adam"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    channels_last: bool = False
    keep_gradients: bool = False
    backward_in_autocast: bool = False
    foreach: bool | None = None
    physics: Physics = "cuda"

    def __post_init__(self) -> None:
        if self.precision not in ("32", "16", "bf16"):
            raise ConfigError(f"--precision {self.precision} is not offered", remedy="pass 32, 16 or bf16")
        if self.optimizer not in ("adam", "adamw", "sgd"):
            raise ConfigError(f"--optimizer {self.optimizer} is not offered", remedy="pass adam, adamw or sgd")

    @property
    def uses_foreach(self) -> bool:
        return self.physics == "cuda" if self.foreach is None else self.foreach


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """A model and its training step."""

    model: ModelConfig
    step: StepConfig = field(default_factory=StepConfig)


def step_config(*, precision: str, optimizer: str, channels_last: bool) -> StepConfig:
    """The course's step with the user's words checked. Raises ConfigError for an unknown word."""
    return StepConfig(
        precision=cast(Precision, precision), optimizer=cast(OptimizerName, optimizer), channels_last=channels_last
    )


def parse_bytes(text: str, *, flag: str = "--memory") -> int:
    """Read "24GiB", "100MB" or plain bytes. Raises ConfigError for anything else and for nothing at all."""
    remedy = f"pass a size such as {flag} 24GiB or {flag} 8000MB"
    digits = text.strip().rstrip("bBkKmMgGiI ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ConfigError(f"{flag} {text} is not an amount of memory", remedy=remedy) from None
    if not 1 <= size < float("inf"):
        raise ConfigError(f"{flag} {text} leaves no memory at all", remedy=remedy)
    return int(size)


def parse_margin(text: str) -> float:
    """Read "5%" or "0.05" as a fraction of the memory. Raises ConfigError outside 0..90 %."""
    try:
        margin = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        margin = -1.0
    if not 0 <= margin <= 0.9:
        raise ConfigError(f"--margin {text} is not a share of the memory", remedy="pass --margin 5%, at most 90%")
    return margin


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRequest:
    """What `profile` is asked. memory, margin: in the user's words, as "24GiB" and "5%"."""

    configs: tuple[MemoryConfig, ...]
    batches: tuple[int, ...] = (128,)
    find_max_batch: bool = False
    gpu: str | None = None
    memory: str | None = None
    estimate: bool = False
    measure: bool = False
    device: str = "cuda"
    margin: str = "0%"
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.gpu is not None and self.memory is not None:
            raise ConfigError("--gpu and --memory both say how much memory there is", remedy="pass one of them")
        if self.estimate and self.measure:
            raise ConfigError("--estimate and --measure exclude each other", remedy="pass one of them")
        if self.device not in ("cuda", "cpu"):
            raise ConfigError(f"--device {self.device} is not offered", remedy="pass cuda or cpu")
        if self.multiple_of < 1:
            raise ConfigError(
                f"--multiple-of {self.multiple_of} leaves no batch size", remedy="pass 1 or more, often 8"
            )
        if self.measure and self.find_max_batch and self.gpu is not None:
            raise ConfigError(
                "--gpu names a card to estimate for, and --measure runs on this machine", remedy="leave one of them out"
            )
        parse_margin(self.margin)
        if self.memory is not None:
            parse_bytes(self.memory)


def memory_configs(names: list[str], step: StepConfig, **options: Any) -> tuple[MemoryConfig, ...]:
    """One config for each model; "all" names the registry's. options: further fields of ModelConfig."""
    flat = [known for name in names for known in (MODELS if name == "all" else (name,))]
    return tuple(MemoryConfig(model=ModelConfig(name=name, weights="none", **options), step=step) for name in flat)
