"""The largest batch that fits, never one that was not traced."""

from __future__ import annotations

from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.gpus import CONTEXT_BYTES
from cifar_cli.core.memory.replay import WORKSPACE_BYTES, between, fits, peak_of, tensor_peak_bytes
from cifar_cli.core.memory.results import MaxBatch, PeakMemory
from cifar_cli.core.memory.search import largest_that
from cifar_cli.core.memory.trace import Trace, trace_steps
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import ConfigError, ResourceError

FIRST_SIZES = (8, 32)  # batch normalisation needs more than one image where the features are 1x1
MOST = 1 << 22  # no step takes more images than this


class Tracer:
    """Traces of one model by batch size, each made once."""

    def __init__(self, config: MemoryConfig, *, on_progress: OnProgress = silent) -> None:
        self.config = config
        self.model = build_untrained(config.model)
        self._traces: dict[int, Trace] = {}
        self._on_progress = on_progress

    def at(self, batch: int) -> Trace:
        """The trace of a batch size. Raises ModelError when it can't be traced."""
        if batch not in self._traces:
            self._on_progress(
                Progress(task=f"tracing {self.config.model.label}", done=len(self._traces), detail=f"batch {batch}")
            )
            self._traces[batch] = trace_steps(
                self.model,
                batch,
                img_size=self.config.model.img_size,
                classes=self.config.model.classes,
                step=self.config.step,
            )
        return self._traces[batch]

    def foreseen(self, batch: int) -> Trace | None:
        """What the trace of a batch should be, from two small ones; None where they don't tell."""
        low, high = (self.at(size) for size in FIRST_SIZES)
        return between(low, high, batch)

    def smallest_peak(self) -> PeakMemory:
        """The peak of the smallest batch that is traced."""
        return peak_of(self.at(FIRST_SIZES[0]), model=self.config.model.label)

    def line(self) -> tuple[float, float]:
        """Bytes at batch 0 and bytes an image, through two small traces."""
        low, high = FIRST_SIZES
        at_low, at_high = (tensor_peak_bytes(self.at(size)) for size in FIRST_SIZES)
        slope = (at_high - at_low) / (high - low)
        return at_low - slope * low, slope


def estimate(config: MemoryConfig, batch: int) -> PeakMemory:
    """Predict the peak of one batch size on CUDA. Raises ConfigError and ModelError."""
    return peak_of(Tracer(config).at(batch), model=config.model.label)


def find_max_batch(
    tracer: Tracer, *, gpu: str, memory_bytes: int, margin: float = 0.0, multiple_of: int = 1
) -> MaxBatch:
    """The largest batch whose two traced steps run in (1 - margin) of the memory, and whose next one doesn't.

    memory_bytes: the device's total, context included.
    """
    if multiple_of < 1:
        raise ConfigError(f"--multiple-of {multiple_of} leaves no batch size", remedy="pass 1 or more, often 8")
    usable = int(memory_bytes * (1 - margin))
    tested: list[int] = []

    def runs(multiples: int) -> bool:
        batch = multiples * multiple_of
        tested.append(batch)
        return fits(tracer.at(batch), usable)

    fixed, slope = tracer.line()

    def should_run(multiples: int) -> bool:
        foreseen = tracer.foreseen(multiples * multiple_of)
        return runs(multiples) if foreseen is None else fits(foreseen, usable)

    most = MOST // multiple_of
    guess = int((usable - CONTEXT_BYTES - WORKSPACE_BYTES - fixed) / max(slope, 1.0)) // multiple_of
    foreseen = largest_that(should_run, guess=guess, most=most)
    best = largest_that(runs, guess=foreseen, most=most) * multiple_of
    peak = peak_of(
        tracer.at(best or FIRST_SIZES[0]),
        model=tracer.config.model.label,
        capacity_bytes=max(0, usable - CONTEXT_BYTES) if best else None,
    )
    return MaxBatch(
        model=tracer.config.model.label,
        gpu=gpu,
        memory_bytes=memory_bytes,
        max_batch=best,
        method="estimate",
        peak=peak,
        margin_left_bytes=memory_bytes - peak.device_bytes,
        tested=tuple(dict.fromkeys(tested)),
        help=None if best else what_would_help(tracer.config),
    )


def require_weights_fit(tracer: Tracer, memory_bytes: int) -> None:
    """Raises ResourceError when the weights alone, on a GPU with the CUDA context, don't fit."""
    weights = sum(p.numel() * p.element_size() for p in tracer.model.parameters())
    on_gpu = tracer.config.step.physics == "cuda"
    if weights + on_gpu * CONTEXT_BYTES > memory_bytes:
        context = f" and the CUDA context ({CONTEXT_BYTES / MIB:.0f} MiB)" if on_gpu else ""
        raise ResourceError(
            f"the weights of {tracer.config.model.label} ({weights / MIB:.0f} MiB){context} alone don't fit into "
            f"{memory_bytes / MIB:.0f} MiB",
            remedy="pass more --memory, or a smaller --model",
        )


def what_would_help(config: MemoryConfig) -> str:
    """What to try when not even one image fits."""
    helps = []
    if config.step.precision == "32":
        helps.append("--precision bf16")
    if config.step.optimizer != "sgd":
        helps.append("--optimizer sgd")
    if config.model.name == "hybrid" and not config.model.trim_backbone:
        helps.append("--trim-backbone")
    helps.append("a smaller --img-size, or gradient accumulation over smaller batches")
    return "try " + ", ".join(helps)
