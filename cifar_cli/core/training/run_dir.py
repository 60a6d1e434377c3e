"""The directory of a run and its files."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cifar_cli.core.limits import MAX_CONFIG_BYTES, MAX_RUN_FILE_BYTES
from cifar_cli.core.plain_yaml import parse_yaml
from cifar_cli.core.regular import read_json, read_regular, read_text
from cifar_cli.core.training.config import TrainConfig, runs_dir
from cifar_cli.core.training.loggers import FOLDERS
from cifar_cli.core.training.results import EpochResult, TrainResult
from cifar_cli.core.training.run_lock import LOCK, locked
from cifar_cli.core.write import write_whole
from cifar_cli.errors import CheckpointError, ResourceError, shell_line

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_CHARACTERS = 10_000  # of metrics.csv


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths inside a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def rates(self) -> Path:
        """Learning rates by step, wherever they changed."""
        return self.path / "learning_rate.csv"

    @property
    def confusion(self) -> Path:
        """Confusion matrices of train and validation in the best epoch."""
        return self.path / "confusion.json"

    @property
    def predictions(self) -> Path:
        """Logits of the test images by the best weights."""
        return self.path / "predictions.safetensors"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The one before `last`, in case that is damaged."""
        return self.checkpoints / "previous.ckpt"

    @property
    def best_weights(self) -> Path:
        """The weights of `best`, for other programs."""
        return self.checkpoints / "model.safetensors"

    @property
    def saved(self) -> tuple[Path, ...]:
        """The checkpoints from which the run can be continued, the newest first."""
        return tuple(path for path in (self.last, self.previous, self.best) if path.is_file())

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml; keys of an existing one that `config` lacks stay."""
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        with suppress(OSError, ValueError, RecursionError):  # what can't be read, or written again, is replaced
            known = parse_yaml(read_regular(self.config, MAX_CONFIG_BYTES).decode())
            if isinstance(known, dict):
                text = yaml.safe_dump(known | config, sort_keys=False, allow_unicode=True)
        write_whole(self.config, text.encode())

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_whole(self.summary, (json.dumps(summary, indent=2) + "\n").encode())

    def forget_result(self) -> None:
        """Remove the result of a run that goes on: until it is tested again, it is not finished."""
        for path in (self.summary, self.predictions):
            path.unlink(missing_ok=True)

    def read_result(self, config: TrainConfig) -> TrainResult | None:
        """The result that summary.json holds; None where there is none. config: the run's."""
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            values = read_json(self.summary)
            return TrainResult.from_dict(values, run_dir=self.path, config=config)
        return None

    def append_metrics(self, epoch: EpochResult) -> None:
        """Add a row to metrics.csv, with a header if it is the first."""
        row = asdict(epoch)
        with self.metrics.open("a+", newline="", encoding="utf-8") as file:
            file.seek(0)
            header = self._header(file.readline(MAX_HEADER_CHARACTERS))
            writer = csv.DictWriter(file, fieldnames=header or list(row), extrasaction="ignore")
            if header is None:
                writer.writeheader()
            writer.writerow(row)

    def _header(self, line: str) -> list[str] | None:
        """The columns of metrics.csv, which of an earlier version may be fewer. Raises OSError for another file's."""
        header = next(csv.reader([line]), None) if line else None
        if header is not None and "epoch" not in header:
            raise OSError(errno.EINVAL, "it does not hold the metrics of a run", str(self.metrics))
        return header

    def append_rates(self, rates: Sequence[tuple[int, float]]) -> None:
        """Add rows to learning_rate.csv: a step, counted from 1, and its learning rate."""
        new = not self.rates.exists()
        with self.rates.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(("step", "learning_rate"))
            writer.writerows(rates)

    def keep_rates(self, *, before: int) -> None:
        """Keep the learning rates of steps before this one only."""
        if self.rates.exists():
            header, *rows = read_text(self.rates).splitlines()
            numbered = ((row.partition(",")[0], row) for row in rows)
            kept = [row for step, row in numbered if step.isdecimal() and int(step) < before]
            write_whole(self.rates, "".join(f"{line}\n" for line in (header, *kept)).encode())

    def write_predictions(self, logits_NK: Tensor) -> None:
        """Write predictions.safetensors: float32 [N, K], in the order of the test images."""
        from safetensors.torch import save

        write_whole(self.predictions, save({"test_logits": logits_NK}))

    def write_confusion(self, confusion: dict[str, Any]) -> None:
        write_whole(self.confusion, (json.dumps(confusion) + "\n").encode())

    def keep_metrics(self, epochs: int) -> None:
        """Keep the rows of the first epochs only: later ones, of which there is no checkpoint, are trained again."""
        if self.metrics.exists():
            rows = read_regular(self.metrics, MAX_RUN_FILE_BYTES).splitlines(keepends=True)
            write_whole(self.metrics, b"".join(rows[: 1 + epochs]))


