"""Training with what profiling knows: the batch size before it, the share of the machine's speed after it."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.summary import summarize
from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.memory.choose import choose_batch
from cifar_cli.core.memory.config import step_config
from cifar_cli.core.models.build import build_model
from cifar_cli.core.training.config import TrainConfig, TrainResult
from cifar_cli.core.training.machine import matmul_flops_per_second
from cifar_cli.core.training.numerics import DTYPES, choose_numerics, require_precision
from cifar_cli.core.training.session import SILENT, Listeners
from cifar_cli.core.training.surroundings import fast_kernels
from cifar_cli.core.training.trainer import fitted_to, prepared_device, resume, train
from cifar_cli.core.workflow.config import Speed, TrainReport, TrainRequest
from cifar_cli.errors import CheckpointError, CifarError, ConfigError, Interrupted


def run(request: TrainRequest, listeners: Listeners = SILENT) -> TrainReport:
    """Train as asked, once for each seed.

    Raises what `train` and `resume` raise, and CheckpointError before anything is trained when the folder of one of
    the seeds is taken.
    """
    if request.config is None:
        assert request.resume is not None
        result = resume(request.resume, listeners)
        return TrainReport(results=(result,), speed=_speed(result))
    folders = _folders(request.config, request.seeds)
    config = request.config
    if request.batch_auto:
        config = with_batch_found(config, keep_steps=request.keep_steps, listeners=listeners)
    results: list[TrainResult] = []
    for seed, folder in folders.items():
        left = [other for other in folders if other not in {result.seed for result in results}]
        if results and results[-1].asked_to_stop:
            raise _interrupted(results, left, None)
        try:
            results.append(train(replace(config, seed=seed, run_dir=folder), listeners))
        except Interrupted as error:
            if len(folders) == 1:
                raise
            raise _interrupted(results, left[1:], error) from error
        listeners = replace(listeners, began=None)
    return TrainReport(results=tuple(results), speed=_speed(results[-1]))


def _folders(config: TrainConfig, seeds: tuple[int, ...]) -> dict[int, Path | None]:
    """Where the run of each seed goes. Raises CheckpointError when one of the places is taken."""
    if not seeds or config.run_dir is None:
        return dict.fromkeys(seeds or (config.seed,), config.run_dir)
    folders: dict[int, Path | None] = {seed: config.run_dir / f"seed-{seed}" for seed in seeds}
    for folder in folders.values():
        if folder is not None and folder.is_dir() and any(folder.iterdir()):
            raise CheckpointError(f"{folder} is not empty", remedy="pass another --run-dir, or other --seeds")
    return folders


def _interrupted(results: list[TrainResult], left: list[int], error: Interrupted | None) -> Interrupted:
    """What is done and what is left of several seeds, in words."""
    parts = [] if error is None else [error.what]
    parts += [f"seed {result.seed} is done in {result.run_dir}: {result.test_accuracy:.2%} test" for result in results]
    remedies = [] if error is None or error.remedy is None else [error.remedy]
    if left:
        remedies.append(f"train the others with --seeds {','.join(map(str, left))}")
    return Interrupted("; ".join(parts), remedy=", then ".join(remedies) or None)


def with_batch_found(config: TrainConfig, *, keep_steps: bool, listeners: Listeners) -> TrainConfig:
    """The config with the batch size that this machine trains best with, at the same learning rate.

    Precision and memory format are settled first. keep_steps: with as many more (or fewer) epochs as it takes for
    training to have as many steps as before. Raises ResourceError when not one image fits, ConfigError on a device
    whose memory can't be asked for.
    """
    device = prepared_device(config.accelerator)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"--batch auto can't look into the memory of {device.type}", remedy="pass a number, or --accelerator cpu"
        )
    require_precision(config.precision, device)
    store = open_dataset(config.data, on_progress=listeners.on_progress)
    config = fitted_to(config, store)
    with fast_kernels(device):
        numerics = choose_numerics(
            config, build_model(config.model, seed=config.seed), classes=len(store.classes), device=device
        )
    config = replace(config, precision=numerics.precision, memory_format=numerics.memory_format)
    images = len(stratified_split(store.train.labels_N).train_indices)
    optimizer = {"muon": "adam"}.get(config.recipe.optimizer, config.recipe.optimizer)  # keeps at most as much
    step = replace(
        step_config(
            precision=config.precision, optimizer=optimizer, channels_last=config.memory_format == "channels-last"
        ),
        clip_norm=config.recipe.clip_norm,
    )
    found = choose_batch(
        config.model,
        step,
        device=device.type,
        memory_format=config.memory_format,
        most=images,
        on_progress=listeners.on_progress,
    )
    told = f"--batch auto: {found.reason}"
    recipe = replace(config.recipe, batch=found.batch)
    if keep_steps:
        steps = config.recipe.max_epochs * math.ceil(images / config.recipe.batch)
        recipe = replace(recipe, max_epochs=max(1, round(steps / math.ceil(images / found.batch))))
        told += (
            f"; learning rate and number of steps stay, so {config.recipe.max_epochs} epochs at batch "
            f"{config.recipe.batch} become {recipe.max_epochs}"
        )
    listeners.on_note(told)
    return replace(config, recipe=recipe)


def _speed(result: TrainResult) -> Speed | None:
    """The achieved rate of the steps beside what the machine can do at best; no result is lost for want of it."""
    batch = result.config.recipe.batch
    with suppress(CifarError, RuntimeError):
        counted = summarize(SummaryConfig(model=result.config.model, batch=batch))
        device = prepared_device(result.config.accelerator)
        with fast_kernels(device):
            best = matmul_flops_per_second(DTYPES.get(result.precision, torch.float32), device)
        return Speed(
            achieved_flops_per_second=counted.train_step_flops_per_batch / batch * result.images_per_second,
            matmul_flops_per_second=best,
        )
    return None
