"""What a run directory says about its run, without its model and its dataset."""

from __future__ import annotations

import csv
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_cli.core.limits import MAX_CONFIG_BYTES
from cifar_cli.core.plain_yaml import parse_yaml
from cifar_cli.core.regular import read_json, read_text
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import CheckpointError, CifarError

REMEDY = "pass a run directory that `cifar train` wrote"
Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """A row of metrics.csv. Accuracies are fractions; train figures are of augmented images during training."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    elapsed_seconds: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRun:
    """A run, finished or not, as its directory describes it."""

    path: Path
    config: TrainConfig
    classes: tuple[str, ...]
    synthetic: bool
    told: dict[str, Any]
    """The rest of config.yaml: versions, device, data, the command that repeats the run."""
    epochs: tuple[Epoch, ...]
    rates: tuple[tuple[int, float], ...]
    """Learning rates by step, wherever they changed."""
    confusion: dict[str, Matrix]
    """Of the best epoch, by split: true class by row, predicted class by column."""
    summary: dict[str, Any] | None
    """What the run printed with --json; None for a run that is not finished."""

    @property
    def label(self) -> str:
        return self.path.resolve().name

    @property
    def best(self) -> Epoch | None:
        """The epoch with the highest validation accuracy, the first of equal ones; None before the first."""
        return max(self.epochs, key=lambda epoch: epoch.val_accuracy, default=None)

    def said(self, key: str) -> Any:
        """A value of the summary; None where there is none."""
        return None if self.summary is None else self.summary.get(key)


def read_run(path: Path) -> RecordedRun:
    """Read a run directory. Raises CheckpointError where it holds none, or one that can't be read."""
    run = RunDir(path)
    if not path.is_dir():
        raise CheckpointError(f"there is no run at {path}", remedy=f"run `cifar train` first, or {REMEDY}")
    if not run.config.is_file():
        raise CheckpointError(f"{path} holds no config.yaml, so it is not a run directory", remedy=_runs_in(path))
    try:
        told = parse_yaml(read_text(run.config, MAX_CONFIG_BYTES))
        values = told.pop("config")
        # The weights that the run started from may be gone.
        config = TrainConfig.from_dict(values | {"model": values["model"] | {"weights": "none"}})
        classes = tuple(told.pop("classes"))
        epochs, rates = _epochs(run.metrics), _rates(run.rates)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error, CifarError) as error:
        raise CheckpointError(f"{path} was not written by this version of `cifar train`", remedy=REMEDY) from error
    return RecordedRun(
        path=path,
        config=config,
        classes=classes,
        synthetic=bool(told.pop("synthetic", False)),
        told=told,
        epochs=epochs,
        rates=rates,
        confusion=_confusion(run.confusion),
        summary=_summary(run.summary),
    )


def _runs_in(path: Path) -> str:
    """The remedy where runs are in the folder: their names."""
    runs = sorted(each.parent for each in path.glob("*/config.yaml"))
    return f"pass one of its runs: {', '.join(map(str, runs[-5:]))}" if runs else REMEDY


def _epochs(path: Path) -> tuple[Epoch, ...]:
    if not path.exists():
        return ()
    names = Epoch.__dataclass_fields__
    lines = read_text(path).splitlines()
    rows = [{name: float(row[name]) for name in names} for row in csv.DictReader(lines)]
    return tuple(Epoch(**row | {"epoch": int(row["epoch"])}) for row in rows)  # type: ignore[arg-type]


def _rates(path: Path) -> tuple[tuple[int, float], ...]:
    if not path.exists():
        return ()
    rows = csv.DictReader(read_text(path).splitlines())
    return tuple((int(row["step"]), float(row["learning_rate"])) for row in rows)


def _confusion(path: Path) -> dict[str, Matrix]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = read_json(path)
        return {split: tuple(tuple(map(int, row)) for row in told[split]) for split in ("train", "val")}
    return {}


def _summary(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        told = read_json(path)
        if isinstance(told, dict) and isinstance(told.get("test_accuracy"), float):
            return told if math.isfinite(told["test_accuracy"]) else None
    return None