def create_run_dir(path: Path | None, *, model: str, now: datetime | None = None) -> RunDir:
    """Create a run directory: `path`, or runs/<date-time>-<model>/ with a number appended where that exists.

    A run at `path` of which nothing was saved is removed. Raises CheckpointError when `path` holds anything else,
    ResourceError when it can't be created.
    """
    try:
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
            require_free(path)
            with locked(path):
                require_free(path)  # once more: another process may have begun in the meantime
                _remove_start(RunDir(path))
                return _with_checkpoints(path)
        stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
        root = runs_dir()
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            candidate = root / (f"{stamp}-{model}" if number == 1 else f"{stamp}-{model}-{number}")
            try:
                candidate.mkdir()  # fails when another process just took the name
            except FileExistsError:
                continue
            return _with_checkpoints(candidate)
    except OSError as error:
        raise ResourceError(
            f"the run directory {path or runs_dir()} can't be created ({error.strerror or error})",
            remedy="pass --run-dir for a folder you may write to",
        ) from error
    raise ResourceError(f"{runs_dir()} already has 1,000 runs with this time stamp", remedy="pass --run-dir")


def require_free(path: Path) -> None:
    """Raise CheckpointError unless a new run may begin in `path`: it is absent, empty, or nothing was saved there."""
    run = RunDir(path)
    if (path / LOCK).is_file():
        with locked(path):
            pass
    if run.saved:
        raise CheckpointError(
            f"{path} holds a run already",
            remedy=f"continue it with `{shell_line('cifar train --resume', path)}`, or pass another --run-dir",
        )
    if path.is_dir() and any(name not in _STARTED and not name.startswith(_EVENTS) for name in _names(run)):
        raise CheckpointError(f"{path} is not empty, and holds no run", remedy="pass another --run-dir")


def open_run_dir(path: Path) -> RunDir:
    """Open a run that is to be continued. Raises CheckpointError where there is nothing to continue."""
    run = RunDir(path)
    if run.saved:
        return run
    if run.checkpoints.is_dir():
        raise CheckpointError(
            f"nothing was saved of the run in {path}", remedy=f"start it again, with {shell_line('--run-dir', path)}"
        )
    raise CheckpointError(f"{path} contains no run to resume", remedy="pass a run directory with checkpoints/last.ckpt")


# What a run writes before its first checkpoint.
_STARTED = {
    "config.yaml", "metrics.csv", "learning_rate.csv", "confusion.json", "profile", "checkpoints", LOCK, *FOLDERS
}  # fmt: skip
_EVENTS = "events.out.tfevents."


def _names(run: RunDir) -> list[str]:
    """The names in a run directory and in its checkpoints, but for files that were being written."""
    paths = [*run.path.iterdir(), *(run.checkpoints.iterdir() if run.checkpoints.is_dir() else ())]
    return [path.name for path in paths if path.suffix != ".part"]


def _remove_start(run: RunDir) -> None:
    """Remove what a run wrote of which nothing was saved."""
    for path in run.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _with_checkpoints(path: Path) -> RunDir:
    run = RunDir(path)
    run.checkpoints.mkdir()
    return run
