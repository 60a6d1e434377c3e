"""The batch size that `cifar train --batch auto` takes, and why."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from cifar_cli.core.choices import MemoryFormat
from cifar_cli.core.memory.config import GIB, MemoryConfig, StepConfig
from cifar_cli.core.memory.estimate import MOST, Tracer, require_weights_fit, what_would_help
from cifar_cli.core.memory.host import available_bytes
from cifar_cli.core.memory.measure import HOST_SHARE, gpu_and_memory, host_peaks, on_gpu
from cifar_cli.core.memory.real_steps import try_steps
from cifar_cli.core.memory.results import BatchChoice, Speed, knee_of
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import ResourceError

MARGIN = 0.05
HOST_SIZES = (16, 32, 64, 128, 256, 512)
USUAL = 128  # the course's
HOST_SECONDS = 10.0  # no further size is timed that would likely end later than this
_STEPS_A_SIZE = 3  # about what timing one size costs, the step that prepares kernels included
_FLAT = 2  # so many sizes in a row that bring nothing more end the timing


def choose_batch(
    model: ModelConfig,
    step: StepConfig,
    *,
    device: str = "auto",
    memory_format: MemoryFormat | None = None,
    margin: float = MARGIN,
    most: int = MOST,
    on_progress: OnProgress = silent,
) -> BatchChoice:
    """Choose images per training step; the learning rate and the number of steps are the caller's.

    On a CUDA GPU: the largest batch, measured and proved, with `margin` of the memory left free. On the CPU, where
    the largest one is no faster: the smallest of a few timed sizes within 5 % of the best images a second, in about
    10 seconds. device: "cuda" or "gpu", "cpu", or "auto" for the GPU where there is one. memory_format: of the training
    form that is timed on the CPU; None for the model as it is. most: no larger batch, as the number of training images.
    On a GPU it starts processes, which import the caller's main module: that must be guarded with
    `if __name__ == "__main__"`. Raises ResourceError when not one image fits.
    """
    if device in ("cuda", "gpu") or (device == "auto" and torch.cuda.is_available()):
        return _on_gpu(MemoryConfig(model=model, step=step), margin=margin, most=most, on_progress=on_progress)
    on_host = MemoryConfig(model=model, step=replace(step, physics="cpu"))
    return _on_host(on_host, memory_format, margin=margin, most=most, on_progress=on_progress)


def _on_gpu(config: MemoryConfig, *, margin: float, most: int, on_progress: OnProgress) -> BatchChoice:
    name, memory = gpu_and_memory()
    tracer = Tracer(config, on_progress=on_progress)
    require_weights_fit(tracer, memory)
    _, seen = on_gpu(
        tracer, name=name, memory_bytes=memory, margin=margin, most=most, with_speeds=False, on_progress=on_progress
    )
    if not seen.max_batch:
        raise ResourceError(
            f"not one image of {config.model.label} fits into {memory / GIB:.1f} GiB on {name}", remedy=seen.help
        )
    why = "all there are" if seen.max_batch == most else f"the largest that {name} ran with {margin:.0%} left free"
    return BatchChoice(batch=seen.max_batch, reason=f"batch {seen.max_batch}: {why}", largest=seen)


def _on_host(
    config: MemoryConfig, memory_format: MemoryFormat | None, *, margin: float, most: int, on_progress: OnProgress
) -> BatchChoice:
    tracer = Tracer(config, on_progress=on_progress)
    usable = (1 - margin) * HOST_SHARE * available_bytes()
    require_weights_fit(tracer, int(usable))
    peak = host_peaks(tracer)
    sizes = [size for size in sorted({min(size, most) for size in HOST_SIZES}) if peak(size) <= usable]
    if not sizes:
        raise ResourceError(
            f"{min(HOST_SIZES[0], most)} images of {config.model.label} don't fit into {usable / GIB:.1f} GiB",
            remedy=what_would_help(config),
        )

    def speed(batch: int) -> float:
        on_progress(Progress(task=f"timing {config.model.label}", detail=f"batch {batch}"))
        return try_steps(config, batch, device="cpu", memory_format=memory_format)

    return _chosen(time_sizes(sizes, speed), sizes)


def _chosen(speeds: list[Speed], sizes: list[int]) -> BatchChoice:
    """The knee of the speeds; where steps are too slow to compare sizes, the usual batch as far as it fits."""
    if len(speeds) < 2 <= len(sizes):
        usual = max(size for size in sizes if size <= max(USUAL, sizes[0]))
        return BatchChoice(
            batch=usual,
            reason=f"batch {usual}: it fits, and steps on this CPU are too slow to time several sizes first",
        )
    chosen = knee_of(speeds)
    assert chosen is not None, "the first size is always timed"
    reached = next(seen.images_per_second for seen in speeds if seen.batch == chosen)
    best = max(seen.images_per_second for seen in speeds)
    timed = ", ".join(str(seen.batch) for seen in speeds)
    return BatchChoice(
        batch=chosen,
        reason=f"batch {chosen}: {reached:,.0f} images/s on the CPU, and the best of {timed} is {best:,.0f}",
        images_per_second=reached,
    )


def time_sizes(
    sizes: list[int], speed: Callable[[int], float], *, clock: Callable[[], float] = time.monotonic
) -> list[Speed]:
    """Time sizes from the smallest on, until larger ones bring nothing or would take too long."""
    start, flat = clock(), 0
    found: list[Speed] = []
    for size in sizes:
        best = max((seen.images_per_second for seen in found), default=0.0)
        if found and clock() - start + _STEPS_A_SIZE * size / found[-1].images_per_second > HOST_SECONDS:
            break
        found.append(Speed(batch=size, images_per_second=speed(size)))
        flat = 0 if found[-1].images_per_second > best else flat + 1
        if flat == _FLAT:
            break
    return found
