"""What a training step really takes: on the host through the profiler, on a GPU in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from typing import Any, Literal

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.profiling.config import MemoryConfig
from cifar_cli.core.profiling.results import PeakMemory
from cifar_cli.core.profiling.trace import make_optimizer
from cifar_cli.errors import ConfigError, ResourceError

STEPS = 5
_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a child process ended. kind: "done", "out of memory", "died" or "timed out"."""

    kind: Literal["done", "out of memory", "died", "timed out"]
    value: Any = None


def require_gpu() -> None:
    """Raises ResourceError where there is no CUDA GPU."""
    if not torch.cuda.is_available():
        raise ResourceError(
            "--measure needs a GPU, and this machine has none",
            remedy="pass --estimate, or --measure --device cpu for the memory of this host",
        )


def measure(config: MemoryConfig, batch: int, *, device: str, timeout_seconds: float = 600.0) -> PeakMemory:
    """Run real steps and report their peak; device is "cpu" or "cuda".

    Raises ConfigError for a batch below 1, ResourceError without a GPU and when the steps don't fit.
    """
    if batch < 1:
        raise ConfigError(f"--batch {batch} holds no image", remedy="pass 1 or more, for example --batch 128")
    if device == "cpu":
        return _measure_host(config, batch)
    require_gpu()
    outcome = in_child(_gpu_worker, config, batch, timeout_seconds=timeout_seconds)
    if outcome.kind != "done":
        raise ResourceError(
            f"{batch} images of {config.model.label} don't run on this GPU: {outcome.kind}",
            remedy="pass a smaller --batch, or --find-max-batch",
        )
    allocated, reserved, taken = outcome.value
    return PeakMemory(
        model=config.model.label,
        batch=batch,
        method="measure",
        peak_allocated_bytes=allocated,
        peak_reserved_bytes=reserved,
        device_bytes=taken,
    )


def in_child(worker: Callable[..., Any], *arguments: Any, timeout_seconds: float) -> Outcome:
    """Call `worker` in a fresh process, so that whatever befalls it leaves nothing behind here."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    child = context.Process(target=_answer, args=(answers, worker, arguments), daemon=True)
    child.start()
    try:
        waited = 0.0
        while waited < timeout_seconds:
            try:
                return Outcome(**answers.get(timeout=0.2))
            except Empty:
                waited += 0.2
            if not child.is_alive():
                try:
                    return Outcome(**answers.get(timeout=0.5))
                except Empty:
                    return Outcome(kind="died", value=child.exitcode)
        return Outcome(kind="timed out")
    finally:
        if child.is_alive():
            child.join(timeout=2)
        if child.is_alive():
            child.kill()
        child.join()


def _answer(answers: Any, worker: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answers.put({"kind": "done", "value": worker(*arguments)})
    except torch.OutOfMemoryError:
        answers.put({"kind": "out of memory"})


def _gpu_worker(config: MemoryConfig, batch: int) -> tuple[int, int, int]:
    torch.cuda.reset_peak_memory_stats()
    _run_steps(config, batch, device="cuda", steps=STEPS)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), total - free


def _measure_host(config: MemoryConfig, batch: int) -> PeakMemory:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        _run_steps(config, batch, device="cpu", steps=2)
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return PeakMemory(
        model=config.model.label,
        batch=batch,
        method="measure",
        peak_allocated_bytes=peak,
        peak_reserved_bytes=peak,
        device_bytes=peak,
        host=True,
    )


def _run_steps(config: MemoryConfig, batch: int, *, device: str, steps: int) -> None:
    step, size = config.step, config.model.img_size
    layout = torch.channels_last if step.channels_last else torch.contiguous_format
    model = build_untrained(config.model).train().to(device)
    if step.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, step)
    images = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    scaler = torch.amp.GradScaler(device, enabled=step.precision == "16" and device == "cuda")
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=_DTYPES.get(step.precision), enabled=step.precision != "32"):
            loss = nn.functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        del loss
        scaler.unscale_(optimizer)
        if step.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), step.clip_norm)
        scaler.step(optimizer)
        scaler.update()
