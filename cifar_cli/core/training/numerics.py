"""Which precision and memory layout trains fastest here: a few steps of each tell, and the answer is remembered."""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.models.training_form import LAYOUTS, training_form, trains_in_onednn
from cifar_cli.core.training.config import LOSS_TOLERANCE, Numerics, TrainConfig, Trial
from cifar_cli.core.training.optimizers import clip_gradients, make_optimizer
from cifar_cli.errors import ConfigError

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
# Trials take small steps whatever the recipe's rate is: they compare precisions, not rates.
TRIAL_RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 1e-2, "muon": 1e-2}
COMPARED_STEPS = 3  # after which losses are compared; the first of them warms up and isn't timed
TRIAL_SECONDS = 0.4  # for the timed steps of one combination
LONGEST_STEP_SECONDS = 0.15  # a slower first step is followed by smaller batches
# Names the step that was timed: what was remembered of another one says nothing.
STEP = "pooled before ReLU, clipped one by one"
HOPELESS = 1.5  # a step that takes so many times the best one's time is not repeated


def choose_numerics(config: TrainConfig, model: nn.Module, *, classes: int, device: torch.device) -> Numerics:
    """Fill in what the config leaves open ("auto"); the model is copied, not touched.

    The fastest combination whose loss agrees with float32's wins. It is remembered per machine and model in
    `memory_path()`. A debugging run tries nothing and takes float32, channels last.
    Raises ConfigError where oneDNN's layout is asked for in vain.
    """
    precisions = offered_precisions(device) if config.precision == "auto" else (config.precision,)
    formats = _wanted_formats(config, model, device)
    if config.fast_dev_run or (len(precisions) == 1 and len(formats) == 1):
        return Numerics(precision=precisions[0], memory_format=formats[0])
    key = _key(config, precisions, formats, device)
    known = recall(key)
    trials = known or tuple(_tried(config, model, classes=classes, device=device, over=(precisions, formats)))
    if not known and trials[0].agrees:
        remember(key, trials)
    # A model whose loss is no number even in float32 agrees with nothing: it is left in the first combination.
    best = max(
        (trial for trial in trials if trial.agrees), key=lambda trial: trial.images_per_second, default=trials[0]
    )
    return Numerics(
        precision=best.precision,
        memory_format=best.memory_format,
        trials=trials,
        remembered_in=memory_path() if known else None,
    )


def require_precision(precision: str, device: torch.device) -> None:
    """Raises ConfigError for float16 without a CUDA GPU, whose scaled gradients no other device has."""
    if precision == "16" and device.type != "cuda":
        raise ConfigError("--precision 16 needs a CUDA GPU", remedy="pass --precision bf16, 32 or auto")


