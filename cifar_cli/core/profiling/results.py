"""What profiling memory found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Method = Literal["estimate", "measure"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryTerms:
    """What the memory at the peak consists of; the terms add up to `total`."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    input_bytes: int
    temporaries_bytes: int
    workspace_bytes: int
    allocator_overhead_bytes: int
    context_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleMemory:
    """Bytes that one module's forward pass holds at the peak."""

    name: str
    held_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakMemory:
    """The peak of one training step.

    peak_allocated_bytes: tensors, as PyTorch's allocator counts them. peak_reserved_bytes: what the allocator
    took from the device. device_bytes: that and the context, what runs out. bytes_per_image: allocated, the
    slope between two batch sizes, None where only one was looked at.
    host: the figure is host memory.
    """

    model: str
    batch: int
    method: Method
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    device_bytes: int
    terms: MemoryTerms | None = None
    largest_modules: tuple[ModuleMemory, ...] = ()
    bytes_per_image: float | None = None
    host: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxBatch:
    """The largest batch on one card. max_batch is 0 when not even one image fits.

    memory_bytes: what the card gives. peak: of max_batch, or of one image where nothing fits.
    margin_left_bytes: memory that stays free at max_batch. tested: batch sizes traced or run, in order.
    """

    model: str
    gpu: str
    memory_bytes: int
    max_batch: int
    method: Method
    peak: PeakMemory
    margin_left_bytes: int
    tested: tuple[int, ...]
    help: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
