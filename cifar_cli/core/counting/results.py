"""Results of `cifar summarize`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.notebook import NotebookView


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One row of the layer table. The columns `params` and `macs` add up to the model's totals at any depth."""

    name: str
    """The attribute's name inside its parent."""
    kind: str
    """The module's class."""
    depth: int
    """0 for the model itself."""
    input_shape: tuple[int, ...]
    """Shape with the batch; empty for a container that torchinfo saw no tensor enter."""
    output_shape: tuple[int, ...]
    """Shape with the batch; empty for a container that torchinfo saw no tensor leave."""
    params: int | None
    """A leaf's parameters, or a container's own; at the last depth those of all modules below as well.
    None for none, or for a module counted in an earlier row."""
    trainable: str
    """"yes", "no", "part", or "" without parameters."""
    macs: int | None
    """torchinfo's multiply-adds of the batch, for the same modules as `params`; None for none."""
    recurs: bool
    """Whether the module was called before, so that its parameters count in an earlier row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LargeLayer:
    """A module with many parameters of its own."""

    path: str
    kind: str
    """The class and its dimensions, such as "Linear 4096→128"."""
    params: int
    """Parameters that the module holds itself, without those of its children."""
    share_of_params: float
    """Fraction of the model's parameters, 0..1."""
    unused: bool
    """Whether none of the module's own parameters reaches the logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusedPart:
    """A module none of whose parameters reaches the logits, or a single such parameter."""

    path: str
    params: int


@dataclass(frozen=True, kw_only=True, slots=True)
class UncountedOperator:
    """An operator that does arithmetic but has no FLOP formula."""

    name: str
    group: str
    """"elementwise", "normalisation", "pooling", "softmax", "reduction", "resampling" or "unknown".
    With "unknown", the FLOPs may lack a large part of the model."""
    calls: int
    """Calls in one training step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMemory:
    """Bytes of a float32 training step by a simple count: no allocator, workspace or temporary tensor."""

    weight_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    """One gradient for each parameter that gets one."""
    adam_bytes: int
    """Adam's two moments for each gradient."""
    activation_bytes: int
    """torchinfo's count: outputs of layers with parameters, and their gradients."""

    @property
    def total_bytes(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSummary(NotebookView):
    """Everything counted about one model."""

    label: str
    config: ModelConfig
    batch: int
    """Images per batch."""
    total_params: int
    """Shared parameters count once."""
    trainable_params: int
    unused_params: int
    """Trainable parameters that get no gradient from the logits."""
    unused_parts: tuple[UnusedPart, ...]
    unused_remedy: str | None
    """The flag that leaves the unused parameters out; None if there is none."""
    macs_per_image: int
    """torchinfo's multiply-adds: no attention products, a linear layer once per image."""
    macs_per_batch: int
    forward_flops_per_image: int
    """torch's FLOP counter, including attention products."""
    forward_flops_per_batch: int
    train_step_flops_per_batch: int
    """Forward and backward pass, without the optimizer's update."""
    forward_bytes_moved_per_batch: int
    """Bytes that every operator except views reads and writes, each tensor once per operator."""
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

    @property
    def unused_share_of_params(self) -> float:
        """Fraction of the model's parameters, 0..1."""
        return self.unused_params / self.total_params if self.total_params else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The model and every count, as JSON can hold them."""
        counted = asdict(self)
        config, layers, memory = counted.pop("config"), counted.pop("layers"), counted.pop("memory")
        return {
            "name": config["name"],
            "classes": config["classes"],
            "img_size_pixels": config["img_size"],
            **{option: config[option] for option in _OPTIONS_OF.get(self.config.name, ())},
            **counted,
            "unused_share_of_params": self.unused_share_of_params,
            "memory": {**memory, "total_bytes": self.memory.total_bytes},
            "weight_bytes": self.weight_bytes,
            "forward_flops_per_byte": self.forward_flops_per_byte,
            "layers": layers,
        }


_OPTIONS_OF = {
    "cnn": ("backbone", "small_images"),
    "airbench": ("width", "residual"),
    "hybrid": ("patch_size", "trim_backbone"),
}

COUNTS = (
    *("total_params", "trainable_params", "unused_params", "weight_bytes", "macs_per_image", "macs_per_batch"),
    *("forward_flops_per_image", "forward_flops_per_batch", "train_step_flops_per_batch", "forward_flops_per_byte"),
    *(f"memory.{name}" for name in (*TrainingMemory.__slots__, "total_bytes")),
)
"""The counts in which models are compared: paths of attributes of a ModelSummary, and of keys of its JSON."""

_MORE_IS_BETTER = "forward_flops_per_byte"


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryReport(NotebookView):
    """Several models side by side."""

    models: tuple[ModelSummary, ...]

    def best(self, count: str) -> tuple[int, ...]:
        """Positions in `models` of the best value of one of COUNTS; empty where all models are equal.

        The best value is the highest for FLOPs per byte and the lowest for every other count.
        """
        values = [attrgetter(count)(model) for model in self.models]
        best = max(values) if count == _MORE_IS_BETTER else min(values)
        places = tuple(place for place, value in enumerate(values) if value == best)
        return places if len(places) < len(values) else ()

    def to_dict(self) -> dict[str, Any]:
        """`models`, and in `best` the positions of the best models for each count in which they differ."""
        best = {count: self.best(count) for count in COUNTS}
        return {
            "models": [model.to_dict() for model in self.models],
            "best": {count: places for count, places in best.items() if places},
        }
