"""What profiling memory found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Method = Literal["estimate", "measure"]
TrialKind = Literal["ran", "out of memory", "refused", "died", "timed out", "failed"]
KNEE_SHARE = 0.95  # of the best speed: up to here a smaller batch counts as just as fast


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
class Trial:
    """One batch size that was tried. kind: "ran", or why it doesn't count; "refused" was not even started.

    The figures hold where it ran. device_bytes: what the device lacked while it ran, other processes included.
    why: a few words where `kind` doesn't say it all. host: the figures are host memory.
    """

    batch: int
    kind: TrialKind
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int = 0
    device_bytes: int = 0
    images_per_second: float | None = None
    why: str = ""
    host: bool = False

    @property
    def ran(self) -> bool:
        return self.kind == "ran"


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Training images a second at one batch size, once the kernels are prepared."""

    batch: int
    images_per_second: float


def knee_of(speeds: Iterable[Speed]) -> int | None:
    """The smallest batch within 5 % of the best speed seen; None where nothing was timed."""
    seen = list(speeds)
    best = max((speed.images_per_second for speed in seen), default=0.0)
    return min((speed.batch for speed in seen if speed.images_per_second >= KNEE_SHARE * best), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxBatch:
    """The largest batch on one card. max_batch is 0 when not even one image fits.

    memory_bytes: what the card gives. peak: of max_batch, or of the smallest traced batch where nothing fits.
    margin_left_bytes: memory that stays free at max_batch. tested: batch sizes traced or run, in order.
    proved: a fresh process ran an epoch in small at max_batch. stopped_by: why the next size doesn't run, where
    that was tried. speeds: by batch, ascending, empty for estimates.
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
    proved: bool = False
    stopped_by: str | None = None
    speeds: tuple[Speed, ...] = ()

    @property
    def knee_batch(self) -> int | None:
        """From here on a larger batch is hardly faster: see `knee_of`."""
        return knee_of(self.speeds)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchChoice:
    """The batch that `train --batch auto` takes. reason: one sentence. largest: the search behind it, on a GPU."""

    batch: int
    reason: str
    images_per_second: float | None = None
    largest: MaxBatch | None = None
