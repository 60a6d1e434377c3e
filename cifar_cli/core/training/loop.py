"""The training loop: from a prepared run to its result."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from cifar_cli.core.data.loader import Batch
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.training_form import training_form
from cifar_cli.core.training.accounting import Accounting
from cifar_cli.core.training.balancing import class_weights_of
from cifar_cli.core.training.batches import PLAIN_TRAIN_IMAGES
from cifar_cli.core.training.capture import CapturedStep
from cifar_cli.core.training.checkpoint import describe
from cifar_cli.core.training.conclusion import conclude
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.deadline import Deadline
from cifar_cli.core.training.events import Events
from cifar_cli.core.training.failures import explained, require_converging
from cifar_cli.core.training.growth import growth_of, shrunk
from cifar_cli.core.training.interrupts import Interrupts, interrupted, left_at_once
from cifar_cli.core.training.introduction import dataset_line, introduce
from cifar_cli.core.training.listeners import SILENT, Listeners
from cifar_cli.core.training.loggers import Loggers
from cifar_cli.core.training.machine import kernels, wait_for
from cifar_cli.core.training.pace import Pace
from cifar_cli.core.training.pictures import Pictures
from cifar_cli.core.training.plan import Planner, late_start
from cifar_cli.core.training.prepare import Prepared
from cifar_cli.core.training.provenance import provenance
from cifar_cli.core.training.ranks import MEETING_SECONDS, Agreement, LostProcessError
from cifar_cli.core.training.record import Record
from cifar_cli.core.training.results import EpochResult, TrainProgress, TrainResult
from cifar_cli.core.training.run_dir import RunDir, create_run_dir
from cifar_cli.core.training.run_lock import locked
from cifar_cli.core.training.run_state import Position, RunState, StoppedBy
from cifar_cli.core.training.schedule import LearningRate
from cifar_cli.core.training.scores import Scores, validate
from cifar_cli.core.training.sharded import own_part, whole
from cifar_cli.core.training.step import TrainingStep, seed_draws
from cifar_cli.core.training.step_trace import traced_steps
from cifar_cli.errors import Interrupted

TEST_PASSES = 2  # each test image is scored as it is and mirrored
FLOAT32_COST = 2  # time of a pass in float32, in which the test runs, as a multiple of one in 16 bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Seams:
    """What tests replace: the training step, the clock, and the pictures, which dominate short epochs."""

    make_step: Callable[..., TrainingStep] = TrainingStep
    clock: Callable[[], float] = time.monotonic
    make_pictures: Callable[..., Pictures] = Pictures


REAL = Seams()


def fit(
    prepared: Prepared, listeners: Listeners = SILENT, *, run: RunDir | None = None, seams: Seams = REAL
) -> TrainResult:
    """Train, and score the weights with the highest validation accuracy once on the test split.

    run: the directory of a run that is continued; None creates one.
    Raises Interrupted (with everything saved) on Ctrl-C, CifarError when the run diverges, ResourceError when memory
    or disk space runs out.
    """
    ranks = prepared.ranks
    if run is None:
        run = create_run_dir(_folder(prepared.config), model=prepared.config.model.label)
    prepared = replace(prepared, config=replace(prepared.config, run_dir=run.path))
    if ranks.is_first:
        ranks.order((prepared.config, prepared.store.content))
    ranks.meet(MEETING_SECONDS)  # the others may import the dataset on their machines
    try:
        with locked(run.path, hold=ranks.is_first), Loop(prepared, run, listeners, seams) as loop:
            with kernels(prepared.device, deterministic=prepared.config.deterministic), loop.interrupts.listening():
                loop.train()
            return conclude(loop)
    except KeyboardInterrupt as error:
        raise left_at_once(run, error) from None
    except (OSError, MemoryError, RuntimeError, LostProcessError) as error:
        described = explained(ranks.explained(error), run, compiled=prepared.config.compile)
        if described is error:
            raise
        raise described from error


def _folder(config: TrainConfig) -> Path | None:
    """The run directory asked for. A run of one batch isn't kept among the others."""
    if config.fast_dev_run and config.run_dir is None:
        return Path(tempfile.mkdtemp(prefix="cifar-fast-dev-run-"))
    return config.run_dir


def _test_per_validation(prepared: Prepared) -> float:
    """Time of the scores after training, as a multiple of that of a validation."""
    loaders = prepared.loaders
    images = len(prepared.store.test) * TEST_PASSES + min(PLAIN_TRAIN_IMAGES, len(loaders.train_indices))
    cost = 1 if prepared.config.precision == "32" else FLOAT32_COST
    return images / max(len(loaders.val_indices), 1) * cost


