"""The metrics of a run for other programs too, through Lightning's loggers: CSV files, Weights & Biases, MLflow."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from cifar_cli.core.choices import require_choice
from cifar_cli.errors import ResourceError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow"]
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
"""The module that a logger needs; the extra has the logger's name."""
FOLDERS = ("csv", "wandb", "mlruns")
"""What the loggers write in a run directory."""


def require_loggers(
    names: Sequence[str], *, find: Callable[[str], ModuleSpec | None] = find_spec
) -> tuple[LoggerName, ...]:
    """The loggers of these names. Raises ConfigError for an unknown one, ResourceError where a package is missing."""
    for name in names:
        require_choice("--logger", name, LoggerName)
        spec = find(PACKAGES[name]) if name in PACKAGES else None
        # wandb and mlflow write folders of these names, which Python takes for packages without an origin.
        if name in PACKAGES and (spec is None or spec.origin is None):
            raise ResourceError(
                f"--logger {name} needs the package {PACKAGES[name]}", remedy=f'pip install "cifar-cli[{name}]"'
            )
    return cast(tuple[LoggerName, ...], tuple(dict.fromkeys(names)))


class Loggers:
    """The chosen loggers of one run.

    One that fails is left out from then on, and `note` is told: the training goes on without it. TensorBoard's files
    are written by the run itself, with pictures, so that name adds nothing.
    """

    def __init__(self, names: Sequence[str], folder: Path, note: Callable[[str], None]) -> None:
        """Begin to log into `folder`. Raises what `require_loggers` raises."""
        self._note = note
        self._loggers: dict[str, Logger] = {}
        for name in require_loggers(names):
            if name != "tensorboard":
                self._try(name, partial(self._begin, name, folder))

    def _begin(self, name: str, folder: Path) -> None:
        with redirect_stderr(io.StringIO()):  # their greetings
            logger = _MAKERS[name](folder)
            _ = logger.experiment  # type: ignore[attr-defined]
        self._loggers[name] = logger

    def add_config(self, config: Mapping[str, Any]) -> None:
        """The settings of the run, nested."""
        self._all(lambda logger: logger.log_hyperparams(dict(config)))

    def add_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Values after a step, counted from 1."""
        self._all(lambda logger: logger.log_metrics(dict(metrics), step=step))

    def flush(self) -> None:
        """Write what was added, so that it is seen during training."""
        self._all(lambda logger: logger.save())

    def close(self, *, finished: bool) -> None:
        self._all(lambda logger: logger.finalize("success" if finished else "failed"))
        if "wandb" in self._loggers:  # Lightning leaves it open for more runs of the same process
            self._try("wandb", lambda: self._loggers["wandb"].experiment.finish(exit_code=0 if finished else 1))  # type: ignore[attr-defined]
        self._loggers.clear()

    def _all(self, do: Callable[[Logger], object]) -> None:
        for name, logger in list(self._loggers.items()):
            self._try(name, partial(do, logger))

    def _try(self, name: str, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # of a foreign package: whatever it is, it must not end the training
            self._loggers.pop(name, None)
            reason = (str(error).splitlines() or [""])[0]
            self._note(f"--logger {name} failed and is left out: {type(error).__name__}: {reason}")


def _csv(folder: Path) -> Logger:
    """RUN/csv/version_N: a run that is continued begins another file."""
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(folder, name="csv")


def _wandb(folder: Path) -> Logger:
    """RUN/wandb, offline unless WANDB_MODE says otherwise. `wandb sync` uploads it."""
    mode = os.environ.setdefault("WANDB_MODE", "offline")
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    quiet = wandb.Settings(console="off", silent=True)
    return WandbLogger(
        project=os.environ.get("WANDB_PROJECT", "cifar"),
        name=folder.name,
        save_dir=folder,
        offline=mode == "offline",
        settings=quiet,
    )


def _mlflow(folder: Path) -> Logger:
    """RUN/mlruns, unless MLFLOW_TRACKING_URI names a server."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from lightning.pytorch.loggers import MLFlowLogger

    uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder.resolve() / "mlruns").as_uri()
    return MLFlowLogger(experiment_name="cifar", run_name=folder.name, tracking_uri=uri)


_MAKERS: dict[str, Callable[[Path], Logger]] = {"csv": _csv, "wandb": _wandb, "mlflow": _mlflow}
