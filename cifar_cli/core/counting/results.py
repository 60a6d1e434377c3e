"""What `summarize` answers."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_cli.core.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One row of torchinfo's layer table.

    name: the attribute's name inside its parent. depth: 0 for the model itself.
    input_shape, output_shape: with the batch; empty for a container that torchinfo saw no tensor enter.
    params, macs: what this row stands for in the sums of its columns: a leaf's own; a container's own parameters,
    or everything below it where the depth ends; None for nothing, or for a layer counted in an earlier row.
    trainable: "yes", "no", "part", or "" without parameters.
    """

    name: str
    kind: str
    depth: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    params: int | None
    trainable: str
    macs: int | None
    recurs: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LargeLayer:
    """A layer by the parameters that it holds itself; share_of_params is a fraction of the model's."""

    path: str
    kind: str
    params: int
    share_of_params: float
    unused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedPart:
    """A module none of whose parameters reaches the logits."""

    path: str
    params: int


@dataclass(frozen=True, kw_only=True, slots=True)
class UncountedOperator:
    """An operator that does arithmetic and adds nothing to the FLOPs.

    group: "elementwise", "normalisation", "pooling", "softmax", "reduction", "resampling", or "unknown" for one
    that this tool has no opinion about: the FLOPs may lack something that matters.
    calls: in one training step.
    """

    name: str
    group: str
    calls: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMemory:
    """Bytes that a training step holds by a simple count, in float32.

    gradient_bytes, adam_bytes: of the parameters that get a gradient (Adam keeps two values for each).
    activation_bytes: torchinfo's: outputs of the layers with parameters, twice, for their gradients.
    """

    weight_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    adam_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSummary:
    """Everything counted about one model.

    unused_params: trainable parameters that got no gradient from the logits.
    macs_*: torchinfo's multiply-adds. *_flops_*: torch's FLOP counter, attention products included;
    train_step_flops_per_batch: forward and backward as counted.
    forward_bytes_moved_per_batch: what every operator that is not a view reads and writes, each tensor once per
    operator. forward_flops_per_byte: the batch's forward FLOPs divided by that.
    """

    label: str
    config: ModelConfig
    batch: int
    total_params: int
    trainable_params: int
    unused_params: int
    unused_parts: tuple[UnusedPart, ...]
    unused_remedy: str | None
    macs_per_image: int
    macs_per_batch: int
    forward_flops_per_image: int
    forward_flops_per_batch: int
    train_step_flops_per_batch: int
    forward_bytes_moved_per_batch: int
    memory: TrainingMemory
    largest_layers: tuple[LargeLayer, ...]
    layers: tuple[LayerRow, ...]
    uncounted_operators: tuple[UncountedOperator, ...]

    @property
    def weight_bytes(self) -> int:
        return self.memory.weight_bytes

    @property
    def forward_flops_per_byte(self) -> float:
        return self.forward_flops_per_batch / self.forward_bytes_moved_per_batch
