"""The largest batch that fits, never one that was not traced."""

from __future__ import annotations

from collections.abc import Callable

from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.profiling.config import GIB, MIB, MemoryConfig, StepConfig
from cifar_cli.core.profiling.gpus import CONTEXT_BYTES
from cifar_cli.core.profiling.replay import WORKSPACE_BYTES, between, fits, peak_of, tensor_peak_bytes
from cifar_cli.core.profiling.results import MaxBatch, PeakMemory
from cifar_cli.core.profiling.trace import Trace, trace_steps
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

    low, high = (tracer.at(size) for size in FIRST_SIZES)

    def should_run(multiples: int) -> bool:
        foreseen = between(low, high, multiples * multiple_of)
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


def largest_that(runs: Callable[[int], bool], *, guess: int, most: int) -> int:
    """An n in 1..most for which `runs` holds and n + 1 doesn't; 0 when none does.

    Starts at the guess, brackets with growing steps and bisects.
    """
    low, high, stride = 0, most + 1, 1
    at = min(max(guess, 1), most)
    while high - low > 1:
        if runs(at):
            low = at
        else:
            high = at
        if low and high <= most:
            at = (low + high) // 2
        else:
            at = min(low + stride, most) if low else max(high - stride, 1)
            stride *= 4
    return low


def require_weights_fit(tracer: Tracer, memory_bytes: int) -> None:
    """Raises ResourceError when the weights alone, with the CUDA context, don't fit."""
    weights = sum(p.numel() * p.element_size() for p in tracer.model.parameters())
    if weights + CONTEXT_BYTES > memory_bytes:
        raise ResourceError(
            f"the weights of {tracer.config.model.label} ({weights / MIB:.0f} MiB) and the CUDA context "
            f"({CONTEXT_BYTES / MIB:.0f} MiB) alone don't fit into {memory_bytes / MIB:.0f} MiB",
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


def choose_batch(
    model: ModelConfig, step: StepConfig, *, memory_bytes: int, gpu: str = "this device", margin: float = 0.05
) -> MaxBatch:
    """For `train --batch auto`: the largest batch by estimate. Raises ResourceError when nothing fits."""
    tracer = Tracer(MemoryConfig(model=model, step=step))
    require_weights_fit(tracer, memory_bytes)
    chosen = find_max_batch(tracer, gpu=gpu, memory_bytes=memory_bytes, margin=margin)
    if not chosen.max_batch:
        raise ResourceError(f"not one image fits into {memory_bytes / GIB:.1f} GiB", remedy=chosen.help)
    return chosen
