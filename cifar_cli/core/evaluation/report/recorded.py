"""What a run directory says about its run, without its model and its dataset."""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError

from cifar_cli.core.evaluation.runs import no_run
from cifar_cli.core.limits import MAX_CONFIG_BYTES
from cifar_cli.core.plain_yaml import parse_yaml
from cifar_cli.core.regular import read_json, read_text
from cifar_cli.core.training.checkpoint_schema import require_types
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.newer import named_if_newer
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import CheckpointError, CifarError

REMEDY = "pass a run directory that `cifar train` wrote"
Matrix = tuple[tuple[int, ...], ...]

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Amount = Annotated[float, Field(ge=0, le=1e12)]
_Names = Annotated[tuple[str, ...], Field(min_length=1)]
_Counts = tuple[tuple[Annotated[int, Field(ge=0, le=1 << 40)], ...], ...]


class _Row(BaseModel):
    """A row of metrics.csv. Losses may be NaN or infinite: those of a run that diverged are."""

    epoch: Annotated[int, Field(ge=1, le=1 << 40)]
    train_loss: float
    train_accuracy: _Fraction
    val_loss: float
    val_accuracy: _Fraction
    learning_rate: _Amount
    elapsed_seconds: _Amount
    images_per_second: _Amount


class _Rate(BaseModel):
    step: Annotated[int, Field(ge=1, le=1 << 40)]
    learning_rate: _Amount


class _Confusion(BaseModel):
    train: _Counts
    val: _Counts


class _Summary(BaseModel):
    """What a report takes from summary.json."""

    test_accuracy: _Fraction
    test_loss: FiniteFloat
    train_seconds: _Amount
    epochs: Annotated[int, Field(ge=1, le=1 << 40)]
    test_accuracy_flip_averaged: _Fraction | None = None
    train_accuracy_plain: _Fraction | None = None
    images_per_second: _Amount | None = None
    time: dict[str, _Amount] | None = None
    stopped_by: str | None = None


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
        raise no_run(path, f"{path} holds no config.yaml, so it is not a run directory", remedy=REMEDY)
    told: Any = None
    try:
        told = parse_yaml(read_text(run.config, MAX_CONFIG_BYTES))
        with named_if_newer(told, path):
            config, classes = _described(told, path)
        epochs, rates = _epochs(run.metrics), _rates(run.rates)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} holds a damaged record ({_reason(error)})", remedy=REMEDY) from error
    return RecordedRun(
        path=path,
        config=config,
        classes=classes,
        synthetic=told.get("synthetic") is True,
        told={name: value for name, value in told.items() if name not in ("config", "classes", "synthetic")},
        epochs=epochs,
        rates=rates,
        confusion=_confusion(run.confusion, classes=len(classes)),
        summary=_summary(run.summary),
    )


def _described(told: Any, path: Path) -> tuple[TrainConfig, tuple[str, ...]]:
    """The config and the classes of a config.yaml. Raises CheckpointError for what this version doesn't know."""
    try:
        values, classes = told["config"], told["classes"]
        # The weights that the run started from may be gone.
        config = TrainConfig.from_dict(values | {"model": values["model"] | {"weights": "none"}})
        require_types(config)
        return config, TypeAdapter(_Names).validate_python(tuple(classes))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, CifarError) as error:
        raise CheckpointError(f"{path} was not written by this version of `cifar train`", remedy=REMEDY) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    return str(getattr(error, "strerror", None) or error)


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file. Raises OSError and ValueError."""
    if not path.exists():
        return []
    try:
        return list(csv.DictReader(read_text(path).splitlines()))
    except csv.Error as error:
        raise ValueError(f"{path.name}: {error}") from error


def _epochs(path: Path) -> tuple[Epoch, ...]:
    return tuple(Epoch(**_Row.model_validate(row).model_dump()) for row in _rows(path))


def _rates(path: Path) -> tuple[tuple[int, float], ...]:
    rates = [_Rate.model_validate(row) for row in _rows(path)]
    return tuple((rate.step, rate.learning_rate) for rate in rates)


def _confusion(path: Path, *, classes: int) -> dict[str, Matrix]:
    """The matrices, or none where the file is absent or is not what a run writes."""
    with suppress(OSError, ValueError, RecursionError):
        told = _Confusion.model_validate(read_json(path))
        matrices = {"train": told.train, "val": told.val}
        if all(len(rows) == classes == len(row) for rows in matrices.values() for row in rows):
            return matrices
    return {}


def _summary(path: Path) -> dict[str, Any] | None:
    """What a finished run has written; None where it has not, or not this."""
    with suppress(OSError, ValueError, RecursionError):
        told: dict[str, Any] = read_json(path)
        _Summary.model_validate(told)
        return told
    return None
