"""Values of options that Optuna chooses, each from the validation accuracy that those before it reached."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cifar_cli.core.regular import read_json
from cifar_cli.core.workflow.sweep_config import SearchedOption, SweepConfig, SweptRun
from cifar_cli.core.write import write_whole
from cifar_cli.errors import CheckpointError, ResourceError

if TYPE_CHECKING:
    import optuna

TRIALS = "trials.json"


def require_optuna(find: Callable[[str], ModuleSpec | None] = find_spec) -> None:
    """Raise ResourceError where the package is missing."""
    if find("optuna") is None:
        raise ResourceError("--search needs the package optuna", remedy='pip install "cifar-cli[search]"')


@dataclass(frozen=True, eq=False, slots=True)
class Trial:
    """One choice of values, and the runs that score it: one for each seed."""

    runs: tuple[SweptRun, ...]
    asked: optuna.trial.Trial


class Search:
    """The trials of a sweep, in its folder. Threads take turns with it.

    Source: Optuna's TPE sampler (Akiba et al. 2019, arXiv 1907.10902). Trials that run at the same time count as bad
    ones until they are told, so that they differ.
    """

    def __init__(self, config: SweepConfig, score_of: Callable[[SweptRun], float | None]) -> None:
        """score_of: the validation accuracy of a finished run. Raises CheckpointError for a damaged record."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config, self._score_of = config, score_of
        self._space = {option.key: _distribution(option) for option in config.searched}
        self._settings = self._recorded()
        # Of a search that goes on, the seed is another: the first trials of a seed are the same.
        sampler = optuna.samplers.TPESampler(seed=len(self._settings), constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._again: list[dict[str, str]] = []
        for settings in self._settings:
            score = self._score(config.with_settings(settings))
            if score is None:
                self._again.append(settings)
            else:
                values = {option.key: option.value(settings[option.key]) for option in config.searched}
                told = optuna.trial.create_trial(params=values, distributions=self._space, value=score)
                self._study.add_trial(told)
        self.done = len(self._settings) - len(self._again)
        """Trials that were finished before."""

    @property
    def runs(self) -> tuple[SweptRun, ...]:
        """Of all trials so far."""
        return tuple(run for settings in self._settings for run in self._config.with_settings(settings))

    def next(self) -> Trial:
        """The next trial: one that was not finished, or new values."""
        settings = self._again.pop(0) if self._again else None
        if settings is not None:
            self._study.enqueue_trial({each.key: each.value(settings[each.key]) for each in self._config.searched})
        asked = self._study.ask(self._space)
        if settings is None:
            settings = {option.key: option.text(asked.params[option.key]) for option in self._config.searched}
            self._settings.append(settings)
            write_whole(self._config.folder / TRIALS, (json.dumps({"trials": self._settings}) + "\n").encode())
        return Trial(runs=self._config.with_settings(settings), asked=asked)

    def tell(self, trial: Trial) -> None:
        """Let later trials learn from the scores of one; one without scores counts as failed."""
        import optuna

        score = self._score(trial.runs)
        failed = optuna.trial.TrialState.FAIL
        self._study.tell(trial.asked, score, state=failed if score is None else None)

    def _score(self, runs: Sequence[SweptRun]) -> float | None:
        scores = [score for run in runs if (score := self._score_of(run)) is not None]
        return fmean(scores) if len(scores) == len(runs) else None

    def _recorded(self) -> list[dict[str, str]]:
        path, keys = self._config.folder / TRIALS, self._space.keys()
        if not path.is_file():
            return []
        try:
            trials = read_json(path)["trials"]
            fits = all(
                each.keys() == keys and all(option.holds(each[option.key]) for option in self._config.searched)
                for each in trials
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged", remedy="pass another --sweep-dir") from error
        if not fits:
            raise CheckpointError(
                f"{path.parent} holds a search of other values",
                remedy="repeat that one's --search, or pass another --sweep-dir",
            )
        return list(trials)


def _distribution(option: SearchedOption) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if option.choices:
        return CategoricalDistribution(option.choices)
    if option.whole:
        return IntDistribution(int(option.low), int(option.high), log=option.log)
    return FloatDistribution(option.low, option.high, log=option.log)
