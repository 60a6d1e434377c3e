"""One run, from its parts to its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from cifar_cli.core.data.store import Store
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.batches import Loaders
from cifar_cli.core.training.callbacks.checkpoints import Checkpoints
from cifar_cli.core.training.callbacks.clock import Clock
from cifar_cli.core.training.callbacks.log import EpochLog, OnEpoch, OnStep
from cifar_cli.core.training.callbacks.pictures import Pictures
from cifar_cli.core.training.callbacks.rate import LearningRate
from cifar_cli.core.training.callbacks.trace import StepTrace
from cifar_cli.core.training.checkpoint import describe, load_checkpoint
from cifar_cli.core.training.config import Numerics, TimeSpent, TrainConfig, TrainResult
from cifar_cli.core.training.module import Classifier
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.scoring import SplitScores, score
from cifar_cli.core.training.surroundings import explained, fast_kernels, quiet_lightning

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


class Session:
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
        self.module = Classifier(
            model,
            classes=len(store.classes),
            recipe=config.recipe,
            learning_rate=config.recipe.learning_rate or spec_of(config.model.name).learning_rate,
            memory_format=config.memory_format,
            fused=config.precision != "16",  # gradient scaling can't clip what a fused optimizer unscales itself
        )
        self.module.description = describe(config, classes=store.classes, synthetic=store.synthetic)
        self.writer = SummaryWriter(run.path)  # not Lightning's logger, which leaves an empty hparams.yaml in every run
        self.writer.add_text("dataset", _dataset_line(store))
        # The test sees every image twice (as it is and mirrored), in float32, which takes twice as long as 16 bits.
        test_images = len(store.test) * 2 * (1 if config.precision == "32" else 2)
        self.clock = Clock(
            max_seconds=config.recipe.max_seconds,
            val_images=len(loaders.val_indices),
            test_images=test_images,
            device=device,
            began=began,
        )
        self.log = EpochLog(
            run=run,
            writer=self.writer,
            clock=self.clock,
            on_step=listeners.on_step,
            on_epoch=listeners.on_epoch,
        )
        self.checkpoints = Checkpoints(run, self.log)

    def run_to_end(self, checkpoint: Path | None) -> TrainResult:
        """Train (on from the checkpoint), then score the best weights once on the test split."""
        try:
            return self._run_to_end(checkpoint)
        finally:
            self.writer.close()

    def _run_to_end(self, checkpoint: Path | None) -> TrainResult:
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
        with quiet_lightning(), fast_kernels(self.device):
            trainer = Trainer(
                accelerator="cpu" if self.device.type == "cpu" else "gpu",
                devices=1,
                precision=LIGHTNING_PRECISION[config.precision],  # type: ignore[arg-type]
                max_epochs=1 if config.fast_dev_run else recipe.max_epochs,
                logger=False,
                callbacks=self._callbacks(),
                num_sanity_val_steps=0,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,  # of Lightning's own kind
                use_distributed_sampler=False,
            )
            self._fit(trainer, checkpoint)
        train_seconds, fit_seconds = self.clock.elapsed_seconds, time.monotonic() - self.began - startup
        test_started = time.monotonic()
        scores = score(
            load_checkpoint(self.run.best).model,  # a model of its own: this one may be compiled for other shapes
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
        result = self._result(scores, spent, epochs=trainer.current_epoch, train_seconds=train_seconds)
        self.run.write_summary(result.to_dict())
        return result

    def _callbacks(self) -> list[Callback]:
        """In the order they are called in.

        The average knows a step before Ctrl-C saves it; the log ends a run whose loss is no number before its weights
        are written.
        """
        recipe = self.config.recipe
        pictures = Pictures(
            writer=self.writer,
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
            self.checkpoints,
        ]

    def _fit(self, trainer: Trainer, checkpoint: Path | None) -> None:
        try:
            with self.checkpoints.listening():
                trainer.fit(self.module, self.loaders.train, self.loaders.val, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # how Lightning ends after a KeyboardInterrupt
            raise self.checkpoints.interrupted("interrupted; all up to the last whole epoch is saved") from None
        except (OSError, RuntimeError) as error:
            raise explained(error, self.run, compiled=self.config.compile) from error

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
            asked_to_stop=self.checkpoints.asked,
            config=config,
        )


def _dataset_line(store: Store) -> str:
    kind = "synthetic, drawn by cifar: not real images" if store.synthetic else f"from {store.provenance.source}"
    return f"{store.name} ({kind})"
