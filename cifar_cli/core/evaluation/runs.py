"""Which checkpoint a path means, and whether its run is finished."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cifar_cli.core.training.checkpoint import REMEDY, checkpoint_path
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.runs import DEPTH
from cifar_cli.errors import CheckpointError, shell_line

LISTED = 10  # runs that a message names


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundCheckpoint:
    """A checkpoint file of a run, or one by itself."""

    path: Path
    unfinished: str | None
    """What the run lacks to be finished."""


def checkpoint_of(path: Path) -> FoundCheckpoint:
    """The checkpoint file itself, or the best one of a run, or the last one where there is no best yet.

    Raises CheckpointError where there is none; for a folder of runs the message names them.
    """
    if not path.is_dir():
        return FoundCheckpoint(path=checkpoint_path(path), unfinished=None)
    run = RunDir(path)
    if not run.checkpoints.is_dir():
        raise no_run(path, f"{path} holds no checkpoints", remedy=REMEDY)
    for checkpoint in (run.best, run.last):
        if checkpoint.is_file():
            return FoundCheckpoint(path=checkpoint, unfinished=_unfinished(run, checkpoint))
    raise CheckpointError(
        f"{path} holds no checkpoint yet", remedy="wait for its first epoch, or pass a run that has one"
    )


def lacking(found: FoundCheckpoint, config: TrainConfig) -> str | None:
    """What a reader must know of predictions by a run that is not finished, or that trained one batch."""
    if config.fast_dev_run:
        return f"{found.path} was trained on one batch (--fast-dev-run): its predictions say nothing about the model"
    return found.unfinished


def runs_below(folder: Path, *, depth: int = DEPTH) -> list[Path]:
    """The run directories below a folder, those of several seeds included, by name."""
    found: list[Path] = []
    inside: list[Path] = []
    with suppress(OSError):
        inside = sorted(folder.iterdir())
    for each in inside:
        if RunDir(each).checkpoints.is_dir() or RunDir(each).config.is_file():
            found.append(each)
        elif depth > 1:
            found += runs_below(each, depth=depth - 1)
    return found


def distinct_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """A short name for each run or checkpoint file: the last part of its path, with a number where that occurs before.

    A checkpoint in a run is named after its run.
    """
    names: list[str] = []
    for path in paths:
        in_run = path.is_file() and path.parent.name == "checkpoints"
        name = f"{path.parent.parent.resolve().name}-{path.stem}" if in_run else path.resolve().name
        again = sum(each == name or each.startswith(f"{name}~") for each in names)
        names.append(f"{name}~{again + 1}" if again else name)
    return tuple(names)


def _unfinished(run: RunDir, checkpoint: Path) -> str | None:
    if run.summary.is_file():
        return None
    return f"{run.path} is not finished; these are the weights of {checkpoint.name} as they are now"


def no_run(path: Path, what: str, *, remedy: str) -> CheckpointError:
    """The error for a folder that is no run, which names the runs in it. what, remedy: where it holds none."""
    if not (runs := runs_below(path)):
        return CheckpointError(what, remedy=remedy)
    count = "one run" if len(runs) == 1 else f"{len(runs)} runs"
    newest = f" (the last {LISTED} by name)" if len(runs) > LISTED else ""
    return CheckpointError(
        f"{path} is not a run, but holds {count}",
        remedy=shell_line(f"pass one or more of them{newest}:", *runs[-LISTED:]),
    )
