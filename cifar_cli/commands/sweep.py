"""`cifar sweep`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cifar_cli import parsers
from cifar_cli.command import Command, command, option_group
from cifar_cli.commands.train import check_settings, train
from cifar_cli.commands.train_settings import PATHS
from cifar_cli.core.own_code import trust
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import CifarError, ConfigError, UsageError
from cifar_cli.options import OutputOptions

if TYPE_CHECKING:
    from cifar_cli.core.workflow.sweep_config import SearchedOption, SweepConfig, SweptOption

TRIALS = 20
# Options of `train` that a sweep sets or replaces.
OWN = ("seed", "seeds", "run_dir", "name", "resume", "print_config", "as_json", "debug")
# Those that no run has in its record, so that a continued one is given them again.
AGAIN = ("loggers", "requeue", "quiet", "verbose")


@option_group("Sweep")
class SweptOptions:
    """What differs between the runs, and what they share."""

    options: Annotated[list[str], Argument(metavar="-- OPTIONS", rich_help_panel="Sweep")] = field(default_factory=list)
    """Pass these options, written after --, to every cifar train."""
    grid: Annotated[list[str], Option(metavar="KEY=A,B", show_default="none")] = field(default_factory=list)
    """Train with each of these values of an option of cifar train, such as lr=0.1,0.2 or recipe.weight_decay=0,5e-4.
    Repeat the option for all combinations.
    """
    search: Annotated[list[str], Option(metavar="KEY=LOW:HIGH", show_default="none")] = field(default_factory=list)
    """Let Optuna choose the values of an option from this range, such as lr=1e-3:1e-1:log, or from a list, such as
    policy=course,crop-flip, by the validation accuracy. Repeat the option for several.
    """
    trials: Annotated[int | None, Option(show_default=str(TRIALS))] = None
    """Train so many combinations that --search chooses."""
    seeds: Annotated[tuple[int, ...] | None, Option(metavar="0,1,2", parser=parsers.seeds)] = None
    """Train each combination once with each of these seeds."""
    budget: Annotated[float | None, Option(metavar="HH:MM:SS", parser=parsers.duration)] = None
    """Interrupt the sweep after this time, with everything saved."""
    sweep_dir: Annotated[Path | None, Option(metavar="DIR", show_default="sweep in runs, or in CIFAR_RUNS_DIR")] = None
    """Write the runs and sweep.csv to this directory. Runs that are finished there are not trained again, and
    interrupted ones are continued.
    """

    def config(self) -> SweepConfig:
        """The sweep. Raises UsageError or ConfigError before anything is trained if a run's options are wrong."""
        from cifar_cli.core.training.config import runs_dir
        from cifar_cli.core.workflow.search import require_optuna
        from cifar_cli.core.workflow.sweep_config import SweepConfig

        if self.trials is not None and not self.search:
            raise UsageError("--trials has no effect without --search", remedy="leave it out, or pass --search")
        trains, checks = _command(train), _command(command(examples=())(check_settings))
        config = SweepConfig(
            folder=self.sweep_dir or runs_dir() / "sweep",
            options=tuple(_swept(text, trains.params) for text in self.grid),
            searched=tuple(_searched(text, trains) for text in self.search),
            trials=TRIALS if self.trials is None else self.trials,
            seeds=self.seeds or (),
            words=tuple(self.options),
            budget_seconds=self.budget,
        )
        if config.searched:
            require_optuna()
        devices = []
        for run in config.runs():
            context = trains.make_context("train", list(run.words))
            given = [name for name in OWN if _is_given(context, name) and not (name == "seed" and self.seeds)]
            if given:
                raise UsageError(
                    f"--{given[0].replace('_', '-')} can't be passed to every run of a sweep",
                    remedy="leave it out; --seeds and --sweep-dir belong before the --",
                )
            with checks.make_context("train", list(run.words)) as checked:
                checks.invoke(checked)
            trust(str(context.params["model"]))
            devices.append(context.params["devices"])
        return replace(
            config,
            resumed_words=tuple(_again(context)),
            device=context.params["device"],
            devices="auto" if "auto" in devices else max(devices),
        )


def _command(function: Callable[..., None]) -> Any:
    """Typer's command object of a function."""
    application = typer.Typer()
    application.command("train", cls=Command)(function)
    return typer.main.get_command(application)


def _again(context: typer.Context) -> Iterator[str]:
    """The words of those options of a command line that a continued run is given again."""
    for param in context.command.params:
        if param.name in AGAIN and _is_given(context, param.name):
            for value in context.params[param.name] if param.multiple else [None]:
                yield from (param.opts[0], *([] if value is None else [value]))


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _swept(text: str, params: list[Any]) -> SweptOption:
    """Read "recipe.weight_decay=0,5e-4". Raises UsageError or ConfigError."""
    from cifar_cli.core.workflow.sweep_config import SweptOption

    key, equals, values = text.partition("=")
    listed = tuple(value.strip() for value in values.split(","))
    if not equals or not all(listed):
        raise UsageError(f"--grid {text} is not KEY=A,B", remedy="pass for example --grid lr=0.1,0.2")
    if len(set(listed)) < len(listed):
        raise UsageError(f"--grid {text} names a value twice", remedy="pass each value once")
    return SweptOption(key=key.strip(), flag=_swept_param("--grid", key, params).opts[0], values=listed)


