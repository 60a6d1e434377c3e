"""Training with what profiling knows: the batch size before it, the share of the machine's speed after it."""

from __future__ import annotations

from dataclasses import replace

import torch

from cifar_cli.core.profiling.choose import choose_batch
from cifar_cli.core.profiling.config import step_config
from cifar_cli.core.profiling.summary import summarize
from cifar_cli.core.profiling.summary_results import SummaryConfig
from cifar_cli.core.training.config import TrainConfig, TrainResult
from cifar_cli.core.training.machine import matmul_flops_per_second
from cifar_cli.core.training.numerics import Numerics, offered_precisions
from cifar_cli.core.training.session import SILENT, Listeners
from cifar_cli.core.training.trainer import device_of, resume, train
from cifar_cli.core.workflow.config import Speed, TrainReport, TrainRequest


def run(request: TrainRequest, listeners: Listeners = SILENT) -> TrainReport:
    """Train as asked, once for each seed. Raises what `train` and `resume` raise."""
    if request.config is None:
        assert request.resume is not None
        result = resume(request.resume, listeners)
        return TrainReport(results=(result,), speed=_speed(result))
    config = request.config
    if request.batch_auto:
        config = with_batch_found(config, keep_steps=request.keep_steps, listeners=listeners)
    results = []
    for seed in request.seeds or (config.seed,):
        folder = config.run_dir and (config.run_dir / f"seed-{seed}" if request.seeds else config.run_dir)
        results.append(train(replace(config, seed=seed, run_dir=folder), listeners))
        listeners = replace(listeners, began=None)
    return TrainReport(results=tuple(results), speed=_speed(results[-1]))


def with_batch_found(config: TrainConfig, *, keep_steps: bool, listeners: Listeners) -> TrainConfig:
    """The config with the batch size that this machine trains best with, at the same learning rate.

    keep_steps: with as many more (or fewer) epochs as the batch is larger, so that training takes as many steps as
    before. Raises ResourceError when not one image fits.
    """
    device = device_of(config.accelerator)
    precision = offered_precisions(device)[-1] if config.precision == "auto" else config.precision
    optimizer = {"muon": "adam"}.get(config.recipe.optimizer, config.recipe.optimizer)  # keeps at most as much
    step = replace(
        step_config(precision=precision, optimizer=optimizer, channels_last=config.memory_format != "contiguous"),
        clip_norm=config.recipe.clip_norm,
    )
    found = choose_batch(config.model, step, device=device.type, on_progress=listeners.on_progress)
    recipe = replace(config.recipe, batch=found.batch)
    told = f"--batch auto: {found.reason}"
    if keep_steps:
        recipe = replace(recipe, max_epochs=max(1, round(recipe.max_epochs * found.batch / config.recipe.batch)))
        told += (
            f"; learning rate and number of steps stay, so {config.recipe.max_epochs} epochs at batch "
            f"{config.recipe.batch} become {recipe.max_epochs}"
        )
    listeners.on_note(told)
    return replace(config, recipe=recipe)


def _speed(result: TrainResult) -> Speed:
    """The achieved rate of the steps beside what the machine can do at best."""
    batch = result.config.recipe.batch
    counted = summarize(SummaryConfig(model=result.config.model, batch=batch))
    numerics = Numerics(precision=result.precision, memory_format=result.memory_format)
    device = device_of(result.config.accelerator)
    return Speed(
        achieved_flops_per_second=counted.train_step_flops_per_batch / batch * result.images_per_second,
        matmul_flops_per_second=matmul_flops_per_second(numerics.dtype or torch.float32, device),
    )
