"""The training step alone, on one batch that stays on its device: what `cifar train` is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from cifar_cli.core.heap import keep_freed_memory
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.training_form import LAYOUTS, training_form
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.machine import wait_for
from cifar_cli.core.training.pace import WINDOW_STEPS, steady_rate
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.results import Numerics
from cifar_cli.core.training.step import AUTOCAST_DTYPES, TrainingStep

BATCH = 128
STEPS = {"null": 320, "cnn": 60, "hybrid": 60}
COURSE = replace(RECIPES["course"], batch=BATCH)


def bare_rate(
    name: str,
    numerics: Numerics,
    *,
    batch: int = BATCH,
    device: torch.device = torch.device("cpu"),
    like_ours: bool = False,
) -> float:
    """Images per second of the training step alone, on one batch on the device; as `cifar train` does it, or plain."""
    model = build_model(ModelConfig(name=name, weights="none", trim_backbone=name == "hybrid"), seed=42)
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)
    if like_ours:
        keep_freed_memory()
        step = _our_step(model, numerics, device)
    else:
        step = _plain_step(model, numerics, device)
    ended = []
    for _ in range(STEPS[name]):
        step(images, labels)
        if len(ended) % WINDOW_STEPS == 0:
            wait_for(device)
        ended.append(time.perf_counter())
    return rate_of(ended, batch)


def _our_step(model: nn.Module, numerics: Numerics, device: torch.device) -> Callable[[Tensor, Tensor], Any]:
    """The training step that `cifar train` runs."""
    model = training_form(model, numerics.memory_format).to(device).train()
    config = StepConfig.of_recipe(
        COURSE, learning_rate=1e-3, precision=numerics.precision, memory_format=numerics.memory_format
    )
    return TrainingStep(model, config, device_type=device.type)


def _plain_step(model: nn.Module, numerics: Numerics, device: torch.device) -> Callable[[Tensor, Tensor], None]:
    """A plain PyTorch training step in the same precision and layout."""
    layout = torch.channels_last if numerics.memory_format == "onednn" else LAYOUTS[numerics.memory_format]
    model, dtype = model.to(device).to(memory_format=layout).train(), AUTOCAST_DTYPES[numerics.precision]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(model(images.to(memory_format=layout)), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def rate_of(ended: list[float], batch: int = BATCH) -> float:
    """Images per second of steps that ended at these times."""
    return steady_rate([(batch, after - before) for before, after in pairwise(ended)])
