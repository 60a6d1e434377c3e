"""The fastest precision and memory format on this machine, chosen by a few training steps of each and remembered."""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from cifar_cli.core.choices import MemoryFormat, OptimizerName, Precision
from cifar_cli.core.models.training_form import LAYOUTS, training_form, trains_in_onednn
from cifar_cli.core.training.config import StepConfig, TrainConfig
from cifar_cli.core.training.machine import device_name
from cifar_cli.core.training.remembered import cache_file, remember, remembered
from cifar_cli.core.training.results import LOSS_TOLERANCE, Numerics, NumericsTrial
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import ConfigError

# Trials compare precisions, not learning rates, so they take small steps whatever the recipe's rate is.
TRIAL_RATES: dict[OptimizerName, float] = {"adam": 1e-3, "adamw": 1e-3, "sgd": 1e-2, "muon": 1e-2, "muon-sgd": 1e-2}
COMPARED_STEPS = 3  # losses are compared after so many; the first one warms up and isn't timed
TRIAL_SECONDS = 0.4  # for the timed steps of one combination
LONGEST_STEP_SECONDS = 0.15  # of the images; slower steps are timed with smaller batches
LONGEST_PROBE_SECONDS = 3.0  # a step of FEW_IMAGES that takes longer is not followed by one of several times as many
FEW_IMAGES, TIMES_AS_MANY = 16, 4
# Part of the key: trials of another step must not be reused.
STEP_VERSION = "pooled before ReLU, clipped one by one, small maps by products, rates of whole batches"
CACHE = "numerics"
SMALLEST_SHARE = 0.02  # of a step's seconds are the images', however the measurements vary
TOO_SLOW_FACTOR = 1.5  # a combination this many times slower than the fastest is not repeated

_TRIALS = TypeAdapter(tuple[NumericsTrial, ...])

TimedStep = Callable[[int], float]
"""Runs a training step of that many images, waits for the device and returns the loss."""
MakeStep = Callable[[Precision, MemoryFormat], TimedStep]


def choose_numerics(
    config: TrainConfig,
    model: nn.Module,
    *,
    classes: int,
    device: torch.device,
    make_step: MakeStep | None = None,
    clock: Callable[[], float] = time.perf_counter,
    precisions: tuple[Precision, ...] | None = None,
) -> Numerics:
    """Choose what the config leaves open ("auto"). The model is copied, not changed.

    The fastest combination whose loss agrees with float32's wins. The trials are remembered per machine and model in
    `trials_path()`. A debugging run tries nothing, and neither does a deterministic one, in which nothing that is timed
    decides a weight: they take float32 and channels last.
    make_step: what is timed by `clock`, the training step by default. precisions: what "auto" tries, the device's by
    default.
    Raises ConfigError for "onednn" where that layout isn't available.
    """
    if config.precision != "auto":
        precisions = (config.precision,)
    elif precisions is None:
        precisions = offered_precisions(device)
    formats = _wanted_formats(config, model, device)
    combinations = tuple(product(precisions, formats))
    if config.fast_dev_run or config.deterministic or len(combinations) == 1:
        return Numerics(precision=precisions[0], memory_format=formats[0])
    key = speed_key(config, precisions, formats, device)
    held = remembered(CACHE, key)
    known = _as_trials(held, combinations)
    if make_step is None:
        make_step = _step_maker(config, model, classes=classes, device=device)
    trials = known or tuple(_tried(make_step, clock, config.recipe.batch, combinations))
    if not known and trials[0].agrees:
        # Of two runs that measure at the same time, both take what the first one found.
        stands = remember(CACHE, key, [asdict(trial) for trial in trials], replace=held is not None)
        trials = _as_trials(stands, combinations) or trials
    # If the loss is NaN even in float32, nothing agrees, and the first combination is kept.
    best = max(
        (trial for trial in trials if trial.agrees), key=lambda trial: trial.images_per_second, default=trials[0]
    )
    return Numerics(
        precision=best.precision,
        memory_format=best.memory_format,
        trials=trials,
        remembered_in=trials_path() if known else None,
    )


def require_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError for float16 without CUDA: it needs gradient scaling, which only CUDA has here."""
    if precision == "16" and device.type != "cuda":
        raise ConfigError("--precision 16 needs a CUDA GPU", remedy="pass --precision bf16, 32 or auto")


def offered_precisions(device: torch.device) -> tuple[Precision, ...]:
    """The precisions that "auto" tries: float32 first, then 16 bits where the hardware computes in them."""
    if device.type == "cuda":
        return ("32", "bf16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("32", "16")
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if device.type == "cpu" and onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ("32", "bf16")
    return ("32",)


def _wanted_formats(config: TrainConfig, model: nn.Module, device: torch.device) -> tuple[MemoryFormat, ...]:
    """The memory formats to try, or the one that was asked for; "onednn" only where it makes a difference."""
    why_not = None
    if config.compile:
        why_not = "has no effect with --compile, which chooses layouts itself"
    elif not trains_in_onednn(model, device):
        why_not = "needs a CPU with oneDNN and a model with convolutions and poolings in one sequence (null, VGG)"
    if config.memory_format == "auto":
        return tuple(name for name in LAYOUTS if name != "onednn" or why_not is None)
    if config.memory_format == "onednn" and why_not is not None:
        raise ConfigError(f"--memory-format onednn {why_not}", remedy="pass --memory-format auto")
    return (config.memory_format,)


def _tried(
    make_step: MakeStep,
    clock: Callable[[], float],
    batch: int,
    combinations: Iterable[tuple[Precision, MemoryFormat]],
) -> Iterator[NumericsTrial]:
    """One trial per combination. The first one's loss, of float32 where that is tried, is the reference."""
    reference, best, trial_batch, fixed = None, 0.0, batch, 0.0
    for precision, memory_format in combinations:
        if reference is None:
            trial_batch, fixed = _affordable(make_step(precision, memory_format), clock, batch)
        rate_of = partial(_rate_of_batches, batch=batch, images=trial_batch, fixed=fixed)
        step = make_step(precision, memory_format)
        rate, loss = _timed(step, clock, trial_batch, rate_of, slower_than=best / TOO_SLOW_FACTOR)
        reference = loss if reference is None else reference
        best = max(best, rate)
        yield NumericsTrial(
            precision=precision,
            memory_format=memory_format,
            batch=trial_batch,
            images_per_second=rate,
            loss=loss,
            agrees=abs(loss - reference) <= LOSS_TOLERANCE * abs(reference),
        )