def offered_precisions(device: torch.device) -> tuple[str, ...]:
    """What "auto" tries: float32 first, then 16 bits where the hardware computes in them."""
    if device.type == "cuda":
        return ("32", "bf16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("32", "16")
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if device.type == "cpu" and onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ("32", "bf16")
    return ("32",)


def _wanted_formats(config: TrainConfig, model: nn.Module, device: torch.device) -> tuple[str, ...]:
    """The memory formats to try, or the one that was asked for; "onednn" only where it makes a difference."""
    why_not = None
    if config.compile:
        why_not = "finds no use beside --compile, which lays tensors out itself"
    elif not trains_in_onednn(model, device):
        why_not = "is for models with convolutions and poolings in one sequence (null, VGG) on a CPU with oneDNN"
    if config.memory_format == "auto":
        return tuple(name for name in LAYOUTS if name != "onednn" or why_not is None)
    if config.memory_format == "onednn" and why_not is not None:
        raise ConfigError(f"--memory-format onednn {why_not}", remedy="pass --memory-format auto")
    return (config.memory_format,)


def _tried(
    config: TrainConfig,
    model: nn.Module,
    *,
    classes: int,
    device: torch.device,
    over: tuple[tuple[str, ...], tuple[str, ...]],
) -> Iterator[Trial]:
    """One trial for each combination; the first one's loss (float32, unless it isn't wanted) is the measure."""
    batch, reference, best = config.recipe.batch, None, 0.0
    for precision, memory_format in product(*over):
        step = _Step(config, model, precision, memory_format, classes=classes, device=device)
        if reference is None:  # how large may the batch be?
            batch = _affordable(step, batch)
            step = _Step(config, model, precision, memory_format, classes=classes, device=device)
        rate, loss = _timed(step, batch, hopeless_below=best / HOPELESS)
        reference = loss if reference is None else reference
        best = max(best, rate)
        yield Trial(
            precision=precision,
            memory_format=memory_format,
            batch=batch,
            images_per_second=rate,
            loss=loss,
            agrees=abs(loss - reference) <= LOSS_TOLERANCE * abs(reference),
        )


def _affordable(step: Callable[[int], float], batch: int) -> int:
    """The batch, or as many of its images as a step of LONGEST_STEP_SECONDS takes.

    The very first step loads kernels and is not timed. Batch normalisation needs two images at least.
    """
    few = min(batch, 16)
    step(few)
    start = time.perf_counter()
    step(few)
    per_image = (time.perf_counter() - start) / few
    return min(batch, max(2, int(LONGEST_STEP_SECONDS / per_image)))


def _timed(step: Callable[[int], float], batch: int, *, hopeless_below: float) -> tuple[float, float]:
    """Images per second (median over steps after the first) and the loss after COMPARED_STEPS."""
    step(batch)
    loss, seconds = math.nan, list[float]()
    while len(seconds) < COMPARED_STEPS - 1 or sum(seconds) < TRIAL_SECONDS:
        start = time.perf_counter()
        last = step(batch)
        seconds.append(time.perf_counter() - start)
        if len(seconds) == COMPARED_STEPS - 1:
            loss = last
            if batch / statistics.median(seconds) < hopeless_below:
                break
    return batch / statistics.median(seconds), loss


class _Step:
    """Training steps of a copy of the model on random images, the same for every combination."""

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        precision: str,
        memory_format: str,
        *,
        classes: int,
        device: torch.device,
    ) -> None:
        self.dtype = DTYPES.get(precision)
        self.layout = LAYOUTS[memory_format]
        self.device = device
        self.classes = classes
        self.side = config.model.img_size
        self.model = training_form(copy.deepcopy(model), memory_format).to(device).train()
        rate = TRIAL_RATES[config.recipe.optimizer]
        self.optimizer = make_optimizer(self.model, config.recipe, learning_rate=rate, fused=precision != "16")
        self.clip_norm = config.recipe.clip_norm
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "16")
        self.batches: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, batch: int) -> float:
        """One step of `batch` images; gives its loss, having waited for the device."""
        images, labels = self._batch(batch)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            loss = F.cross_entropy(self.model(images), labels)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(self.model, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())

    def _batch(self, batch: int) -> tuple[Tensor, Tensor]:
        if batch not in self.batches:
            generator = torch.Generator().manual_seed(0)
            images = torch.randn(batch, 3, self.side, self.side, generator=generator)
            labels = torch.randint(self.classes, (batch,), generator=generator)
            images = images.to(self.device).to(memory_format=self.layout)
            self.batches[batch] = images, labels.to(self.device)
        return self.batches[batch]


def memory_path() -> Path:
    """The file that remembers: in $XDG_CACHE_HOME (or ~/.cache), cifar/numerics.json.

    Raises RuntimeError where nobody knows the user's home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifar" / "numerics.json"


def recall(key: str) -> tuple[Trial, ...] | None:
    """The trials remembered under a key; None when there are none, or the file can't be read."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        trials = json.loads(memory_path().read_text(encoding="utf-8"))[key]
        return tuple(Trial(**trial) for trial in trials) or None
    return None


def remember(key: str, trials: tuple[Trial, ...]) -> None:
    """Add trials to the file, by an atomic replacement. A place that can't be written to is no reason to stop.

    Of two runs that write at once one may forget the other's trials, which are then made again.
    """
    with suppress(OSError, RuntimeError):
        path = memory_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        known: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            known = json.loads(path.read_text(encoding="utf-8"))
        known = known if isinstance(known, dict) else {}
        known[key] = [asdict(trial) for trial in trials]
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.write_text(json.dumps(known, indent=1), encoding="utf-8")
            written.replace(path)


def _key(config: TrainConfig, precisions: tuple[str, ...], formats: tuple[str, ...], device: torch.device) -> str:
    """Everything that the speed of a step depends on."""
    model = config.model
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    parts = (
        f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        f"{model.name} {model.backbone if model.name == 'cnn' else ''} {model.img_size} px, {model.classes} classes",
        f"{'trimmed' if model.trim_backbone else 'whole'} patch {model.patch_size}, batch {config.recipe.batch}",
        f"{config.recipe.optimizer}, {'' if config.recipe.clip_norm is None else 'clipped, '}{STEP}",
        f"{'|'.join(precisions)}, {'|'.join(formats)}",
    )
    return "; ".join(parts)


def processor_name() -> str:
    """The processor as the system calls it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
