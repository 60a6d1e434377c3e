"""Real training steps, as the trace foresees them and as a training runs them."""

from __future__ import annotations

import copy
import time
from functools import lru_cache

import torch
from torch import Tensor, nn

from cifar_cli.core.choices import MemoryFormat
from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.trace import make_optimizer
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.training_form import training_form

TRIAL_STEPS = 2  # the second one runs with the optimizer's state in place
PROOF_STEPS = 5
_TIMED_SECONDS = 0.2  # shorter steps are repeated up to this, so that their speed can be read
_MOST_STEPS = 12
_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16}


class Training:
    """A model, its optimizer and random images on a device.

    memory_format: the one of the training form that a model is to be timed in; None for the model as it is.
    """

    def __init__(
        self, config: MemoryConfig, batch: int, *, device: str, memory_format: MemoryFormat | None = None
    ) -> None:
        self.config = config
        self.device = device
        self.layout = torch.channels_last if config.step.channels_last else torch.contiguous_format
        self.model = copy.deepcopy(built(config.model)).train().to(device)
        if config.step.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if memory_format is not None:
            self.model = training_form(self.model, memory_format)
        self.optimizer = make_optimizer(self.model, config.step)
        self.scaler = torch.amp.GradScaler(device, enabled=config.step.precision == "16" and device == "cuda")
        self.draw(batch)

    def draw(self, batch: int) -> None:
        """Replace the images by `batch` others."""
        size = self.config.model.img_size
        self.images = torch.rand(batch, 3, size, size, device=self.device).contiguous(memory_format=self.layout)
        self.labels = torch.zeros(batch, dtype=torch.long, device=self.device)

    def step(self) -> None:
        """Forward, cross-entropy, backward, clipping, optimizer."""
        self.optimizer.zero_grad()
        loss = self._loss()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        del loss
        self.scaler.unscale_(self.optimizer)
        if self.config.step.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.step.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def validate(self) -> None:
        """Score the images without keeping activations."""
        self.model.eval()
        with torch.no_grad():
            self._loss()
        self.model.train()

    def timed(self, steps: int) -> float:
        """Run at least `steps` >= 2 steps; images a second of all but the first, which prepares kernels."""
        self.step()
        self._wait()
        start, done = time.perf_counter(), 0
        while done < steps - 1 or (time.perf_counter() - start < _TIMED_SECONDS and done < _MOST_STEPS):
            self.step()
            self._wait()
            done += 1
        return len(self.labels) * done / (time.perf_counter() - start)

    def _loss(self) -> Tensor:
        precision = self.config.step.precision
        with torch.autocast(self.device, dtype=_DTYPES.get(precision), enabled=precision != "32"):
            return nn.functional.cross_entropy(self.model(self.images), self.labels)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def try_steps(config: MemoryConfig, batch: int, *, device: str, memory_format: MemoryFormat | None = None) -> float:
    """A few steps, of the model as it is or of its training form; returns images a second."""
    return Training(config, batch, device=device, memory_format=memory_format).timed(TRIAL_STEPS)


def prove_steps(config: MemoryConfig, batch: int, *, device: str) -> float:
    """An epoch in small: 5 steps, the last partial batch, a validation pass, and a step of the next epoch.

    The partial batch is half of one: its tensors have other sizes, for which the allocator holds nothing ready.
    Returns images a second of the full steps.
    """
    training = Training(config, batch, device=device)
    speed = training.timed(PROOF_STEPS)
    if batch > 1:
        training.draw(-(-batch // 2))
        training.step()
        training.draw(batch)
    training.validate()
    training.step()
    return speed


@lru_cache(maxsize=1)
def built(config: ModelConfig) -> nn.Module:
    """The model to copy from; kept, because building a large one takes longer than a step."""
    return build_untrained(config)
