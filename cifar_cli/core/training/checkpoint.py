"""Checkpoints: saving a run, and loading a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.weights import load_state
from cifar_cli.core.own_code import require_trusted
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.sharded import load_model, load_optimizer, whole
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import CheckpointError, CifarError

REMEDY = "pass a run directory or a .ckpt file that `cifar train` wrote"
_PREFIX = "model."  # of every weight's key


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Checkpoint:
    """A trained model with the config and the class names it was trained with."""

    path: Path
    model: nn.Module
    config: TrainConfig
    classes: tuple[str, ...]
    synthetic: bool


def describe(config: TrainConfig, *, classes: tuple[str, ...], synthetic: bool) -> dict[str, Any]:
    """The metadata of a checkpoint, as plain values."""
    return {"config": config.to_dict(), "classes": list(classes), "synthetic": synthetic}


def save_checkpoint(
    path: Path, step: TrainingStep, description: dict[str, Any], *, write: bool = True, **more: Any
) -> None:
    """Write the evaluated weights, and everything that resuming needs. Plain values and tensors only.

    "state_dict" holds the averaged weights where there are some, and "current_model_state" the trained ones. The file
    is replaced atomically: if the disk is full, the previous one stays. write: whether this process writes the file;
    those of a run with sharded weights all call this. Raises OSError or RuntimeError.
    """
    content: dict[str, Any] = {"cifar": description, "state_dict": _prefixed(step.evaluated.state_dict())}
    if step.average is not None:
        content["current_model_state"] = _prefixed(step.model.state_dict())
        content["averaging_state"] = {"n_averaged": step.average.n_averaged}
    content |= {"optimizer": step.optimizer.state_dict(), "scaler": step.scaler.state_dict(), **more}
    content = whole(content)
    if not write:
        return
    part = path.with_name(f"{path.name}.part")
    try:
        torch.save(content, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def restore_step(step: TrainingStep, content: dict[str, Any]) -> None:
    """Continue a step from what `save_checkpoint` wrote. Raises KeyError or RuntimeError where it doesn't fit."""
    if step.average is None:
        load_model(step.model, _unprefixed(content["state_dict"]))
    else:
        load_model(step.model, _unprefixed(content["current_model_state"]))
        load_model(step.average.module, _unprefixed(content["state_dict"]))
        step.average.n_averaged.copy_(content["averaging_state"]["n_averaged"])
    load_optimizer(step.optimizer, content["optimizer"])
    step.scaler.load_state_dict(content["scaler"])


def trained_config(values: dict[str, Any]) -> TrainConfig:
    """The config in a checkpoint, with `weights` "none": those in the checkpoint replace the initial ones, whose file
    may be gone. Raises CheckpointError for a model in a file that the user does not trust.
    """
    require_trusted(str(values["model"]["name"]), CheckpointError, wanted_by="this checkpoint")
    return TrainConfig.from_dict(values | {"model": values["model"] | {"weights": "none"}})


def checkpoint_path(path: Path) -> Path:
    """A checkpoint file, or the best one of a run directory. Raises CheckpointError where there is none."""
    if path.is_dir():
        best = RunDir(path).best
        if not best.is_file():
            raise CheckpointError(f"{path} holds no checkpoints/best.ckpt", remedy=REMEDY)
        return best
    if not path.is_file():
        raise CheckpointError(
            f"there is no run or checkpoint at {path}", remedy=f"run `cifar train` first, or {REMEDY}"
        )
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of `cifar train`, or the best one of a run directory, without executing anything in it.

    Raises CheckpointError when the file is something else or damaged.
    """
    path = checkpoint_path(path)
    content = read_checkpoint(path)
    try:
        description = content["cifar"]
        config = trained_config(description["config"])
        model = build_untrained(config.model)
        load_state(model, _unprefixed(content["state_dict"]), origin=str(path))
    except CifarError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} was not written by this version of `cifar train`", remedy=REMEDY) from error
    return Checkpoint(
        path=path,
        model=model,
        config=config,
        classes=tuple(description["classes"]),
        synthetic=bool(description["synthetic"]),
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Unpickle a checkpoint, tensors and plain containers only. Raises CheckpointError for any other file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a file that it didn't write
        raise CheckpointError(f"{path} is not a checkpoint that can be read safely", remedy=REMEDY) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no checkpoint", remedy=REMEDY)
    return content


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{_PREFIX}{key}": value for key, value in state.items()}


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(_PREFIX): value for key, value in state.items()}
