"""The runs in a folder: what each trained, what it reached, and in which state it is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from cifar_cli.core.limits import MAX_CONFIG_BYTES
from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain
from cifar_cli.core.plain_yaml import parse_yaml
from cifar_cli.core.regular import read_json, read_text
from cifar_cli.core.suggest import nearest
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.run_lock import LOCK
from cifar_cli.errors import CheckpointError, ResourceError

RunState = Literal["finished", "running", "unfinished"]
BESIDE_SEEDS = {"seeds.json", "report.html"}
DEPTH = 2  # runs/NAME, and runs/NAME/seed-0 of a run with several seeds


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """One run directory."""

    path: Path
    name: str
    """Its path within the folder of the runs."""
    model: str
    dataset: str
    recipe: str
    state: RunState
    test_accuracy: float | None
    """A fraction; None for a run that is not finished, as is the time."""
    train_seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunList(NotebookView):
    """The runs of a folder, the oldest first."""

    folder: Path
    runs: tuple[RunSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(asdict(self))
        return values


def list_runs(folder: Path) -> RunList:
    """Every run in a folder; none where it does not exist. Other folders are passed over."""
    found = filter(None, (read_run(path, folder) for path in _folders(folder, DEPTH)))
    return RunList(folder=folder, runs=tuple(sorted(found, key=lambda run: (_began(run), run.name))))


def read_run(path: Path, folder: Path) -> RunSummary | None:
    """The run in a directory; None where there is none. folder: of the runs."""
    directory = RunDir(path)
    try:
        config = parse_yaml(read_text(directory.config, MAX_CONFIG_BYTES))["config"]
        model, dataset, recipe = config["model"]["name"], config["data"]["dataset"], config["recipe"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    test_accuracy, train_seconds = _result(directory.summary)
    finished = test_accuracy is not None
    return RunSummary(
        path=path,
        name=path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path),
        model=str(model),
        dataset=str(dataset),
        recipe=str(recipe),
        state="running" if _is_locked(path) else "finished" if finished else "unfinished",
        test_accuracy=test_accuracy,
        train_seconds=train_seconds,
    )


def _result(summary: Path) -> tuple[float | None, float | None]:
    """Test accuracy and seconds of a finished run; None for what the file doesn't say."""
    try:
        read = read_json(summary)
    except (OSError, ValueError):
        return None, None
    values = read if isinstance(read, dict) else {}
    first, second = (
        float(value) if isinstance(value := values.get(name), (int, float)) else None
        for name in ("test_accuracy", "train_seconds")
    )
    return first, second


def runs_to_remove(names: Iterable[str], folder: Path) -> tuple[RunSummary, ...]:
    """The runs of these names or paths. Raises CheckpointError for what is no run, or a run that is being trained."""
    found = (_run_to_remove(name, folder) for name in names)
    return tuple({run.path.resolve(): run for run in found}.values())


def _run_to_remove(name: str, folder: Path) -> RunSummary:
    path = next((each for each in (folder / name, Path(name)) if each.is_dir()), None)
    if path is None:
        known = [run.name for run in list_runs(folder).runs]
        raise CheckpointError(f"there is no run {name} in {folder}", remedy=nearest(name, known) if known else None)
    inside = sorted(each.path for each in list_runs(path).runs)
    run = None if path.is_symlink() else _several_seeds(path, folder) if inside else read_run(path, folder)
    if run is None:
        if inside:
            raise CheckpointError(
                f"{path} holds {'a run' if len(inside) == 1 else f'{len(inside)} runs'} and stays",
                remedy=f"name the runs themselves, such as {inside[0]}",
            )
        raise CheckpointError(
            f"{path} is no run of `cifar train` and stays",
            remedy="list the runs with `cifar runs`, or remove it by hand",
        )
    if run.state == "running":
        raise CheckpointError(f"{path} is being trained and stays", remedy="wait until it ends, or interrupt it")
    return run


def _several_seeds(path: Path, folder: Path) -> RunSummary | None:
    """A folder that holds nothing but the runs of several seeds and what is written beside them, as one run."""
    try:
        inside = sorted(path.iterdir())
    except OSError:
        return None
    found = [run for each in inside if not each.is_symlink() and (run := read_run(each, folder)) is not None]
    others = {each.name for each in inside} - {run.path.name for run in found}
    seeds = all(re.fullmatch(r"seed-\d+", run.path.name) for run in found)
    if not found or not seeds or not others <= BESIDE_SEEDS or path.resolve() == folder.resolve():
        return None
    first = replace(found[0], state="running") if any(run.state == "running" for run in found) else found[0]
    return replace(first, path=path, name=path.name)


def remove_run(run: RunSummary) -> None:
    """Remove the directory of a run. Raises ResourceError where that isn't possible."""
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        raise ResourceError(
            f"{error.filename or run.path} can't be removed ({error.strerror})", remedy="check who owns it"
        ) from error


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    paths: list[Path] = []
    with suppress(OSError):
        paths = sorted(folder.iterdir())
    for path in paths:
        with suppress(OSError):  # one that the user may not look at hides no other
            if path.is_dir() and not path.is_symlink():
                yield path
                if depth > 1 and not RunDir(path).config.is_file():
                    yield from _folders(path, depth - 1)


def _began(run: RunSummary) -> float:
    with suppress(OSError):
        return RunDir(run.path).config.stat().st_mtime
    return 0.0


def _is_locked(path: Path) -> bool:
    """Whether a process trains in the directory."""
    if not (path / LOCK).is_file():
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False
