"""The batch size of `cifar train --batch auto`, and the reason for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.memory.config import GIB, MemoryConfig
from cifar_cli.core.memory.estimate import MOST, Tracer, memory_remedy, require_weights_fit
from cifar_cli.core.memory.gpus import Gpu
from cifar_cli.core.memory.host import limited_to_available
from cifar_cli.core.memory.measure import Machine, host_peaks, if_traceable, max_batch_on_gpu, this_machine
from cifar_cli.core.memory.real_steps import RunSteps, try_steps
from cifar_cli.core.memory.results import BatchChoice, BatchSpeed, knee_of
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.out_of_memory import is_out_of_memory
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.numerics import offered_precisions
from cifar_cli.errors import ResourceError

MARGIN = 0.05
HOST_SIZES = (16, 32, 64, 128, 256, 512)
USUAL = 128  # the batch size of the recipe `course`
HOST_SECONDS = 10.0  # a size is not timed if that would probably end later than this
_STEPS_A_SIZE = 3  # timing one size takes about as long as this many steps, the first one included
_FLAT = 2  # timing ends after so many sizes in a row that are no faster


def choose_batch(
    model: ModelConfig,
    step: StepConfig,
    *,
    device: DeviceChoice = "auto",
    most: int = MOST,
    sharing: int = 1,
    machine: Machine | None = None,
    run_steps: RunSteps = try_steps,
    on_progress: OnProgress = silent,
) -> BatchChoice:
    """Choose the images per training step. The learning rate and the number of steps are left to the caller.

    The smallest batch within 5 % of the best throughput. On a CUDA GPU: among the sizes that ran while the largest one
    was measured and verified, with 5 % of the memory left free. On the CPU: among a few sizes, in about 10 seconds.
    most: no larger batch, for example the number of training images. sharing: processes that share the memory of this
    machine, each of which gets such a batch; a GPU has one. machine: None for this one. run_steps: times
    steps on the CPU.
    On a GPU it starts processes, which import the caller's main module: that must be guarded with
    `if __name__ == "__main__"`. Raises ResourceError when no batch size fits, or without the GPU asked for.
    """
    machine = machine or this_machine()
    if device == "mps" or (device == "cuda" and machine.gpu is None):
        raise ResourceError(
            f"there is no {device.upper()} device whose memory can be measured", remedy="pass --device cpu, or auto"
        )
    gpu = None if device == "cpu" else machine.gpu
    config = MemoryConfig(model=model, step=step, backend="cpu" if gpu is None else "cuda")
    tracer = Tracer(config, on_progress=on_progress)
    if gpu is None:
        return _on_host(tracer, int((1 - MARGIN) * machine.spare_host_bytes() / sharing), run_steps, most=most)
    return _on_gpu(tracer, machine, gpu, most=most)


def _on_gpu(tracer: Tracer, machine: Machine, gpu: Gpu, *, most: int) -> BatchChoice:
    *_, found = max_batch_on_gpu(tracer, gpu, margin=MARGIN, most=most, start=machine.start)
    if not found.max_batch:
        raise ResourceError(
            f"no batch size of {tracer.config.model.label} fits into {gpu.memory_bytes / GIB:.1f} GiB on {gpu.name}",
            remedy=found.help,
        )
    largest = f"the largest that ran on {gpu.name} with {MARGIN:.0%} left free"
    why = "all training images" if found.max_batch == most else largest
    chosen = found.knee_batch
    if chosen is not None and chosen < found.max_batch:
        speeds = {speed.batch: speed.images_per_second for speed in found.speeds}
        reason = (
            f"batch {chosen}: {speeds[chosen]:,.0f} images/s on {gpu.name}; the best of all sizes reaches "
            f"{max(speeds.values()):,.0f}, and batch {found.max_batch} is {why}"
        )
        return BatchChoice(batch=chosen, reason=reason, images_per_second=speeds[chosen], largest=found)
    return BatchChoice(batch=found.max_batch, reason=f"batch {found.max_batch}: {why}", largest=found)


def _on_host(tracer: Tracer, usable: int, run_steps: RunSteps, *, most: int) -> BatchChoice:
    config = tracer.config
    require_weights_fit(tracer, usable)
    all_sizes = sorted({min(size, most) for size in HOST_SIZES})
    sizes = if_traceable(tracer, lambda: [size for size in all_sizes if host_peaks(tracer)(size) <= usable])
    if sizes is None:  # no larger batch than people use anyway, because nothing says what it takes
        sizes = [size for size in all_sizes if size <= max(USUAL, all_sizes[0])]
    if not sizes:
        raise ResourceError(
            f"{min(HOST_SIZES[0], most)} images of {config.model.label} don't fit into {usable / GIB:.1f} GiB",
            remedy=memory_remedy(config, offered_precisions(torch.device("cpu"))[-1]),
        )

    def speed(batch: int) -> float:
        tracer.on_progress(Progress(task=f"timing {config.model.label}", detail=f"batch {batch}"))
        try:
            with limited_to_available():
                return run_steps(config, batch, device="cpu")
        except Exception as error:  # a model may raise anything
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"{batch:,} images of {config.model.label} don't fit into the memory of this machine",
                remedy=memory_remedy(config, offered_precisions(torch.device("cpu"))[-1]),
            ) from error

    speeds = time_sizes(sizes, speed)
    return _chosen(speeds, sizes if tracer.failure is None else [timed.batch for timed in speeds])


def _chosen(speeds: list[BatchSpeed], sizes: list[int]) -> BatchChoice:
    """The knee of the speeds; where steps are too slow to compare sizes, the usual batch or the largest that fits."""
    if len(speeds) < 2 <= len(sizes):
        usual = max(size for size in sizes if size <= max(USUAL, sizes[0]))
        return BatchChoice(
            batch=usual,
            reason=f"batch {usual}: it fits, and steps on this CPU are too slow to time several sizes first",
        )
    chosen = knee_of(speeds)
    assert chosen is not None, "the first size is always timed"
    reached = next(timed.images_per_second for timed in speeds if timed.batch == chosen)
    best = max(timed.images_per_second for timed in speeds)
    tried = ", ".join(str(timed.batch) for timed in speeds)
    return BatchChoice(
        batch=chosen,
        reason=f"batch {chosen}: {reached:,.0f} images/s on the CPU; the best of {tried} reaches {best:,.0f}",
        images_per_second=reached,
    )


def time_sizes(
    sizes: list[int], speed: Callable[[int], float], *, clock: Callable[[], float] = time.monotonic
) -> list[BatchSpeed]:
    """Time sizes in ascending order, until larger ones are no faster, would take too long, or don't fit.

    Raises ResourceError where the first doesn't fit.
    """
    start, flat = clock(), 0
    timed: list[BatchSpeed] = []
    for size in sizes:
        best = max((known.images_per_second for known in timed), default=0.0)
        if timed and clock() - start + _STEPS_A_SIZE * size / timed[-1].images_per_second > HOST_SECONDS:
            break
        try:
            timed.append(BatchSpeed(batch=size, images_per_second=speed(size)))
        except ResourceError:
            if not timed:
                raise
            break
        flat = 0 if timed[-1].images_per_second > best else flat + 1
        if flat == _FLAT:
            break
    return timed