def _affordable(step: TimedStep, clock: Callable[[], float], batch: int) -> tuple[int, float]:
    """The batch, or as many images as take LONGEST_STEP_SECONDS, and the seconds of a step that no image adds to.

    An optimizer's work doesn't grow with the batch. Muon's on a wide model takes longer than 16 images do; counted as
    theirs, it would leave trials of a few images, which say nothing about whole batches. At least 2 images, for batch
    normalisation.
    """

    def seconds_of(images: int) -> float:
        start = clock()
        step(images)
        return clock() - start

    few = min(batch, FEW_IMAGES)
    step(few)  # loads kernels
    seconds, fixed = seconds_of(few), 0.0
    per_image = seconds / few
    if few < batch and LONGEST_STEP_SECONDS / per_image < batch and seconds <= LONGEST_PROBE_SECONDS:
        more = min(batch, TIMES_AS_MANY * few)
        per_image = max((seconds_of(more) - seconds) / (more - few), SMALLEST_SHARE * per_image)
        fixed = max(0.0, seconds - few * per_image)
    return min(batch, max(2, int(LONGEST_STEP_SECONDS / per_image))), fixed


def _rate_of_batches(seconds: float, *, batch: int, images: int, fixed: float) -> float:
    """Images per second of steps of whole batches, from the seconds of one of fewer images."""
    if images == batch:
        return batch / seconds
    return batch / (fixed + max(seconds - fixed, SMALLEST_SHARE * seconds) * batch / images)


def _timed(
    step: TimedStep, clock: Callable[[], float], batch: int, rate_of: Callable[[float], float], *, slower_than: float
) -> tuple[float, float]:
    """The rate (of the median over steps after the first) and the loss after COMPARED_STEPS."""
    step(batch)
    loss, seconds = math.nan, list[float]()
    while len(seconds) < COMPARED_STEPS - 1 or sum(seconds) < TRIAL_SECONDS:
        start = clock()
        last = step(batch)
        seconds.append(clock() - start)
        if len(seconds) == COMPARED_STEPS - 1:
            loss = last
            if rate_of(statistics.median(seconds)) < slower_than:
                break
    return rate_of(statistics.median(seconds)), loss


def _step_maker(config: TrainConfig, model: nn.Module, *, classes: int, device: torch.device) -> MakeStep:
    """Makes training steps of copies of the model, on the same random images for every combination."""
    side = config.model.img_size
    recipe = replace(config.recipe, bias_lr=None, head_lr=None)  # they would replace the small rate of a trial

    @lru_cache
    def batch_of(count: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, 3, side, side, generator=generator)
        labels = torch.randint(classes, (count,), generator=generator)
        return images.to(device), labels.to(device)

    def make(precision: Precision, memory_format: MemoryFormat) -> TimedStep:
        asked = StepConfig.of_recipe(
            recipe, learning_rate=TRIAL_RATES[recipe.optimizer], precision=precision, memory_format=memory_format
        )
        copied = training_form(copy.deepcopy(model), memory_format).to(device).train()
        step = TrainingStep(copied, asked, device_type=device.type)
        step.train()
        return lambda count: float(step(*batch_of(count))[0])

    return make


def trials_path() -> Path:
    """The file of remembered trials. Raises RuntimeError where the user has no home directory."""
    return cache_file(CACHE)


def _as_trials(value: Any, tried: tuple[tuple[Precision, MemoryFormat], ...]) -> tuple[NumericsTrial, ...] | None:
    """Remembered trials of these combinations; None for anything else, which is measured anew."""
    with suppress(ValidationError):
        trials = _TRIALS.validate_json(json.dumps(value), strict=True)
        if tuple((trial.precision, trial.memory_format) for trial in trials) == tried:
            return trials
    return None


def speed_key(
    config: TrainConfig, precisions: tuple[Precision, ...], formats: tuple[MemoryFormat, ...], device: torch.device
) -> str:
    """Everything that the speed of a step depends on."""
    model, recipe = config.model, config.recipe
    parts = (
        f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        f"{model.name} {model.backbone if model.name == 'cnn' else ''} {model.img_size} px, {model.classes} classes",
        f"width {model.width:g}, {'residual, ' * model.residual}{'small images, ' * model.small_images}"
        f"drop path {model.drop_path:g}",
        f"{'trimmed' if model.trim_backbone else 'full'} patch {model.patch_size}, batch {recipe.batch}",
        f"{recipe.optimizer}, {'clipped, ' * (recipe.clip_norm is not None)}"
        f"{'averaged, ' * (recipe.ema_decay is not None)}{'frozen, ' * (recipe.freeze != 'none')}{STEP_VERSION}",
        f"{'|'.join(precisions)}, {'|'.join(formats)}",
    )
    return "; ".join(parts)
