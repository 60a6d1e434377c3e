"""Config and results of a sweep: the same training with different values of some options."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping
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
class SearchedOption:
    """An option of `cifar train` whose value is searched in a range, or among some."""

    key: str
    flag: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Values are drawn by their logarithm."""
    whole: bool = False
    """The option takes whole numbers only."""
    choices: tuple[str, ...] = ()
    """In place of the range."""

    def text(self, value: float | str) -> str:
        """A value as it is passed to `cifar train`: four digits suffice, and leave a readable name."""
        if isinstance(value, str) or self.whole:
            return str(value)
        rounded = f"{value:.4g}"
        return rounded if self.low <= float(rounded) <= self.high else repr(value)

    def value(self, text: str) -> float | int | str:
        """The value that a text stands for. Raises ValueError for one that is no number."""
        return text if self.choices else int(text) if self.whole else float(text)

    def holds(self, text: str) -> bool:
        """Whether a text is a value of this option. Raises ValueError for one that is no number."""
        return text in self.choices if self.choices else self.low <= float(text) <= self.high

    @property
    def ends(self) -> tuple[str, ...]:
        """The values between which all others lie, or all of them."""
        if self.choices:
            return self.choices
        return tuple(dict.fromkeys(self.text(int(end) if self.whole else end) for end in (self.low, self.high)))


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
    searched: tuple[SearchedOption, ...] = ()
    """In place of `options`: those whose values Optuna chooses."""
    trials: int = 1
    """How many combinations it chooses."""
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
        if not (self.options or self.searched or self.seeds):
            raise ConfigError("a sweep needs --grid, --search or --seeds", remedy="pass for example --grid lr=0.05,0.1")
        if self.options and self.searched:
            raise ConfigError(
                "--grid and --search contradict each other",
                remedy="pass the values of --grid to --search: it takes lists too",
            )
        kind = "--search" if self.searched else "--grid"
        keys = [option.flag for option in self.options] + [option.flag for option in self.searched]
        if len(set(keys)) < len(keys):
            raise ConfigError(f"{kind} names an option twice", remedy=f"pass all of its values in one {kind}")
        if not 1 <= self.trials <= MOST_RUNS:
            raise ConfigError(f"--trials {self.trials} is not between 1 and {MOST_RUNS:,}", remedy="pass --trials 20")
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise ConfigError("--budget must be longer than 0 seconds", remedy="pass for example --budget 01:00:00")
        ends = math.prod(len(option.ends) for option in self.searched)  # which are checked before the first run
        count = max(len(self.seeds), 1) * math.prod(len(option.values) for option in self.options) * ends
        if count > MOST_RUNS:
            raise ConfigError(f"the grid has {count:,} runs, more than {MOST_RUNS:,}", remedy="pass fewer values")

    def runs(self) -> tuple[SweptRun, ...]:
        """All combinations; the last option changes first, and the seed before it. Of a search, those of the ends."""
        keys = [*(option.key for option in self.options), *(option.key for option in self.searched)]
        values = [*(option.values for option in self.options), *(option.ends for option in self.searched)]
        combinations = (dict(zip(keys, chosen, strict=True)) for chosen in itertools.product(*values))
        return tuple(run for settings in combinations for run in self.with_settings(settings))

    def with_settings(self, settings: Mapping[str, str]) -> tuple[SweptRun, ...]:
        """The runs with these values of the options, by key: one for each seed."""
        flags = {option.key: option.flag for option in self.options}
        flags |= {option.key: option.flag for option in self.searched}
        words = [word for key, value in settings.items() for word in (flags[key], value)]
        runs = []
        for seed in self.seeds or (None,):
            of_seed = dict(settings) if seed is None else {**settings, "seed": str(seed)}
            more = [] if seed is None else ["--seed", str(seed)]
            runs.append(SweptRun(name=_folder_name(of_seed), settings=of_seed, words=(*self.words, *words, *more)))
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