class Loop:
    """One run while it trains. Its `with` block closes the TensorBoard file."""

    def __init__(self, prepared: Prepared, run: RunDir, listeners: Listeners, seams: Seams) -> None:
        config, store, device = prepared.config, prepared.store, prepared.device
        recipe, loaders = config.recipe, prepared.loaders
        self.config, self.run, self.listeners, self.device = config, run, listeners, device
        self.ranks = ranks = prepared.ranks
        self._shards = config.strategy == "fsdp" and ranks.world_size > 1
        self.store, self.loaders, self.clock = store, loaders, seams.clock
        self.epochs = 1 if config.fast_dev_run else recipe.max_epochs
        self.steps_per_epoch = len(loaders.train)

        self.accounting = Accounting(device, seams.clock)
        captured = config.cuda_graph == "on" and device.type == "cuda" and ranks.world_size == 1
        step_config = replace(
            config.step_config(), class_weights=class_weights_of(config, store, loaders), captured=captured
        )
        ranks.same_weights(prepared.model)
        model = training_form(prepared.model, step_config.memory_format).to(device).train()
        self.step = seams.make_step(
            model,
            step_config,
            device_type=device.type,
            on_stage=self.accounting.enter,
            parallel=partial(ranks.parallel, shards=self._shards),
        )
        self.captured = CapturedStep(self.step) if captured else None
        self.evaluated = self.step.evaluated
        self.rate = LearningRate(self.step.optimizer, recipe, steps=self.epochs * self.steps_per_epoch)
        self.train_scores, self.val_scores = (Scores(len(store.classes)).to(device) for _ in range(2))
        self.growth, self.pace = growth_of(config), Pace()
        self.deadline = Deadline(
            recipe.max_seconds,
            began=prepared.began,
            clock=seams.clock,
            train_images=len(loaders.train_indices),
            val_images=len(loaders.val_indices),
            test_per_validation=_test_per_validation(prepared),
        )
        self.description = describe(config, store)
        self.record = Record(run, listeners, clock=seams.clock, keeps_scores=not config.fast_dev_run)
        self.interrupts = Interrupts(listeners.on_note)
        self.agreed = Agreement()
        self.state = RunState(
            run, step=self.step, loader=loaders.train, deadline=self.deadline, pace=self.pace, record=self.record,
            scores=self.train_scores, every_seconds=config.checkpoint_seconds, clock=seams.clock,
        )  # fmt: skip
        checkpoint = ranks.broadcast(prepared.checkpoint)
        at = Position() if checkpoint is None else self.state.restore(checkpoint, origin=run.last, ranks=ranks)
        self.epoch, self.epoch_step, self.global_step = at.epoch, at.epoch_step, at.global_step
        self.stopped_by: StoppedBy = at.stopped_by
        self.planner = Planner(prepared, run, self.step, self.rate, self.deadline, self.pace, say=listeners.on_note)
        if checkpoint is not None:
            self.planner.restore(checkpoint, at)
        self.began = prepared.began
        self.writer: Events | None = None
        self.loggers: Loggers | None = None
        self.pictures: Pictures | None = None
        if ranks.is_first:
            # Only now, so that a run that is refused stays unchanged. What was written after the checkpoint is dropped.
            purge_step = None if checkpoint is None else self.record.unwritten_step(at.global_step)
            self._begin_writing(prepared, seams, purge_step=purge_step)

    def _begin_writing(self, prepared: Prepared, seams: Seams, *, purge_step: int | None) -> None:
        """Open the files that rank 0 writes beside the checkpoints."""
        self.run.forget_result()
        self.writer = Events(self.run.path, purge_step=purge_step)
        self.loggers = Loggers(self.listeners.loggers, self.run.path, self.listeners.on_note)
        self.record.write_to(self.writer, self.global_step, self.loggers)
        self.pictures = seams.make_pictures(self.writer, self.store, self.loaders, self.config)
        self.run.write_config(self.description | provenance(prepared))
        self.record.add_texts(self.config, dataset=dataset_line(self.store))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self.loggers is not None:
            self.loggers.close(finished=kind is None)
        if self.pictures is not None:
            # Where the run failed, a failing picture is no news.
            with nullcontext() if kind is None else suppress(Exception):
                if kind is Interrupted:
                    self.pictures.finish()
                self.pictures.close()
        if self.writer is not None:
            self.writer.close()

    def train(self) -> None:
        """Train until the epochs are done or the time is up."""
        self.ranks.meet()  # rank 0 has opened its loggers, which may take long to give up
        introduce(self.config, self.step.model, self.loaders, self.store, self.ranks, self.listeners.on_note)
        if self.config.compile:
            self.step.model.compile()
        start_up = self.deadline.start()
        self.accounting.add("startup", start_up)
        if (late := late_start(start_up, self.deadline)) is not None:
            self.listeners.on_note(late)
        with self.accounting.spending("fit"), self._profiled(self.planner.steps) as after_step:
            while self.epoch < self.epochs and self.stopped_by != "time" and not self._out_of_patience():
                if self._train_epoch(after_step):
                    self._finish_epoch(self._validate())

    def _train_epoch(self, after_step: Callable[[], None]) -> bool:
        """Take the steps of an epoch, or of what is left of one that was interrupted.

        Returns False where its steps were taken back: a measurement found that the run needs other learning rates.
        """
        self.step.train()
        if self.epoch_step == 0:
            self.train_scores.reset()
        self.pace.start_epoch()
        self.loaders.train.set_epoch(self.epoch)
        self._agree()
        if not self.planner.is_decided and self.global_step == 0:
            self.planner.keep_start()
        last = self.clock()
        for images_BCHW, labels_B in self.accounting.fetched(self._batches()):
            self.rate.set_for(self.global_step)
            seed_draws(self.config.seed, self.global_step, self.ranks.rank, device=self.device)
            images = self.loaders.train.images_of(self.epoch_step)
            own_images = self.ranks.images_of(images)
            self.step.weight = own_images * self.ranks.world_size / images
            self.accounting.start_step()
            loss, logits_BK = self._step_for(images_BCHW)(images_BCHW, labels_B)
            self.accounting.enter("metrics")
            if own_images:
                plain = self.step.cross_entropy(loss, logits_BK, labels_B)
                self.train_scores.update(plain, logits_BK, labels_B, optimized=loss)
            self.accounting.end_step()
            self.epoch_step += 1
            self.global_step += 1
            self.record.add_step(self.global_step, self.rate.current)
            now = self.clock()
            self.pace.add(images, now - last, counted=images * self.growth.weight(images_BCHW.shape[-1]))
            last = now
            after_step()
            if self._agree():
                return False
            is_last = self.epoch_step == self.steps_per_epoch
            if is_last or self.agreed.progress_is_due:
                self.record.report_progress(self._progress())
            if self._is_over():
                return True
            if self.agreed.checkpoint_is_due and not is_last and self.planner.is_decided:
                self._save(self.run.last, next_epoch=self.epoch)
            # After the last step of an epoch, its validation and record come first.
            if self.agreed.signal and not is_last:
                if not self.planner.is_decided and self.planner.begin_again():
                    self.deadline.begin_again()
                    self._go_to_the_start()
                self._save(self.run.last, next_epoch=self.epoch)
                what = f"interrupted in epoch {self.epoch + 1}; saved"
                raise interrupted(what, self.run, by=self.agreed.signal)
        return True

    def _step_for(self, images_BCHW: Tensor) -> TrainingStep | CapturedStep:
        """The captured step where there is one.

        A graph can't be told that weights and optimizer were taken back, so it begins after the plan. The rest of an
        epoch, which is fewer images, isn't worth one.
        """
        whole = len(images_BCHW) == self.config.recipe.batch
        if self.captured is not None and self.planner.is_decided and whole:
            return self.captured
        return self.step

    def _batches(self) -> Iterator[Batch]:
        """Those of the loader, with images of the side that the step has."""
        for images_BCHW, labels_B in self.loaders.train:
            steps, planned = self.planner.steps, self.planner.is_decided
            yield shrunk(images_BCHW, self.growth.side_for(self.global_step, steps=steps, planned=planned)), labels_B

    def _out_of_patience(self) -> bool:
        if not self.config.recipe.has_lost_patience(self.record.val_accuracies):
            return False
        self.stopped_by = "patience"
        return True

    def _is_over(self) -> bool:
        """Whether the step was the run's last, and not the last one of its last epoch."""
        if self.epoch_step == self.steps_per_epoch and self.epoch + 1 == self.epochs:
            return False
        if self.global_step >= self.planner.steps:
            self.stopped_by = "time"
        elif self.agreed.time_is_up:
            self.stopped_by = "time"
            self.planner.cut_short(self.global_step)
        return self.stopped_by == "time"

    def _agree(self) -> bool:
        """Exchange the one message of a step, after which all processes do the same.

        Returns whether they take back the steps so far, because the plan was made just now.
        """
        over = self.epoch_step == self.steps_per_epoch
        self.agreed = self.ranks.agree(
            Agreement(
                signal=self.interrupts.signal,
                time_is_up=self.deadline.is_reached(self.pace.seconds_per_image),
                progress_is_due=self.record.progress_is_due(),
                checkpoint_is_due=self.state.is_due(),
                planned_steps=self.planner.proposed(epoch_is_over=over) if self.ranks.is_first else 0,
            )
        )
        if self.planner.is_decided or not self.agreed.planned_steps:
            return False
        again = self.planner.adopt(self.agreed.planned_steps)
        if again:
            self._go_to_the_start()
        return again

    def _go_to_the_start(self) -> None:
        self.loaders.train.load_state_dict({"epoch": 0, "next_batch": 0})
        self.epoch_step = self.global_step = 0

    def _validate(self) -> Scores:
        with self.accounting.spending("validation"):
            start = self.clock()
            self.val_scores.reset()
            if self._shards:
                self.evaluated = self._whole_model()
            validate(
                self.evaluated,
                self.ranks.own_batches(self.loaders.val),
                self.val_scores,
                layout=self.step.layout,
                autocast=self.step.autocast(),
            )
            val_scores = self.val_scores.joined(self.ranks)
            wait_for(self.device)
            self.deadline.validation_seconds = self.clock() - start
        return val_scores

    def _finish_epoch(self, val_scores: Scores) -> None:
        """Record the epoch, check for NaN, save checkpoints, draw pictures."""
        start = self.clock()
        with self.accounting.spending("logging"):
            train_scores = self.train_scores.joined(self.ranks)
            scores = {"train": train_scores, "val": val_scores}
            result = self._epoch_result(train_scores, val_scores)
            self.record.add_epoch(result, {split: each.matrix_KK.tolist() for split, each in scores.items()})
            weights = self.step.optimizer.state  # of the weights that it updates; the others may hold anything
            not_finite = not all(bool(own_part(weight).isfinite().all()) for weight in weights)
            finite = not self.ranks.any(not_finite)
            require_converging(result, self.run, classes=len(self.store.classes), weights_are_finite=finite)
            self.deadline.seconds_per_image = self.pace.settled_seconds_per_image
            if result.best:
                self._save(self.run.best, next_epoch=self.epoch + 1)
            self._save(self.run.last, next_epoch=self.epoch + 1)
            if self.pictures is not None:
                self.pictures.add(self.evaluated, result, scores, self.device)
            self.ranks.meet()  # the others wait while rank 0 draws
        self.deadline.logging_seconds = self.clock() - start
        self.epoch, self.epoch_step = self.epoch + 1, 0
        self._agree()
        if self.agreed.signal and self.epoch < self.epochs and self.stopped_by != "time":
            what = f"interrupted in epoch {self.epoch}, after its last step; saved"
            raise interrupted(what, self.run, by=self.agreed.signal)

    def _whole_model(self) -> nn.Module:
        """A copy of the evaluated model with complete weights: each process evaluates other batches with it."""
        model = training_form(build_untrained(self.config.model), self.step.config.memory_format)
        model.load_state_dict(whole(self.step.evaluated.state_dict()), assign=True)
        return model.to(self.device)

    def _profiled(self, steps: int) -> AbstractContextManager[Callable[[], None]]:
        if not (self.config.profile and self.ranks.is_first):
            return nullcontext(lambda: None)
        return traced_steps(self.run.path / "profile", self.device, steps=steps)

    def _progress(self) -> TrainProgress:
        scores = self.train_scores.joined(self.ranks)
        return TrainProgress(
            epoch=self.epoch + 1,
            epochs=math.ceil(self.planner.steps / self.steps_per_epoch),
            step=self.epoch_step,
            steps=self.steps_per_epoch,
            share_done=self.growth.cost_until(self.global_step / self.planner.steps),
            loss=scores.loss,
            accuracy=scores.accuracy,
            val_accuracies=tuple(self.record.val_accuracies),
            images_per_second=self.pace.epoch_images_per_second,
            elapsed_seconds=self.deadline.elapsed_seconds,
            max_seconds=self.deadline.max_seconds,
        )

    def _epoch_result(self, train_scores: Scores, val_scores: Scores) -> EpochResult:
        val_accuracy = val_scores.accuracy
        return EpochResult(
            epoch=self.epoch + 1,
            step=self.global_step,
            train_loss=train_scores.loss,
            train_optimized_loss=train_scores.optimized_loss,
            train_accuracy=train_scores.accuracy,
            val_loss=val_scores.loss,
            val_accuracy=val_accuracy,
            learning_rate=self.rate.current,
            elapsed_seconds=self.deadline.elapsed_seconds,
            images_per_second=self.pace.epoch_images_per_second,
            best=val_accuracy > self.record.best_val_accuracy,
        )

    def _save(self, path: Path, *, next_epoch: int) -> None:
        """Write a checkpoint that continues with the next step of `next_epoch`, counted from 0. Rank 0 does it."""
        at = Position(
            epoch=self.epoch, epoch_step=self.epoch_step, global_step=self.global_step, stopped_by=self.stopped_by
        )
        self.state.save(path, self.description, at, next_epoch=next_epoch, ranks=self.ranks)
        self.ranks.meet()  # the others wait while rank 0 writes, however slow its disk is
