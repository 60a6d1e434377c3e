"""Everything that a report says about one run: its record, its dataset, its model, its memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.results import ModelSummary
from cifar_cli.core.counting.summary import summarize
from cifar_cli.core.data.store import Store
from cifar_cli.core.evaluation.explain import heat_maps
from cifar_cli.core.evaluation.metrics import chance_level, confusion_matrix, wilson_interval
from cifar_cli.core.evaluation.predictions import Predictions
from cifar_cli.core.evaluation.ranking import mistakes, suspects
from cifar_cli.core.evaluation.report.predicted import read_predictions, tested_images
from cifar_cli.core.evaluation.report.recorded import Matrix, RecordedRun, read_run
from cifar_cli.core.evaluation.report.rules import Judgement, judge
from cifar_cli.core.evaluation.results import Interval
from cifar_cli.core.memory.config import MemoryConfig, Risk
from cifar_cli.core.memory.estimate import MOST, WORKSPACE_BYTES, Tracer, fits
from cifar_cli.core.memory.gpus import CONTEXT_BYTES, GPUS, TABLE_GPUS
from cifar_cli.core.memory.search import largest_that
from cifar_cli.core.own_code import require_trusted
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.batches import eval_loader, make_loaders, resident
from cifar_cli.core.training.checkpoint import load_checkpoint
from cifar_cli.core.training.machine import device_of
from cifar_cli.core.training.pictures import augmented_samples
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.trained_on import open_trained
from cifar_cli.errors import CheckpointError, CifarError

EARLIER_RUNS = 8
SHOWN = 12  # mistakes, and suspects
RISK: Risk = "safe"  # profile-memory's default


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """An accuracy with what it was counted on."""

    split: str
    """"test", or "validation" while a run is not finished."""
    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.images, 1)

    @property
    def interval(self) -> Interval:
        """The 95 % interval."""
        return wilson_interval(self.correct, self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Estimated memory of the training step on a GPU."""

    batch: int
    """Images of a step on one device."""
    devices: int
    device_bytes: int
    largest: tuple[tuple[str, int], ...]
    """Cards, and the largest batch on each, rounded down to two digits; without those for which none is predicted."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Samples:
    """Training images of an epoch, as they are and as the model was trained on them: uint8 [N, H, W, 3]."""

    epoch: int
    rows: list[int]
    original_NHWC: torch.Tensor
    augmented_NHWC: torch.Tensor
    labels_N: torch.Tensor

    @property
    def changed(self) -> int:
        """Images that differ from their originals; all of them where the size differs."""
        if self.original_NHWC.shape != self.augmented_NHWC.shape:
            return len(self.rows)
        return int((self.original_NHWC != self.augmented_NHWC).flatten(1).any(dim=1).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierRun:
    """A finished run on the same dataset beside this one."""

    name: str
    model: str
    test_accuracy: float
    train_seconds: float
    epochs: int


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Facts:
    """One run, with everything that could be found out; None and empty where it couldn't."""

    run: RecordedRun
    store: Store | None
    predicted: Predictions | None
    score: Score | None
    chance: float
    """Accuracy of always answering the most frequent class."""
    judgement: Judgement
    matrices: dict[str, Matrix]
    """Confusion matrices by split."""
    samples: Samples | None
    counted: ModelSummary | None
    memory: Memory | None
    earlier: tuple[EarlierRun, ...]
    heat: Mapping[int, torch.Tensor]
    """Heat maps [S, S] of mistakes and suspects, by the number of the test image; empty where not asked for."""

    @property
    def notice(self) -> str | None:
        """What the run lacks, in a sentence."""
        run = self.run
        if run.config.fast_dev_run:
            return "This run was started with --fast-dev-run: it trained one batch, and has no scores."
        if run.summary is None:
            epochs = len(run.epochs)
            done = f"{epochs} epoch{'s' if epochs != 1 else ''}" if epochs else "no epoch"
            return f"This run is not finished: {done} of {run.config.recipe.max_epochs} done, and no test yet."
        if self.store is None:
            path = run.config.data.store_path
            return f"The dataset {path} is not where it was, or has changed, so the report shows no images."
        return None


def facts_of(path: Path, *, explain: bool = False, on_progress: OnProgress = silent) -> Facts:
    """Read a run directory, and find out the rest.

    explain: run the best weights on mistakes and suspects. Raises CheckpointError where the run, or then its weights,
    can't be read, and ResourceError where the package for it is missing.
    """
    run = read_run(path)
    store = _store_of(run)
    predicted = None
    if store is not None and run.summary is not None:
        predicted = read_predictions(RunDir(path), store, loss=run.summary["test_loss"])
    score = _score_of(run, predicted)
    matrices = dict(run.confusion)
    if predicted is not None:
        matrices["test"] = tuple(map(tuple, confusion_matrix(predicted).tolist()))
    counts = matrices.get("test") or matrices.get("val")
    chance = chance_level(torch.tensor(counts)) if counts else 1 / max(len(run.classes), 1)
    return Facts(
        run=run,
        store=store,
        predicted=predicted,
        score=score,
        chance=chance,
        judgement=judge(
            run.epochs,
            classes=len(run.classes),
            chance=chance,
            better_than_chance=score is not None and score.interval.low > chance,
            train_accuracy=run.said("train_accuracy_plain"),
        ),
        matrices=matrices,
        samples=_samples_of(run, store),
        counted=_counted(run),
        memory=_memory_of(run),
        earlier=_earlier(run),
        heat={} if not explain or store is None or predicted is None else _heat_of(run, store, predicted, on_progress),
    )


