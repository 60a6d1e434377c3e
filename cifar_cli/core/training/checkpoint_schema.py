"""What a checkpoint must hold: types and ranges, checked before any of it is used."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, InstanceOf, NonNegativeInt, TypeAdapter, ValidationError
from torch import Tensor

from cifar_cli.core.models.torch_file import BadFileError, require_plain_tensor
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.errors import CheckpointError

MAX_STEPS_PER_EPOCH = 10_000_000

Seconds = Annotated[FiniteFloat, Field(ge=0)]
State = dict[str, InstanceOf[Tensor]]
# Short, because a pickle may hold one list a million times at the cost of one.
Value = str | int | float | bool | None | Annotated[list[str | int | float], Field(max_length=100)]
Fields = Annotated[dict[str, Value], Field(max_length=100)]


class _Part(BaseModel):
    """Keys beside the named ones are allowed: other versions may write more."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class Description(_Part):
    config: Annotated[dict[str, Value | Fields], Field(max_length=100)]
    classes: Annotated[list[str], Field(min_length=1)]
    synthetic: bool
    content: str | None = None


class Saved(_Part):
    """A trained model."""

    cifar: Description
    state_dict: State


class _Loader(_Part):
    epoch: NonNegativeInt
    next_batch: NonNegativeInt


class _Deadline(_Part):
    elapsed_seconds: Seconds
    used_seconds: Seconds = 0.0
    planned_steps: NonNegativeInt = 0
    seconds_per_image: Annotated[FiniteFloat, Field(gt=0)] | None = None
    validation_seconds: Seconds = 0.0
    logging_seconds: Seconds = 0.0


class _Pace(_Part):
    images_per_second: Seconds


class _Record(_Part):
    val_accuracies: list[float]


class _Scores(_Part):
    batches: Annotated[list[tuple[float, float, NonNegativeInt]], Field(max_length=MAX_STEPS_PER_EPOCH)]
    matrix: list[list[NonNegativeInt]]


class _Loop(_Part):
    epoch: NonNegativeInt
    stopped_by: Literal["epochs", "time"]
    loader: _Loader
    deadline: _Deadline
    pace: _Pace
    record: _Record
    scores: _Scores | None = None


class _Optimizer(_Part):
    state: dict[NonNegativeInt, Annotated[dict[str, InstanceOf[Tensor] | float | int], Field(max_length=10)]]
    param_groups: list[dict[str, Any]]


class _Averaging(_Part):
    n_averaged: InstanceOf[Tensor]


class SavedRun(Saved):
    """A run that can be continued."""

    global_step: NonNegativeInt
    loop: _Loop
    optimizer: _Optimizer
    scaler: dict[str, float | int]
    current_model_state: State | None = None
    averaging_state: _Averaging | None = None


_Schema = TypeVar("_Schema", bound=Saved)


def validated(schema: type[_Schema], content: dict[str, Any], *, origin: Path) -> _Schema:
    """The content of a checkpoint as `schema`. Raises CheckpointError for the first value that it doesn't allow."""
    try:
        saved = schema.model_validate(content)
        for name, tensor in _tensors(saved):
            require_plain_tensor(name, tensor)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{origin} was not written by `cifar train`: {where}: {first['msg'].lower()}",
            remedy="pass a run directory or a .ckpt file that `cifar train` wrote",
        ) from error
    except BadFileError as error:
        raise CheckpointError(f"{origin} {error}", remedy="start a new run") from error
    return saved


def require_types(config: TrainConfig) -> None:
    """Raise ValueError (pydantic's) where a field of a config has another type than declared."""
    given = asdict(config)
    _require_whole(given, asdict(TypeAdapter(TrainConfig).validate_python(given)))


def _require_whole(given: dict[str, Any], read: dict[str, Any]) -> None:
    """Raise ValueError for a whole number given as a fraction: pydantic takes 32.0 for 32, and torch doesn't."""
    for name, value in read.items():
        if isinstance(value, dict):
            _require_whole(given[name], value)
        elif type(value) is int and type(given[name]) is not int:
            raise ValueError(f"{name} is {given[name]!r}")


def _tensors(saved: Saved) -> list[tuple[str, Tensor]]:
    found = list(saved.state_dict.items())
    if isinstance(saved, SavedRun):
        found += (saved.current_model_state or {}).items()
        found += [(name, value) for each in saved.optimizer.state.values() for name, value in each.items()
                  if isinstance(value, Tensor)]  # fmt: skip
    return found
