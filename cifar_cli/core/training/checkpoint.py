"""Checkpoints: saving a run, and loading a trained model."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar_cli import __version__
from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import Store
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.torch_file import BadFileError, load_torch_file, verify
from cifar_cli.core.models.weights import fitting, load_state, save_state
from cifar_cli.core.own_code import require_trusted
from cifar_cli.core.training.checkpoint_schema import Description, Saved, require_types, validated
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.newer import named_if_newer
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.sharded import load_model, load_optimizer, whole
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.write import replacing
from cifar_cli.errors import CheckpointError, CifarError, ModelError, shell_line

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
    content: str | None
    """The content hash of the dataset that it was trained on; None for a checkpoint of an earlier version."""


def describe(config: TrainConfig, store: Store) -> dict[str, Any]:
    """The metadata of a checkpoint, as plain values."""
    return {
        "config": config.to_dict(),
        "classes": list(store.classes),
        "synthetic": store.synthetic,
        "content": store.content,
    }


def save_checkpoint(
    path: Path,
    step: TrainingStep,
    description: dict[str, Any],
    *,
    keep: Path | None = None,
    weights: Path | None = None,
    write: bool = True,
    **more: Any,
) -> None:
    """Write the evaluated weights, and everything that resuming needs. Plain values and tensors only.

    "state_dict" holds the averaged weights where there are some, and "current_model_state" the trained ones. The file
    replaces the old one once it is whole and on the disk.
    keep: where the old file goes. weights: a .safetensors file for the evaluated weights. write: whether this process
    writes the files; those of a run with sharded weights all call this. Raises OSError or RuntimeError.
    """
    described = {"version": __version__, **description}
    content: dict[str, Any] = {"cifar": described, "state_dict": _prefixed(step.evaluated.state_dict())}
    if step.average is not None:
        content["current_model_state"] = _prefixed(step.model.state_dict())
        content["averaging_state"] = {"n_averaged": step.average.n_averaged}
    content |= {"optimizer": _with_plain_rates(step.optimizer.state_dict()), "scaler": step.scaler.state_dict(), **more}
    content = whole(content, keep=write)
    if not write:
        return
    with replacing(path, keep=keep) as part:
        torch.save(content, part)
    if weights is not None:
        save_state(_unprefixed(content["state_dict"]), weights, metadata=_metadata(description))


def _with_plain_rates(state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer, with learning rates as numbers where they are tensors on a device."""
    groups = [group | {"lr": float(group["lr"])} for group in state["param_groups"]]
    return state | {"param_groups": groups}


def _metadata(description: dict[str, Any]) -> dict[str, str]:
    """What another program needs to use the weights."""
    normalised_by = Normalisation(**description["config"]["normalisation"] or {})
    return {
        "model": json.dumps(description["config"]["model"]),
        "classes": json.dumps(description["classes"]),
        "mean": json.dumps(normalised_by.mean),
        "std": json.dumps(normalised_by.std),
        "cifar_version": __version__,
    }


def restore_step(step: TrainingStep, content: dict[str, Any]) -> None:
    """Continue a step from what `save_checkpoint` wrote.

    Raises LookupError, RuntimeError, TypeError or ValueError where it doesn't fit.
    """
    if step.average is None:
        load_model(step.model, _unprefixed(content["state_dict"]))
    else:
        load_model(step.model, _unprefixed(content["current_model_state"]))
        load_model(step.average.module, _unprefixed(content["state_dict"]))
        step.average.restart(int(content["averaging_state"]["n_averaged"]))
    _require_fitting(step.optimizer, content["optimizer"])
    # Which kernels run is this process's choice, not that of the one that saved.
    own = [{name: group[name] for name in KERNELS if name in group} for group in step.optimizer.param_groups]
    load_optimizer(step.optimizer, content["optimizer"])
    for group, kernels in zip(step.optimizer.param_groups, own, strict=True):
        group.update(kernels)
        if "capturable" in group:
            group["capturable"] = False
    if step.config.captured:
        step.make_capturable()
    step.scaler.load_state_dict(content["scaler"])


KERNELS = ("fused", "foreach")
STATE_KEYS = {
    "Adam": [{"step", "exp_avg", "exp_avg_sq"}],
    "AdamW": [{"step", "exp_avg", "exp_avg_sq"}],
    "SGD": [{"momentum_buffer"}],
    "Muon": [{"momentum"}, {"step", "mean", "square"}],
    "MuonSGD": [{"momentum"}],
}
"""What the optimizers keep for a parameter after the first step."""


