"""Checkpoints: from a path to the model that was trained, and what it was trained as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.weights import load_state
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import CheckpointError, CifarError

REMEDY = "pass a run directory or a .ckpt file that `cifar train` wrote"


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Checkpoint:
    """A trained model with the config and the class names it was trained with."""

    path: Path
    model: nn.Module
    config: TrainConfig
    classes: tuple[str, ...]
    synthetic: bool


def describe(config: TrainConfig, *, classes: tuple[str, ...], synthetic: bool) -> dict[str, Any]:
    """What a checkpoint says about itself, as plain values; `load_checkpoint` reads it back."""
    return {"config": config.to_dict(), "classes": list(classes), "synthetic": synthetic}


def trained_config(plain: dict[str, Any]) -> TrainConfig:
    """The config in a checkpoint. Its initial weights are said to be none: those in the checkpoint replace
    them, and a file that training began with need not exist any more.
    """
    return TrainConfig.from_dict(plain | {"model": plain["model"] | {"weights": "none"}})


def checkpoint_path(path: Path) -> Path:
    """A checkpoint file, or the best one of a run directory. Raises CheckpointError when there is none."""
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
    """Read a checkpoint of `cifar train` (or a run directory's best one) without executing anything in it.

    Raises CheckpointError when the file is something else, or broken.
    """
    path = checkpoint_path(path)
    content = read_checkpoint(path)
    try:
        told = content["cifar"]
        config = trained_config(told["config"])
        model = build_untrained(config.model)
        state = {key.removeprefix("model."): value for key, value in content["state_dict"].items()}
        load_state(model, state, origin=str(path))
    except CifarError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} was not written by this version of `cifar train`", remedy=REMEDY) from error
    return Checkpoint(
        path=path,
        model=model,
        config=config,
        classes=tuple(told["classes"]),
        synthetic=bool(told["synthetic"]),
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Unpickle a checkpoint, tensors and plain containers only. Raises CheckpointError for any other file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file that is not its own
        raise CheckpointError(f"{path} is not a checkpoint that can be read safely", remedy=REMEDY) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no checkpoint", remedy=REMEDY)
    return content
