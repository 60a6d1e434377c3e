"""A training from config to result."""

from __future__ import annotations

import errno
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.store import Store
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.batches import Loaders, make_loaders
from cifar_cli.core.training.callbacks.clock import Clock
from cifar_cli.core.training.callbacks.log import EpochLog, OnEpoch
from cifar_cli.core.training.callbacks.pictures import Pictures
from cifar_cli.core.training.callbacks.rescue import Rescue
from cifar_cli.core.training.checkpoint import describe, read_checkpoint, trained_config
from cifar_cli.core.training.config import TrainConfig, TrainResult
from cifar_cli.core.training.module import Classifier
from cifar_cli.core.training.run_dir import RunDir, create_run_dir, open_run_dir
from cifar_cli.errors import CheckpointError, ResourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Who hears of a training: a sentence at its start, progress within an epoch, the result of every epoch."""

    on_note: Callable[[str], None] = lambda sentence: None
    on_progress: OnProgress = silent
    on_epoch: OnEpoch = lambda result: None


SILENT = Listeners()


def train(config: TrainConfig, listeners: Listeners = SILENT) -> TrainResult:
    """Train a model, keep the weights that validate best, and score those once on the test split.

    Writes the run directory described in docs/training.md.
    Raises CifarError children for what the user can mend, Interrupted (with everything saved) on Ctrl-C.
    """
    device = device_of(config.accelerator)
    # The weights come first: when they can't be had, nothing was downloaded or written in vain.
    model = build_model(config.model, seed=config.seed)
    store = open_dataset(config.data, on_progress=listeners.on_progress)
    fitted = replace(config.model, classes=len(store.classes), img_size=config.img_size or store.img_size)
    if fitted != config.model:
        config = replace(config, model=fitted)
        model = build_model(fitted, seed=config.seed)
    loaders = make_loaders(config, store, device=device)
    run = create_run_dir(config.run_dir, model=config.model.label)
    return _run(replace(config, run_dir=run.path), model, store, loaders, run, device, None, listeners)


def resume(run_dir: Path, listeners: Listeners = SILENT) -> TrainResult:
    """Continue a run from its last checkpoint, from the very batch it had reached.

    Raises CheckpointError when the directory holds nothing that can be continued.
    """
    run = open_run_dir(run_dir)
    told = read_checkpoint(run.last).get("cifar")
    if not isinstance(told, dict):
        raise CheckpointError(f"{run.last} was not written by `cifar train`", remedy="start a new run")
    config = replace(trained_config(told["config"]), run_dir=run.path)
    device = device_of(config.accelerator)
    store = open_dataset(config.data, on_progress=listeners.on_progress)
    if store.classes != tuple(told["classes"]):
        raise CheckpointError(
            f"{run_dir} was trained on other classes than {store.path} holds",
            remedy="put the dataset it was trained on back, or start a new run",
        )
    model = build_model(config.model, seed=config.seed)
    loaders = make_loaders(config, store, device=device)
    return _run(config, model, store, loaders, run, device, run.last, listeners)


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


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class _Callbacks:
    clock: Clock
    log: EpochLog
    rescue: Rescue
    best: ModelCheckpoint
    last: ModelCheckpoint
    pictures: Pictures

    def all(self) -> list[Callback]:
        return [self.clock, self.log, self.pictures, self.rescue, self.best, self.last]


def _run(
    config: TrainConfig,
    model: nn.Module,
    store: Store,
    loaders: Loaders,
    run: RunDir,
    device: torch.device,
    checkpoint: Path | None,
    listeners: Listeners,
) -> TrainResult:
    module = Classifier(
        model.to(memory_format=torch.channels_last),
        classes=len(store.classes),
        recipe=config.recipe,
        learning_rate=config.recipe.learning_rate or spec_of(config.model.name).learning_rate,
    )
    module.description = describe(config, classes=store.classes, synthetic=store.synthetic)
    if checkpoint is None:
        run.write_config(module.description | {"device": str(device), "torch": str(torch.__version__)})
    logger = TensorBoardLogger(run.path, name="", version="", default_hp_metric=False)
    logger.experiment.add_text("dataset", _dataset_line(store))
    callbacks = _callbacks(config, store, run, loaders, logger, listeners)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    listeners.on_note(
        f"training {config.model.label} ({parameters:,} parameters) on {len(loaders.train_indices):,} images of "
        f"{_dataset_line(store)}, {device}; everything goes to {run.path}"
    )
    torch.manual_seed(config.seed)  # whatever the model draws while training (dropout) follows the seed too
    with _quiet_lightning():
        trainer = Trainer(
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=1,
            max_epochs=1 if config.fast_dev_run else config.recipe.max_epochs,
            gradient_clip_val=config.recipe.clip_norm,
            logger=logger,
            callbacks=callbacks.all(),
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        _fit(trainer, module, loaders, callbacks.rescue, run, checkpoint)
        train_seconds = callbacks.clock.elapsed_seconds
        module.load_state_dict(read_checkpoint(run.best)["state_dict"])
        trainer.test(module, loaders.test, verbose=False)
    logger.experiment.close()
    test = module.test_scores
    result = TrainResult(
        run_dir=run.path,
        checkpoint=run.best,
        model=config.model.label,
        dataset=store.name,
        synthetic=store.synthetic,
        epochs=trainer.current_epoch,
        train_seconds=train_seconds,
        images_per_second=callbacks.clock.images_per_second,
        val_accuracy=callbacks.log.best_val_accuracy,
        test_accuracy=test.accuracy,
        test_loss=test.loss,
        stopped_by=callbacks.clock.stopped_by,
    )
    run.write_summary(result.to_dict())
    return result


def _callbacks(
    config: TrainConfig,
    store: Store,
    run: RunDir,
    loaders: Loaders,
    logger: TensorBoardLogger,
    listeners: Listeners,
) -> _Callbacks:
    clock = Clock(
        max_seconds=config.recipe.max_seconds, val_images=len(loaders.val_indices), test_images=len(store.test)
    )
    return _Callbacks(
        clock=clock,
        log=EpochLog(
            run=run,
            writer=logger.experiment,
            clock=clock,
            on_progress=listeners.on_progress,
            on_epoch=listeners.on_epoch,
        ),
        pictures=Pictures(
            writer=logger.experiment,
            store=store,
            indices=(("train", loaders.train_indices), ("val", loaders.val_indices)),
            img_size=config.model.img_size,
        ),
        rescue=Rescue(run),
        best=_checkpoint(run.best, monitor="val_accuracy"),
        # One of its own: with `save_last`, Lightning writes it only in epochs in which the best one changes.
        last=_checkpoint(run.last, monitor=None),
    )


def _checkpoint(path: Path, *, monitor: str | None) -> ModelCheckpoint:
    """Write `path` after every epoch, or after those in which `monitor` was highest."""
    return ModelCheckpoint(
        dirpath=path.parent,
        filename=path.stem,
        monitor=monitor,
        mode="max",
        save_on_train_epoch_end=True,  # after validation, so that a resumed run begins with a new epoch
        enable_version_counter=False,
    )


def _fit(
    trainer: Trainer, module: Classifier, loaders: Loaders, rescue: Rescue, run: RunDir, checkpoint: Path | None
) -> None:
    try:
        with rescue.listening():
            trainer.fit(module, loaders.train, loaders.val, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # how Lightning ends after a KeyboardInterrupt
        raise rescue.interrupted("interrupted; all up to the last whole epoch is saved") from None
    except (OSError, RuntimeError) as error:
        raise _explained(error, run) from error


def _explained(error: OSError | RuntimeError, run: RunDir) -> Exception:
    """The failures of a long run that a user can mend, in words; any other error as it is."""
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(
            "the GPU ran out of memory", remedy="pass a smaller --batch; `cifar profile-memory` says which fits"
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # torch's zip writer reports a full disk as a RuntimeError of its own.
    if full or "PytorchStreamWriter failed" in str(error):
        return ResourceError(
            f"there is no space left to write to {run.path}",
            remedy=f"free some, then continue with `cifar train --resume {run.path}`",
        )
    return error


def _dataset_line(store: Store) -> str:
    kind = "synthetic, drawn by cifar: not real images" if store.synthetic else f"from {store.provenance.source}"
    return f"{store.name} ({kind})"


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks about devices, tips and loaders to itself: they are answered here already."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