def _require_fitting(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Raise ValueError where an optimizer's state isn't of its kind: torch would notice in the next step only."""
    own = optimizer.state_dict()
    for mine, theirs in zip(own["param_groups"], saved["param_groups"], strict=True):
        if mine.keys() != theirs.keys() or mine["params"] != theirs["params"]:
            raise ValueError("its optimizer has other parameter groups")
        for name, value in mine.items():
            if name in KERNELS:  # sharded weights have others
                continue
            if type(value) is not type(theirs[name]) and not isinstance(theirs[name], float):
                raise ValueError(f"its optimizer's {name} is no {type(value).__name__}")
    kinds = STATE_KEYS.get(type(optimizer).__name__)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, state in saved["state"].items():
        shape = parameters[number].shape
        if kinds is not None and set(state) not in kinds:
            raise ValueError(f"its optimizer keeps {', '.join(sorted(state))}")
        if any(isinstance(value, Tensor) and value.shape not in (shape, ()) for value in state.values()):
            raise ValueError("its optimizer's state has another shape than the weights")


def trained_config(values: dict[str, Any]) -> TrainConfig:
    """The config in a checkpoint, with `weights` "none": those in the checkpoint replace the initial ones, whose file
    may be gone.
    """
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

    Raises CheckpointError when the file is something else or damaged, WeightsError when its weights don't fit the model
    that it names.
    """
    path = checkpoint_path(path)
    content = read_checkpoint(path)
    with named_if_newer(content.get("cifar"), path):
        saved = validated(Saved, content, origin=path)
        config = config_in(saved.cifar, origin=path)
    state, origin = _unprefixed(saved.state_dict), str(path)
    with suppress(ModelError), torch.device("meta"):  # shapes alone: a crafted config must not claim any memory
        fitting(build_untrained(config.model), state, origin=origin)
    model = build_untrained(config.model)
    load_state(model, state, origin=origin)
    return Checkpoint(
        path=path,
        model=model,
        config=config,
        classes=tuple(saved.cifar.classes),
        synthetic=saved.cifar.synthetic,
        content=saved.cifar.content,
    )


def config_in(description: Description, *, origin: Path) -> TrainConfig:
    """The config of a checkpoint.

    Raises CheckpointError for values that no config of this version has, and for a model in a file that the user does
    not trust.
    """
    try:
        config = trained_config(description.config)
        require_types(config)
    except (CifarError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{origin} was not written by this version of `cifar train`", remedy=REMEDY) from error
    if config.model.classes != len(description.classes):
        raise CheckpointError(
            f"{origin} names {len(description.classes)} classes for a model with {config.model.classes}", remedy=REMEDY
        )
    require_trusted(config.model.name, CheckpointError, wanted_by=str(origin))
    return config


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: tensors and plain containers. Raises CheckpointError for any other file."""
    try:
        content = load_torch_file(path)
    except BadFileError as error:
        raise CheckpointError(f"{path} {error}", remedy=REMEDY) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no checkpoint", remedy=REMEDY)
    return content


def newest_checkpoint(run: RunDir) -> tuple[dict[str, Any], str | None]:
    """The content of the newest checkpoint of a run that can be read, and a remark where it isn't last.ckpt.

    Raises CheckpointError where none can be read.
    """
    failures = []
    for path in run.saved:
        try:
            content = read_checkpoint(path)
        except CheckpointError as error:
            failures.append(error.what)
            continue
        if path == run.last:
            return content, None
        why = "; ".join(failures) or f"{run.last} is missing"
        return content, f"{why}; the run continues from {path.name}, the one before it"
    raise CheckpointError("; ".join(failures), remedy="start a new run")


def require_whole(best: Path, run: RunDir) -> None:
    """Raise CheckpointError where the best weights, which the end of the run needs, are missing or damaged."""
    remedy = f"keep the newest weights in their place: {shell_line('cp', run.last, best)}"
    try:
        verify(best)
    except BadFileError as error:
        raise CheckpointError(f"{best}, with the best weights, {error}", remedy=remedy) from error
    except OSError as error:
        raise CheckpointError(f"the best weights {best} are missing", remedy=remedy) from error


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{_PREFIX}{key}": value for key, value in state.items()}


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(_PREFIX): value for key, value in state.items()}
