"""Results of memory estimates and measurements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain

Method = Literal["estimate", "measure"]
TrialKind = Literal["ran", "out of memory", "died", "timed out", "failed"]
KNEE_SHARE = 0.95  # batches from this share of the best throughput on count as equally fast


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryTerms:
    """The terms of the memory at the peak; they add up to the memory taken from the device."""

    weights_bytes: int
    """Parameters and buffers; with FSDP this GPU's part of the parameters."""
    averaged_weights_bytes: int
    """The moving average of the weights, for recipes that keep one."""
    gathered_weights_bytes: int
    """The weights of the blocks that FSDP has gathered from all GPUs, and its buffers for them."""
    gradients_bytes: int
    gradient_buckets_bytes: int
    """Buffers in which gradients are averaged over several GPUs."""
    optimizer_bytes: int
    """The optimizer's state: momentum, second moments, step counts."""
    activations_bytes: int
    """Tensors that the forward pass keeps for the backward pass."""
    recomputed_activations_bytes: int
    """Tensors of one block, computed again in the backward pass by activation checkpointing."""
    input_bytes: int
    """One batch of images and labels."""
    temporaries_bytes: int
    """Intermediate results of the backward pass, of the optimizer and of averaging."""
    workspace_bytes: int
    """Scratch memory of cuBLAS and cuDNN."""
    allocator_overhead_bytes: int
    """Memory that the allocator holds and that no tensor uses."""
    context_bytes: int
    """The CUDA context with the loaded kernels."""
    not_derived_bytes: int
    """Allowance for larger workspaces, fragmentation and larger contexts: half of the range seen, or all of it."""

    @property
    def total_bytes(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleMemory:
    """Memory that one module's forward pass, or its repetition in the backward pass, holds at the peak."""

    name: str
    held_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakMemory(NotebookView):
    """The peak of one training step."""

    model: str
    batch: int
    """Images per step."""
    method: Method
    peak_allocated_bytes: int
    """In tensors, as PyTorch's allocator counts them."""
    peak_reserved_bytes: int
    """Memory that the allocator took from the device."""
    device_bytes: int
    """Reserved memory, the CUDA context and the allowance: the figure that must not exceed the device's memory."""
    terms: MemoryTerms | None = None
    """None for a measurement."""
    largest_modules: tuple[ModuleMemory, ...] = ()
    """The modules whose forward passes hold the most at the peak, descending; empty for a measurement."""
    bytes_per_image: float | None = None
    """Growth of the allocated memory between the smallest and the largest of several batch sizes, per image; None for a
    single batch size."""
    host: bool = False
    """The figures are host memory."""
    precision: Precision = "32"

    def to_dict(self) -> dict[str, Any]:
        return cast(dict[str, Any], plain(asdict(self)))


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTrial:
    """One batch size that was tried. The figures are those of a trial that ran."""

    batch: int
    kind: TrialKind
    """"ran", or why it didn't."""
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int = 0
    device_bytes: int = 0
    """Memory of the device that was in use during the trial, other processes included."""
    images_per_second: float | None = None
    why: str = ""
    """Details of `kind`, such as an exit code."""
    host: bool = False
    """The figures are host memory."""

    @property
    def ran(self) -> bool:
        return self.kind == "ran"


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSpeed:
    """Training throughput at one batch size, without the first step."""

    batch: int
    images_per_second: float


def knee_of(speeds: Iterable[BatchSpeed]) -> int | None:
    """The smallest batch within 5 % of the best throughput; None if nothing was timed."""
    timed = list(speeds)
    best = max((speed.images_per_second for speed in timed), default=0.0)
    return min((speed.batch for speed in timed if speed.images_per_second >= KNEE_SHARE * best), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxBatch(NotebookView):
    """The largest batch on one device."""

    model: str
    gpu: str
    """The card's name, an amount of memory, or "this host"."""
    memory_bytes: int
    """Memory of the device, the CUDA context included."""
    max_batch: int
    """0 if no batch size fits."""
    method: Method
    peak: PeakMemory
    """Of `max_batch`. If none fits, of the smallest traced batch, or of the smallest that was run; the latter has no
    figures where nothing ran."""
    margin_left_bytes: int
    """Memory that stays free at `max_batch`."""
    tested: tuple[int, ...]
    """Batch sizes that were traced or run, in that order."""
    help: str | None = None
    """The remedy if no batch size fits."""
    even_batch: int | None = None
    """The middle of a predicted range: the largest batch with half of the allowance; None for a measurement."""
    proved: bool = False
    """A fresh process ran 5 steps, a partial batch and a validation pass at `max_batch`."""
    stopped_by: str | None = None
    """The reason why the next size doesn't run; None if it was not tried."""
    speeds: tuple[BatchSpeed, ...] = ()
    """By batch, ascending; empty for an estimate."""

    @property
    def knee_batch(self) -> int | None:
        """The smallest batch with nearly the best throughput: see `knee_of`."""
        return knee_of(self.speeds)

    def to_dict(self) -> dict[str, Any]:
        """The keys of the peak and, beside them, those of the search."""
        found: dict[str, Any] = plain(asdict(self))
        peak: dict[str, Any] = found.pop("peak")
        if self.method == "measure" and not self.max_batch:
            unknown = ("batch", "peak_allocated_bytes", "peak_reserved_bytes", "device_bytes", "margin_left_bytes")
            found = found | dict.fromkeys(unknown)
        renamed = {"tested_batches": found.pop("tested"), "images_per_second": found.pop("speeds")}
        return peak | found | renamed | {"knee_batch": self.knee_batch}


@dataclass(frozen=True, kw_only=True, slots=True)
class FitCheck(NotebookView):
    """Whether one batch size fits into one card, predicted."""

    model: str
    batch: int
    gpu: str
    memory_bytes: int
    """Memory of the card, less the share that must stay free."""
    needed_bytes: int
    """With the allowance of the risk."""
    even_bytes: int
    """With half of the allowance."""
    precision: Precision = "32"
    help: str | None = None
    """What would help; None if it fits."""

    @property
    def fits(self) -> bool:
        return self.help is None

    @property
    def left_bytes(self) -> int:
        """What is left of the card; negative where the batch doesn't fit."""
        return self.memory_bytes - self.needed_bytes

    def to_dict(self) -> dict[str, Any]:
        return cast(dict[str, Any], plain(asdict(self))) | {"fits": self.fits, "left_bytes": self.left_bytes}


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedy:
    """One change of a step, and the memory of the step so changed, from a trace of its own."""

    options: str
    """What to add to the command."""
    needed_bytes: int
    saved_bytes: int
    """Negative where the change needs more."""
    fits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class HelpReport(NotebookView):
    """What would make one batch size smaller on one card."""

    check: FitCheck
    remedies: tuple[Remedy, ...] = ()
    """By the memory they save, the most first; empty if the batch fits."""
    not_possible: tuple[str, ...] = ()
    """Why other changes can't be made, one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = plain(asdict(self))
        check = found.pop("check")
        return {name: check[name] for name in ("model", "batch", "gpu", "needed_bytes")} | found


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryReport(NotebookView):
    """Result of `cifar profile-memory`: peaks by model and batch size, or largest batches by model and device."""

    peaks: tuple[PeakMemory, ...] = ()
    largest: tuple[MaxBatch, ...] = ()
    fits: tuple[FitCheck, ...] = ()
    """For every peak and every card that was named."""
    helps: tuple[HelpReport, ...] = ()
    """For every check, if that was asked for."""
    remarks: tuple[str, ...] = ()
    """What a reader must know about the predictions."""
    configs: tuple[MemoryConfig, ...] = ()
    """The models and steps that were asked for; each figure has its own precision."""

    def to_dict(self) -> dict[str, Any]:
        """The documented keys of `--json`."""
        peaks = [peak.to_dict() | {"max_batch": None, "memory_bytes": None} for peak in self.peaks]
        models = [*peaks, *(found.to_dict() for found in self.largest)]
        return {
            "models": models,
            "fits": [check.to_dict() for check in self.fits],
            "what_would_help": [found.to_dict() for found in self.helps],
            "remarks": list(self.remarks),
            "configs": [plain(asdict(config)) for config in self.configs],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchChoice:
    """The batch size of `cifar train --batch auto`."""

    batch: int
    reason: str
    """One sentence."""
    images_per_second: float | None = None
    """None if it was not timed."""
    largest: MaxBatch | None = None
    """The search behind the choice, on a GPU."""
