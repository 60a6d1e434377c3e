"""Real training steps: run, timed, and their memory measured, on the host or on a GPU."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_cli.core.choices import require_at_least
from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.memory.host import limited_to_available, watched_allocations
from cifar_cli.core.memory.results import BatchTrial, PeakMemory
from cifar_cli.core.memory.variants import run_step, score, with_checkpoints
from cifar_cli.core.memory.worker import TRIAL_SECONDS, StartProcess, Worker, in_child, outcome_of
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.training_form import training_form
from cifar_cli.core.training.machine import fast_kernels, wait_for
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import CifarError, ModelError, ResourceError

TRIAL_STEPS = 2  # the second one runs with the optimizer's state in place
PROOF_STEPS = 5
_TIMED_SECONDS = 0.2  # shorter steps are repeated for this long, to reduce noise
_MOST_STEPS = 12

RunSteps = Callable[..., float]
"""`run(config, batch, *, device)` runs training steps and returns images per second."""


class RealSteps:
    """Training steps of a model on random images; what `cifar train` runs, without data and without a schedule."""

    def __init__(self, config: MemoryConfig, batch: int, *, device: str) -> None:
        self.config = config
        self.device = torch.device(device)
        model = with_checkpoints(copy.deepcopy(built(config.model)), config)
        model = training_form(model, config.step.memory_format).to(self.device)
        self.step = TrainingStep(model, config.step, device_type=self.device.type)
        self.step.train()
        if config.compile:
            model.compile()
        self.draw(batch)

    def draw(self, batch: int) -> None:
        """Replace the images by others for steps of `batch`, laid out as the loader's."""
        self.batch = batch
        at_once, (height, width) = self.config.images_at_once(batch), self.config.model.sides
        self.images_BCHW = torch.rand(at_once, height, width, 3, device=self.device).permute(0, 3, 1, 2)
        self.labels_B = torch.zeros(at_once, dtype=torch.long, device=self.device)

    def train(self) -> None:
        """Run one step and wait for it."""
        run_step(self.step, self.config, self.images_BCHW, self.labels_B)
        wait_for(self.device)

    def validate(self) -> None:
        """Score the images without keeping activations."""
        score(self.step, self.images_BCHW)

    def timed(self, steps: int) -> float:
        """Run at least `steps` >= 2 steps. Returns images per second without the first one, which loads kernels."""
        self.train()
        start, done = time.perf_counter(), 0
        while done < steps - 1 or (time.perf_counter() - start < _TIMED_SECONDS and done < _MOST_STEPS):
            self.train()
            done += 1
        return self.batch * done / (time.perf_counter() - start)


def try_steps(config: MemoryConfig, batch: int, *, device: str) -> float:
    """A few steps. Returns images per second."""
    return RealSteps(config, batch, device=device).timed(TRIAL_STEPS)


