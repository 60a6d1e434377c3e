"""A training from config to result: begun, or continued where it was interrupted."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.store import Store
from cifar_cli.core.models.build import build_model
from cifar_cli.core.training.batches import make_loaders
from cifar_cli.core.training.checkpoint import read_checkpoint, trained_config
from cifar_cli.core.training.config import TrainConfig, TrainResult
from cifar_cli.core.training.machine import keep_freed_memory
from cifar_cli.core.training.numerics import choose_numerics, require_precision
from cifar_cli.core.training.run_dir import RunDir, create_run_dir, open_run_dir
from cifar_cli.core.training.session import SILENT, Listeners, Session
from cifar_cli.core.training.surroundings import fast_kernels
from cifar_cli.errors import CheckpointError, CifarError, ResourceError


def train(config: TrainConfig, listeners: Listeners = SILENT) -> TrainResult:
    """Train a model, keep the weights that validate best, and score those once on the test split.

    Writes the run directory described in docs/training.md.
    Raises CifarError children for what the user can mend, Interrupted (with everything saved) on Ctrl-C.
    """
    began = time.monotonic() if listeners.began is None else listeners.began
    device = prepared_device(config.accelerator)
    require_precision(config.precision, device)
    # The weights come first: when they can't be had, nothing was downloaded or written in vain.
    model = build_model(config.model, seed=config.seed)
    store = open_dataset(config.data, on_progress=listeners.on_progress)
    fitted = fitted_to(config, store)
    if fitted != config:
        config = fitted
        model = build_model(config.model, seed=config.seed)
    loaders = make_loaders(config, store, device=device)
    with fast_kernels(device):
        numerics = choose_numerics(config, model, classes=len(store.classes), device=device)
    listeners.on_numerics(numerics)
    run = create_run_dir(config.run_dir, model=config.model.label)
    config = replace(config, run_dir=run.path, precision=numerics.precision, memory_format=numerics.memory_format)
    session = Session(config, model, store, loaders, run, device, listeners, began)
    run.write_config(
        session.module.description
        | {"device": str(device), "torch": str(torch.__version__), "trials": [asdict(t) for t in numerics.trials]}
    )
    return session.run_to_end(None)


def resume(run_dir: Path, listeners: Listeners = SILENT) -> TrainResult:
    """Continue a run from its last checkpoint, from the very batch it had reached.

    Raises CheckpointError when the directory holds nothing that can be continued.
    """
    began = time.monotonic() if listeners.began is None else listeners.began
    run = open_run_dir(run_dir)
    config, classes = _continued(run)
    device = prepared_device(config.accelerator)
    store = open_dataset(config.data, on_progress=listeners.on_progress)
    if store.classes != classes:
        raise CheckpointError(
            f"{run_dir} was trained on other classes than {store.path} holds",
            remedy="put the dataset it was trained on back, or start a new run",
        )
    model = build_model(config.model, seed=config.seed)
    loaders = make_loaders(config, store, device=device)
    return Session(config, model, store, loaders, run, device, listeners, began).run_to_end(run.last)


def fitted_to(config: TrainConfig, store: Store) -> TrainConfig:
    """The config with a model for the classes and the image size of the dataset."""
    model = replace(config.model, classes=len(store.classes), img_size=config.img_size or store.img_size)
    return replace(config, model=model)


def _continued(run: RunDir) -> tuple[TrainConfig, tuple[str, ...]]:
    """What a run's last checkpoint was trained as, and its classes. Raises CheckpointError for another program's."""
    content = read_checkpoint(run.last)
    try:
        told, callbacks = content["cifar"], content["callbacks"]
        config = replace(trained_config(told["config"]), run_dir=run.path)
        whole = "auto" not in (config.precision, config.memory_format) and "val_accuracies" in callbacks["EpochLog"]
    except (KeyError, TypeError, CifarError) as error:
        raise CheckpointError(f"{run.last} was not written by `cifar train`", remedy="start a new run") from error
    if not whole:
        raise CheckpointError(
            f"{run.last} was written by an earlier version, whose runs can't be continued",
            remedy="start a new run; `cifar evaluate` still reads its best weights",
        )
    return config, tuple(told["classes"])


def prepared_device(accelerator: str) -> torch.device:
    """The device to train on, with what makes it quick set for this process. Raises ResourceError."""
    device = device_of(accelerator)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def device_of(accelerator: str) -> torch.device:
    """The device that "auto", "cpu" or "gpu" means here. Raises ResourceError for a GPU that isn't there."""
    if accelerator != "cpu":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        if torch.backends.mps.is_available():
            return torch.device("mps")
        if accelerator == "gpu":
            raise ResourceError("there is no GPU that PyTorch can use", remedy="pass --accelerator cpu or auto")
    return torch.device("cpu")
