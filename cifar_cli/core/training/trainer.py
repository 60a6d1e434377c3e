"""A training from config to result."""

from __future__ import annotations

import errno
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.store import Store
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.batches import Loaders, make_loaders
from cifar_cli.core.training.callbacks.clock import Clock
from cifar_cli.core.training.callbacks.log import EpochLog, OnEpoch, OnStep
from cifar_cli.core.training.callbacks.pictures import Pictures
from cifar_cli.core.training.callbacks.rate import LearningRate
from cifar_cli.core.training.callbacks.rescue import Rescue
from cifar_cli.core.training.callbacks.trace import StepTrace
from cifar_cli.core.training.checkpoint import describe, read_checkpoint, trained_config
from cifar_cli.core.training.config import TimeSpent, TrainConfig, TrainResult
from cifar_cli.core.training.module import Classifier
from cifar_cli.core.training.numerics import Numerics, choose_numerics
from cifar_cli.core.training.run_dir import RunDir, create_run_dir, open_run_dir
from cifar_cli.core.training.scoring import SplitScores, score
from cifar_cli.errors import CheckpointError, ResourceError

LIGHTNING_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Who hears of a training: a sentence at its start, progress of its preparation, the choice of precision, its
    steps, the result of every epoch.

    began: when the user's command began, in seconds of
    time.monotonic(); None takes the call of `train`.
    """

    on_note: Callable[[str], None] = lambda sentence: None
    on_progress: OnProgress = silent
    on_step: OnStep = lambda progress: None
    on_epoch: OnEpoch = lambda result: None
    on_numerics: Callable[[Numerics], None] = lambda numerics: None
    began: float | None = None


SILENT = Listeners()


def train(config: TrainConfig, listeners: Listeners = SILENT) -> TrainResult:
    """Train a model, keep the weights that validate best, and score those once on the test split.

    Writes the run directory described in docs/training.md.
    Raises CifarError children for what the user can mend, Interrupted (with everything saved) on Ctrl-C.
    """
    began = time.monotonic() if listeners.began is None else listeners.began
    device = device_of(config.accelerator)
    # The weights come first: when they can't be had, nothing was downloaded or written in vain.
    model = build_model(config.model, seed=config.seed)
    store = open_dataset(config.data, on_progress=listeners.on_progress)
    fitted = replace(config.model, classes=len(store.classes), img_size=config.img_size or store.img_size)
    if fitted != config.model:
        config = replace(config, model=fitted)
        model = build_model(fitted, seed=config.seed)
    loaders = make_loaders(config, store, device=device)
    numerics = choose_numerics(config, model, classes=len(store.classes), device=device)
    listeners.on_numerics(numerics)
    run = create_run_dir(config.run_dir, model=config.model.label)
    config = replace(config, run_dir=run.path, precision=numerics.precision, memory_format=numerics.memory_format)
    session = _Session(config, model, store, loaders, run, device, listeners, began)
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
    return _Session(config, model, store, loaders, run, device, listeners, began).run_to_end(run.last)


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


class _Session:
    """One run, from its parts to its result."""

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        store: Store,
        loaders: Loaders,
        run: RunDir,
        device: torch.device,
        listeners: Listeners,
        began: float,
    ) -> None:
        self.config, self.store, self.loaders, self.run = config, store, loaders, run
        self.device, self.listeners, self.began = device, listeners, began
        numerics = Numerics(precision=config.precision, memory_format=config.memory_format)
        self.module = Classifier(
            model,
            classes=len(store.classes),
            recipe=config.recipe,
            learning_rate=config.recipe.learning_rate or spec_of(config.model.name).learning_rate,
            layout=numerics.layout,
            fused=config.precision != "16",  # gradient scaling can't clip what a fused optimizer unscales itself
        )
        self.module.description = describe(config, classes=store.classes, synthetic=store.synthetic)
        self.logger = TensorBoardLogger(run.path, name="", version="", default_hp_metric=False)
        self.logger.experiment.add_text("dataset", _dataset_line(store))
        # The test sees every image twice (as it is and mirrored), in float32, which takes twice as long as 16 bits.
        test_images = len(store.test) * 2 * (1 if config.precision == "32" else 2)
        self.clock = Clock(
            max_seconds=config.recipe.max_seconds, val_images=len(loaders.val_indices), test_images=test_images
        )
        self.log = EpochLog(
            run=run,
            writer=self.logger.experiment,
            clock=self.clock,
            on_step=listeners.on_step,
            on_epoch=listeners.on_epoch,
        )
        self.rescue = Rescue(run)

    def run_to_end(self, checkpoint: Path | None) -> TrainResult:
        """Train (on from the checkpoint), then score the best weights once on the test split."""
        config, recipe = self.config, self.config.recipe
        parameters = sum(parameter.numel() for parameter in self.module.model.parameters())
        self.listeners.on_note(
            f"training {config.model.label} ({parameters:,} parameters, recipe {recipe.name}) on "
            f"{len(self.loaders.train_indices):,} images of {_dataset_line(self.store)}, {self.device}, "
            f"precision {config.precision}, {config.memory_format}; everything goes to {self.run.path}"
        )
        left_out: tuple[str, ...] = getattr(self.module.model, "optional_prefixes", ())
        if left_out and config.model.trim_backbone:
            names = ", ".join(prefix.rstrip(".") for prefix in left_out)
            self.listeners.on_note(f"left out, because it never reaches the logits: {names} (--full-backbone keeps it)")
        torch.manual_seed(config.seed)  # whatever the model draws while training (dropout) follows the seed too
        if config.compile:
            self.module.model.compile()
        startup = time.monotonic() - self.began
        with _quiet_lightning(), _fast_kernels(self.device):
            trainer = Trainer(
                accelerator="cpu" if self.device.type == "cpu" else "gpu",
                devices=1,
                precision=LIGHTNING_PRECISION[config.precision],  # type: ignore[arg-type]
                max_epochs=1 if config.fast_dev_run else recipe.max_epochs,
                logger=self.logger,
                callbacks=self._callbacks(),
                num_sanity_val_steps=0,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            self._fit(trainer, checkpoint)
        train_seconds, fit_seconds = self.clock.elapsed_seconds, time.monotonic() - self.began - startup
        test_started = time.monotonic()
        self.module.load_state_dict(read_checkpoint(self.run.best)["state_dict"])
        scores = score(
            self.module.model,
            self.loaders.test,
            classes=len(self.store.classes),
            device=self.device,
            flip_average=True,
            on_progress=self.listeners.on_progress,
        )
        spent = self.clock.spent(
            startup=startup,
            train=fit_seconds,
            data=self.loaders.train.seconds,
            metrics=self.module.metrics_seconds,
            test=time.monotonic() - test_started,
        )
        self.logger.experiment.close()
        result = self._result(scores, spent, epochs=trainer.current_epoch, train_seconds=train_seconds)
        self.run.write_summary(result.to_dict())
        return result

    def _callbacks(self) -> list[Callback]:
        """In the order they are called in: the average knows a step before Ctrl-C saves it."""
        recipe = self.config.recipe
        pictures = Pictures(
            writer=self.logger.experiment,
            store=self.store,
            indices=(("train", self.loaders.train_indices), ("val", self.loaders.val_indices)),
            img_size=self.config.model.img_size,
        )
        averaging = [] if recipe.ema_decay is None else [EMAWeightAveraging(decay=recipe.ema_decay)]
        return [
            self.clock,
            LearningRate(recipe=recipe, clock=self.clock),
            *averaging,
            *([StepTrace(self.run.path / "profile")] if self.config.profile else []),
            self.log,
            pictures,
            self.rescue,
            _checkpoint(self.run.best, monitor="val_accuracy"),
            # One of its own: with `save_last`, Lightning writes it only in epochs in which the best one changes.
            _checkpoint(self.run.last, monitor=None),
        ]

    def _fit(self, trainer: Trainer, checkpoint: Path | None) -> None:
        try:
            with self.rescue.listening():
                trainer.fit(self.module, self.loaders.train, self.loaders.val, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # how Lightning ends after a KeyboardInterrupt
            raise self.rescue.interrupted("interrupted; all up to the last whole epoch is saved") from None
        except (OSError, RuntimeError) as error:
            raise _explained(error, self.run, compiled=self.config.compile) from error

    def _result(self, scores: SplitScores, spent: TimeSpent, *, epochs: int, train_seconds: float) -> TrainResult:
        config = self.config
        return TrainResult(
            run_dir=self.run.path,
            checkpoint=self.run.best,
            model=config.model.label,
            dataset=self.store.name,
            synthetic=self.store.synthetic,
            recipe=config.recipe.name,
            seed=config.seed,
            epochs=epochs,
            train_seconds=train_seconds,
            images_per_second=self.clock.images_per_second,
            val_accuracy=self.log.best_val_accuracy,
            test_accuracy=scores.plain.accuracy,
            test_accuracy_flip_averaged=scores.accuracy_flip_averaged or 0.0,
            test_loss=scores.plain.loss,
            stopped_by=self.clock.stopped_by,
            precision=config.precision,
            memory_format=config.memory_format,
            time=spent,
            config=config,
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


def _explained(error: OSError | RuntimeError, run: RunDir, *, compiled: bool) -> Exception:
    """The failures of a long run that a user can mend, in words; any other error as it is."""
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(
            "the GPU ran out of memory", remedy="pass a smaller --batch; `cifar profile-memory` says which fits"
        )
    if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return ResourceError(
            f"torch.compile can't compile this model here ({str(error).strip().splitlines()[0]})",
            remedy="pass --no-compile, or install a C++ compiler",
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
def _fast_kernels(device: torch.device) -> Iterator[None]:
    """On CUDA: TF32 for float32 products, and the convolution algorithms that are fastest for these shapes."""
    if device.type != "cuda":
        yield
        return
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    tf32 = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark


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