def _heat_of(
    run: RecordedRun, store: Store, predicted: Predictions, on_progress: OnProgress
) -> dict[int, torch.Tensor]:
    device = device_of("auto")
    checkpoint = load_checkpoint(RunDir(run.path).best)
    ranked = (*mistakes(predicted, most=SHOWN), *suspects(predicted, most=SHOWN))
    chosen = sorted({each.index for each in ranked})
    part = store.test.at_side(checkpoint.config.model.img_size).taken(torch.tensor(chosen))
    loader = eval_loader(
        resident(part, device),
        torch.arange(len(chosen)),
        img_size=checkpoint.config.model.img_size,
        normalisation=checkpoint.config.normalised_by,
    )
    targets_N = predicted.predicted_N[chosen]
    maps = heat_maps(checkpoint.model, loader, targets_N, device=device, on_progress=on_progress)
    return dict(zip(chosen, maps, strict=True))


def _store_of(run: RecordedRun) -> Store | None:
    """The dataset, if it is where it was and is still the same one."""
    with suppress(CifarError):
        told = run.told.get("data")
        content = told.get("content_checksum") if isinstance(told, dict) else None
        store = open_trained(run.config.data, at=run.path, content=content, remedy="")
        if store.classes == run.classes:
            return store
    return None


def _score_of(run: RecordedRun, predicted: Predictions | None) -> Score | None:
    if predicted is not None:
        return Score(split="test", correct=int(predicted.correct_N.sum()), images=len(predicted))
    accuracy, images = run.said("test_accuracy"), tested_images(RunDir(run.path))
    if accuracy is not None and images:  # where the dataset is gone
        return Score(split="test", correct=round(accuracy * images), images=images)
    matrix = run.confusion.get("val")
    if matrix:
        correct = sum(row[place] for place, row in enumerate(matrix))
        return Score(split="validation", correct=correct, images=sum(map(sum, matrix)))
    return None


def _samples_of(run: RecordedRun, store: Store | None) -> Samples | None:
    """The first images of the best epoch."""
    if store is None or run.best is None:
        return None
    with suppress(CifarError):
        loaders = make_loaders(run.config, store, device=torch.device("cpu"))
        rows, augmented_NHWC = augmented_samples(loaders, run.config.normalised_by, epoch=run.best.epoch - 1)
        return Samples(
            epoch=run.best.epoch,
            rows=rows.tolist(),
            original_NHWC=store.train.at_side(run.config.model.img_size).images_NHWC[rows],
            augmented_NHWC=augmented_NHWC,
            labels_N=store.train.labels_N[rows],
        )
    return None


def _require_trusted(run: RecordedRun) -> None:
    """Raise CheckpointError where building the model would execute a file that the user does not trust."""
    require_trusted(run.config.model.name, CheckpointError, wanted_by=str(run.path))


def _counted(run: RecordedRun) -> ModelSummary | None:
    with suppress(CifarError, RuntimeError):
        _require_trusted(run)
        return summarize(SummaryConfig(model=run.config.model, batch=run.config.recipe.batch))
    return None


def _memory_of(run: RecordedRun) -> Memory | None:
    processes = run.told.get("processes")
    processes = processes if isinstance(processes, int) and processes > 0 else 1
    if processes > 1 and run.config.strategy == "fsdp":
        return None  # the weights are divided too
    with suppress(CifarError, RuntimeError):
        _require_trusted(run)
        tracer = Tracer(MemoryConfig(model=run.config.model, step=run.config.step_config()))
        batch = math.ceil(run.config.recipe.batch / processes)
        found = {name: largest_batch(tracer, GPUS[name].memory_bytes) for name in TABLE_GPUS}
        return Memory(
            batch=batch,
            devices=processes,
            device_bytes=tracer.peak(batch).device_bytes,
            largest=tuple((name, largest) for name, largest in found.items() if largest is not None),
        )
    return None


def largest_batch(tracer: Tracer, memory_bytes: int) -> int | None:
    """The largest batch that profile-memory's default search would predict, rounded down to two digits.

    Two small traces stand for those of the sizes tried, which would take seconds; None where they can't.
    """
    fixed, slope = tracer.line()
    guess = int((memory_bytes - CONTEXT_BYTES - WORKSPACE_BYTES - fixed) / max(slope, 1.0))
    if tracer.scaled(max(guess, 1)) is None:
        return None

    def runs(batch: int) -> bool:
        trace = tracer.scaled(batch)
        return trace is not None and fits(trace, memory_bytes, RISK)

    batch = largest_that(runs, guess=guess, most=MOST)
    unit = 10 ** max(int(math.log10(batch)) - 1, 0) if batch else 1
    return batch // unit * unit


def _earlier(run: RecordedRun) -> tuple[EarlierRun, ...]:
    """Finished runs beside this one, the newest first, on the same dataset."""
    found = []
    folders = sorted(run.path.resolve().parent.glob("*/summary.json"), key=lambda path: -path.stat().st_mtime)
    for summary in folders[: 4 * EARLIER_RUNS]:
        if summary.parent == run.path.resolve():
            continue
        with suppress(CifarError):
            other = read_run(summary.parent)
            if other.summary is not None and other.config.data.dataset == run.config.data.dataset:
                found.append(
                    EarlierRun(
                        name=other.label,
                        model=other.config.model.label,
                        test_accuracy=other.summary["test_accuracy"],
                        train_seconds=other.summary["train_seconds"],
                        epochs=other.summary["epochs"],
                    )
                )
    return tuple(found[:EARLIER_RUNS])
