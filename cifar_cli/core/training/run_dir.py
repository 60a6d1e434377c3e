"""The directory of a run and its files."""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from cifar_cli.core.training.config import runs_dir
from cifar_cli.core.training.results import EpochResult
from cifar_cli.errors import CheckpointError, ResourceError


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

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml; keys of an existing one that `config` lacks stay."""
        with suppress(OSError, yaml.YAMLError, TypeError):
            config = yaml.safe_load(self.config.read_text(encoding="utf-8")) | config
        self.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    def write_summary(self, summary: dict[str, Any]) -> None:
        self.summary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

    def append_metrics(self, epoch: EpochResult) -> None:
        """Add a row to metrics.csv, with a header if it is the first."""
        row = asdict(epoch)
        new = not self.metrics.exists()
        with self.metrics.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def keep_metrics(self, epochs: int) -> None:
        """Keep the rows of the first epochs only: later ones, of which there is no checkpoint, are trained again."""
        if self.metrics.exists():
            self.metrics.write_bytes(b"".join(self.metrics.read_bytes().splitlines(keepends=True)[: 1 + epochs]))


def create_run_dir(path: Path | None, *, model: str, now: datetime | None = None) -> RunDir:
    """Create a run directory: `path`, or runs/<date-time>-<model>/ with a number appended where that exists.

    Raises CheckpointError when `path` isn't empty, ResourceError when it can't be created.
    """
    try:
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
            require_free(path)
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
    """Raise CheckpointError when a run directory is not empty."""
    if path.is_dir() and any(path.iterdir()):
        raise CheckpointError(
            f"{path} is not empty", remedy=f"pass another --run-dir, or continue it with --resume {path}"
        )


def open_run_dir(path: Path) -> RunDir:
    """Open a run that is to be continued. Raises CheckpointError where there is nothing to continue."""
    run = RunDir(path)
    if not run.last.is_file():
        raise CheckpointError(
            f"{path} contains no run to resume", remedy="pass a run directory with checkpoints/last.ckpt"
        )
    return run


def _with_checkpoints(path: Path) -> RunDir:
    run = RunDir(path)
    run.checkpoints.mkdir()
    return run
