"""Config and results of a sweep: the same training with different values of some options."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.notebook import NotebookView
from cifar_cli.core.plain import plain
from cifar_cli.errors import ConfigError

MOST_RUNS = 10_000
MOST_CHARACTERS = 200  # of a folder's name
RunStatus = Literal["done", "interrupted", "failed", "waiting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweptOption:
    """An option of `cifar train` and the values it takes."""

    key: str
    """As it was asked for, such as recipe.weight_decay."""
    flag: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweptRun:
    """One run of a sweep."""

    name: str
    """Of its folder below the sweep's."""
    settings: dict[str, str]
    """The value of each swept option, by key, and the seed."""
    words: tuple[str, ...]
    """The options of `cifar train`, without --run-dir."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Runs to train, all combinations of the options' values. Raises ConfigError where there is nothing to train."""

    folder: Path
    """Where the runs and the table are. Runs that are there already are not trained again."""
    options: tuple[SweptOption, ...]
    seeds: tuple[int, ...] = ()
    """Train each combination once with each of these; empty for the default seed."""
    words: tuple[str, ...] = ()
    """Options of `cifar train` that all runs share."""
    resumed_words: tuple[str, ...] = ()
    """Those of them that a run which is continued takes again, such as --logger."""
    device: DeviceChoice = "auto"
    """Theirs."""
    devices: int | Literal["auto"] = 1
    """Theirs; the largest of several."""
    budget_seconds: float | None = None
    """After so long, the current runs are interrupted, with everything saved, and no further one begins."""

    def __post_init__(self) -> None:
        if not self.options and not self.seeds:
            raise ConfigError("a sweep needs --grid or --seeds", remedy="pass for example --grid lr=0.05,0.1")
        keys = [option.flag for option in self.options]
        if len(set(keys)) < len(keys):
            raise ConfigError("--grid names an option twice", remedy="pass all of its values in one --grid")
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise ConfigError("--budget must be longer than 0 seconds", remedy="pass for example --budget 01:00:00")
        count = max(len(self.seeds), 1) * math.prod(len(option.values) for option in self.options)
        if count > MOST_RUNS:
            raise ConfigError(f"the grid has {count:,} runs, more than {MOST_RUNS:,}", remedy="pass fewer values")

    def runs(self) -> tuple[SweptRun, ...]:
        """All combinations; the last option changes first, and the seed before it."""
        runs = []
        for values in itertools.product(*(option.values for option in self.options)):
            for seed in self.seeds or (None,):
                settings = {option.key: value for option, value in zip(self.options, values, strict=True)}
                words = [
                    word for option, value in zip(self.options, values, strict=True) for word in (option.flag, value)
                ]
                if seed is not None:
                    settings["seed"] = str(seed)
                    words += ["--seed", str(seed)]
                runs.append(SweptRun(name=_folder_name(settings), settings=settings, words=(*self.words, *words)))
        return tuple(runs)


def _folder_name(settings: dict[str, str]) -> str:
    """A name that no other settings have: where characters are lost, their hash stands for them."""
    whole = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in settings.items())
    name = re.sub(r"[^\w.,=+-]", "_", whole)
    if name == whole and len(name) <= MOST_CHARACTERS:
        return name
    return f"{name[: MOST_CHARACTERS - 9]}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweptResult:
    """What became of a run. Accuracies are fractions, None where the run isn't done."""

    settings: dict[str, str]
    status: RunStatus
    run_dir: Path
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    test_accuracy_flip_averaged: float | None = None
    epochs: int | None = None
    train_seconds: float | None = None
    error: str | None = None
    """What a failed run wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport(NotebookView):
    """All runs of a sweep in its order."""

    folder: Path
    table: Path
    """The same as CSV."""
    results: tuple[SweptResult, ...]

    def count(self, status: RunStatus) -> int:
        return sum(result.status == status for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """The documented keys of `--json`."""
        values: dict[str, Any] = plain(asdict(self))
        return values