def _searched(text: str, trains: Any) -> SearchedOption:
    """Read "lr=1e-3:1e-1:log" or "policy=course,crop-flip". Raises UsageError or ConfigError."""
    from cifar_cli.core.workflow.sweep_config import SearchedOption

    key, _, values = text.partition("=")
    param = _swept_param("--search", key, trains.params)
    found: dict[str, Any] = {"key": key.strip(), "flag": param.opts[0]}
    listed = tuple(value.strip() for value in values.split(","))
    if len(listed) > 1 and all(listed):
        return SearchedOption(**found, choices=tuple(dict.fromkeys(listed)))
    low, _, rest = values.partition(":")
    high, _, how = rest.partition(":")
    try:
        ends = float(low), float(high)
        fits = ends[0] < ends[1] and math.isfinite(ends[1] - ends[0]) and how in ("", "log")
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(
            f"--search {text} is neither KEY=LOW:HIGH nor a list", remedy="pass for example --search lr=1e-3:1e-1:log"
        )
    if how == "log" and ends[0] <= 0:
        raise UsageError(f"--search {text} has no logarithm at {low}", remedy="begin above 0, or leave :log out")
    whole = not _takes(trains, param.opts[0], str(int(ends[0]) + 0.25))
    if whole and not (ends[0].is_integer() and ends[1].is_integer()):
        raise UsageError(f"--search {text}: {param.opts[0]} takes whole numbers", remedy="begin and end with such")
    return SearchedOption(
        **found,
        low=ends[0],
        high=ends[1],
        log=how == "log",
        whole=whole,
    )


def _takes(trains: Any, flag: str, text: str) -> bool:
    """Whether an option of `cifar train` takes a value."""
    try:
        trains.make_context("train", [flag, text])
    except (CifarError, typer.BadParameter):
        return False
    return True


def _swept_param(option: str, key: str, params: list[Any]) -> Any:
    """The option of `cifar train` that a key names. Raises ConfigError for one that a sweep can't set."""
    path = key.strip()
    by_path = {setting: name for name, setting in PATHS.items() if "." in setting}
    name = by_path.get(path, path.rsplit(".", 1)[-1])
    known = {spelling: param for param in params for spelling in _spellings(param)}
    param = known.get(name) or known.get(name.replace("_", "-"))
    if param is not None and param.name in OWN:
        ours = "--seeds" if param.name in ("seed", "seeds") else "--sweep-dir" if "dir" in param.name else None
        raise ConfigError(
            f"{option} {key}: a sweep sets {param.opts[0]} of its runs itself",
            remedy=f"pass {ours} to the sweep" if ours else "leave it out",
        )
    if param is not None and param.is_flag:
        raise ConfigError(
            f"{option} {key}: {param.opts[0]} is a switch and takes no values",
            remedy="pass it to all runs, after --",
        )
    if param is None:
        known = {spelling: each for spelling, each in known.items() if each.name not in OWN and not each.is_flag}
        raise ConfigError(f"{option} {key}: cifar train has no option of that name", remedy=nearest(name, known))
    return param


def _spellings(param: Any) -> list[str]:
    return [param.name, *(spelling.lstrip("-") for spelling in param.opts)]


@command(
    examples=(
        (
            "Compare three learning rates, each with two seeds.",
            "cifar sweep --grid lr=0.05,0.1,0.2 --seeds 0,1 -- --recipe fast",
        ),
        (
            "Train all combinations of two options, for at most an hour.",
            "cifar sweep --grid lr=1e-3,2e-3 --grid batch=64,128 --budget 1h",
        ),
        (
            "Search for a good rate with Optuna.",
            "cifar sweep --search lr=1e-4:1e-2:log --trials 10 -- --max-epochs 3",
        ),
    )
)
def sweep(swept: SweptOptions, output: OutputOptions) -> None:
    """Train with all combinations of some options' values, and compare the results in one table."""
    config = swept.config()
    from cifar_cli.core.workflow.sweep import sweep as run
    from cifar_cli.render import console, sweep_tables

    report = run(config, console.note)
    if output.as_json:
        console.print_json(report.to_dict())
    else:
        console.show(sweep_tables.sweep(report))
        console.note(f"the table as CSV: {report.table}")
    if failed := report.count("failed"):
        first = next(result for result in report.results if result.status == "failed")
        raise ConfigError(
            f"{failed} of {len(report.results)} runs failed; the first: {first.error}",
            remedy=f"read {first.run_dir}.log; the same command trains them again",
        )
