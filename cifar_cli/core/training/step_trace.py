"""`--profile`: a profiler trace of a few steps, for TensorBoard and Perfetto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

WAIT, WARM_UP, RECORDED = 10, 2, 10  # steps


@contextmanager
def traced_steps(folder: Path, device: torch.device, *, steps: int) -> Iterator[Callable[[], None]]:
    """Record RECORDED steps after WAIT + WARM_UP into `folder`, or all of a run of fewer `steps`.

    Yields the function to call after each step.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    few = steps <= WAIT + WARM_UP + RECORDED
    with profile(
        activities=activities,
        schedule=None if few else schedule(wait=WAIT, warmup=WARM_UP, active=RECORDED, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(folder)),
        record_shapes=True,
    ) as running:
        yield running.step