def prove_steps(
    config: MemoryConfig, batch: int, *, device: str, make_steps: Callable[..., RealSteps] = RealSteps
) -> float:
    """A shortened epoch: 5 steps, the last partial batch, a validation pass, and a step of the next epoch.

    The partial batch is half of a full one: its tensors have sizes for which the allocator has no cached blocks.
    Returns images per second of the full steps.
    """
    steps = make_steps(config, batch, device=device)
    speed = steps.timed(PROOF_STEPS)
    partial_batch = -(-batch // 2)
    if batch > 1 and partial_batch >= least_batch(steps.step.model, config):
        steps.draw(partial_batch)
        steps.train()
        steps.draw(batch)
    steps.validate()
    steps.train()
    return speed


def least_batch(model: nn.Module, config: MemoryConfig) -> int:
    """The smallest batch that trains: batch norm needs two images at once."""
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    return (2 if has_batch_norm and not config.evaluate else 1) * config.devices * config.accumulate


@lru_cache(maxsize=1)
def built(config: ModelConfig) -> nn.Module:
    """The model to copy from; cached, because building a large one takes longer than a step."""
    return build_untrained(config)


def measure(
    config: MemoryConfig, batch: int, *, usable_bytes: int | None = None, start: StartProcess = Worker
) -> PeakMemory:
    """Run real steps on the config's backend and report their peak.

    usable_bytes: the most memory that they may take; None for all of the device. start: begins the process that runs
    them on a GPU. Raises ConfigError for a batch below 1, ResourceError when the steps don't fit, ModelError when they
    fail.
    """
    require_at_least("--batch", batch, 1, example=128)
    if config.backend == "cpu":
        try:
            trial = run_on_host(config, usable_bytes, batch)
            if usable_bytes is not None and not trial.ran:
                raise ResourceError(
                    f"{batch:,} images of {config.model.label} take {trial.device_bytes / MIB:,.0f} MiB, more than "
                    f"{usable_bytes / MIB:,.0f} MiB",
                    remedy="pass a smaller --batch or more --memory, or --find-max-batch",
                )
            return peak_of_trial(config, trial)
        except CifarError:
            raise
        except Exception as error:  # a model may raise anything on images or batches that it can't read
            outcome = outcome_of(error)
            if outcome.kind == "out of memory":
                raise ResourceError(
                    f"{batch:,} images of {config.model.label} don't fit into the memory of this machine",
                    remedy="pass a smaller --batch, or --find-max-batch",
                ) from error
            raise ModelError(
                f"{batch:,} images of {config.model.label} don't run on the CPU: {outcome.value}",
                remedy="pass another --img-size (`cifar summarize` names the smallest that the model reads) or --batch",
            ) from error
    outcome = in_child(
        partial(run_on_gpu, config, usable_bytes), batch, False, timeout_seconds=TRIAL_SECONDS, start=start
    )
    if outcome.kind == "failed":
        raise ModelError(
            f"{batch:,} images of {config.model.label} don't run on this GPU: {outcome.value}",
            remedy="pass another --img-size, --precision or --batch, or --estimate",
        )
    if outcome.kind != "done":
        raise ResourceError(
            f"{batch:,} images of {config.model.label} don't run on this GPU: {outcome.kind}",
            remedy="pass a smaller --batch, or --find-max-batch",
        )
    return peak_of_trial(config, outcome.value)


def peak_of_trial(config: MemoryConfig, trial: BatchTrial) -> PeakMemory:
    """The peak of a trial that ran."""
    return PeakMemory(
        model=config.model.label,
        batch=trial.batch,
        method="measure",
        peak_allocated_bytes=trial.peak_allocated_bytes,
        peak_reserved_bytes=trial.peak_reserved_bytes,
        device_bytes=trial.device_bytes,
        host=trial.host,
        precision=config.step.precision,
    )


def run_on_gpu(
    config: MemoryConfig, usable_bytes: int | None, batch: int, proof: bool = False, *, run: RunSteps | None = None
) -> BatchTrial:
    """Run steps on the GPU as if it had `usable_bytes`, context and other processes included; None is all of it.

    Call it in a separate process. run: runs the steps. Raises torch.OutOfMemoryError.
    """
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    usable = total if usable_bytes is None else min(usable_bytes, total)
    if usable < total:
        # The limit is the allocator's own, so that it empties its cache and retries there as it does on a full card.
        left = usable - (total - free)
        if left <= 0:
            raise torch.OutOfMemoryError("context and other processes leave nothing")
        torch.cuda.set_per_process_memory_fraction(left / total)
    torch.cuda.reset_peak_memory_stats()
    with fast_kernels(torch.device("cuda")):
        speed = (run or _steps_of(proof))(config, batch, device="cuda")
    free, _ = torch.cuda.mem_get_info()
    if total - free > usable:
        raise torch.OutOfMemoryError("the context grew into the memory that must stay free")
    return BatchTrial(
        batch=batch,
        kind="ran",
        peak_allocated_bytes=torch.cuda.max_memory_allocated(),
        peak_reserved_bytes=torch.cuda.max_memory_reserved(),
        device_bytes=total - free,
        images_per_second=speed,
    )


def run_on_host(
    config: MemoryConfig, usable_bytes: int | None, batch: int, proof: bool = False, *, run: RunSteps | None = None
) -> BatchTrial:
    """Run steps on the CPU; they fit when the allocator's peak stays within `usable_bytes`, None for no limit."""
    with limited_to_available():
        built(config.model)  # before the watch: only the copy that trains counts
        # The profiler remembers the size of a block by its address, across watches. A block that was allocated before
        # this watch and is released during it could be counted with the size of an earlier block at the same address.
        gc.collect()
        with watched_allocations() as watched:
            speed = (run or _steps_of(proof))(config, batch, device="cpu")
    peak = watched.peak_bytes()
    fits = usable_bytes is None or peak <= usable_bytes
    return BatchTrial(
        batch=batch,
        kind="ran" if fits else "out of memory",
        peak_allocated_bytes=peak,
        peak_reserved_bytes=peak,
        device_bytes=peak,
        images_per_second=speed,
        host=True,
    )


def _steps_of(proof: bool) -> RunSteps:
    return prove_steps if proof else try_steps
