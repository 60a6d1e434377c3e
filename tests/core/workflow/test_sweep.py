"""Sweeps: which runs there are, what is trained again, and what an interruption leaves."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cifar_cli.core.workflow.sweep import slots, sweep
from cifar_cli.core.workflow.sweep_config import SweepConfig, SweptOption
from cifar_cli.core.write import write_whole
from cifar_cli.errors import CheckpointError, ConfigError, Interrupted, ResourceError

SCORES = {
    "val_accuracy": 0.8, "test_accuracy": 0.7, "test_accuracy_flip_averaged": 0.75, "epochs": 3, "train_seconds": 9.0,
}  # fmt: skip
RATES = SweptOption(key="lr", flag="--lr", values=("0.1", "0.2"))
DECAYS = SweptOption(key="recipe.weight_decay", flag="--weight-decay", values=("0", "5e-4"))


class Trainings:
    """In place of `cifar train`: notes every start, and does what `outcomes` says, in turn; then it finishes."""

    def __init__(self, *outcomes: str) -> None:
        self.outcomes = list(outcomes)
        self.started: list[tuple[list[str], str | None]] = []
        self.signals: list[int] = []
        self.signalled = threading.Event()

    def __call__(self, words, gpu, log):  # type: ignore[no-untyped-def]
        self.started.append((list(words), gpu))
        self.run_dir, self.log = Path(words[words.index("--run-dir") + 1] if "--run-dir" in words else words[1]), log
        self.outcome = self.outcomes.pop(0) if self.outcomes else "finish"
        (self.run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        return self

    def send_signal(self, sig: int) -> None:
        self.signals.append(sig)
        self.signalled.set()

    def wait(self, timeout: float | None = None) -> int:
        if self.outcome == "crash":
            self.log.write("Traceback (most recent call last):\nRuntimeError: out of luck\n")
            return 1
        if self.outcome == "fail":
            self.log.write("starting\nerror: it diverged\n  try: a lower rate\n")
            return 1
        (self.run_dir / "checkpoints" / "last.ckpt").touch()
        if self.outcome == "interrupt":
            # Ctrl-C reaches the main thread, which then signals this process.
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert self.signalled.wait(30)
            return 130
        if self.outcome == "too long" and not self.signals:
            raise subprocess.TimeoutExpired("train", timeout or 0.0)
        if self.outcome == "too long":
            return 130
        write_whole(self.run_dir / "summary.json", json.dumps(SCORES).encode())  # the sweep reads it at any moment
        return 0


@pytest.fixture
def config(tmp_path: Path) -> SweepConfig:
    return SweepConfig(folder=tmp_path / "sweep", options=(RATES, DECAYS), words=("--model", "null"))


def run(config: SweepConfig, trainings: Trainings, gpus: tuple[str | None, ...] = (None,), **seams):  # type: ignore[no-untyped-def]
    return sweep(config, launch=trainings, gpus=gpus, **seams)


def test_all_combinations_are_trained_in_order_and_listed_in_the_table(config: SweepConfig) -> None:
    trainings = Trainings()
    report = run(replace(config, seeds=(0, 1)), trainings)
    assert [words[2:8] for words, _ in trainings.started][:3] == [
        ["--lr", "0.1", "--weight-decay", "0", "--seed", "0"],
        ["--lr", "0.1", "--weight-decay", "0", "--seed", "1"],
        ["--lr", "0.1", "--weight-decay", "5e-4", "--seed", "0"],
    ]
    assert all(words[:2] == ["--model", "null"] for words, _ in trainings.started)
    assert report.count("done") == 8
    rows = list(csv.DictReader(report.table.open()))
    assert len(rows) == 8
    assert (rows[2]["lr"], rows[2]["recipe.weight_decay"], rows[2]["seed"]) == ("0.1", "5e-4", "0")
    assert float(rows[2]["test_accuracy"]) == SCORES["test_accuracy"]


def test_a_finished_run_is_not_trained_again(config: SweepConfig) -> None:
    run(config, Trainings())
    again = Trainings()
    assert run(config, again).count("done") == 4
    assert again.started == []
    more = Trainings()
    rates = replace(RATES, values=("0.1", "0.2", "0.4"))
    assert run(replace(config, options=(rates, DECAYS)), more).count("done") == 6
    assert len(more.started) == 2


@pytest.mark.parametrize("content", ["", "no json", "[]", "{}"])
def test_a_run_whose_summary_is_damaged_is_continued(config: SweepConfig, content: str) -> None:
    run(config, Trainings())
    damaged = config.folder / "lr=0.1,weight_decay=5e-4"
    (damaged / "summary.json").write_text(content)
    again = Trainings()
    assert run(config, again).count("done") == 4
    assert [words for words, _ in again.started] == [["--resume", str(damaged)]]


def test_an_interrupted_run_is_continued_and_the_rest_waits(config: SweepConfig) -> None:
    with pytest.raises(Interrupted) as caught:
        run(config, Trainings("finish", "interrupt"))
    assert "repeat the same command" in str(caught.value)
    rows = list(csv.DictReader((config.folder / "sweep.csv").open()))
    assert [row["status"] for row in rows] == ["done", "interrupted", "waiting", "waiting"]
    again = Trainings()
    assert run(config, again).count("done") == 4
    assert again.started[0][0] == ["--resume", str(config.folder / "lr=0.1,weight_decay=5e-4")]
    assert len(again.started) == 3


def test_a_failed_run_names_its_error_and_is_started_anew_beside_what_it_left(config: SweepConfig) -> None:
    report = run(config, Trainings("fail"))
    assert [result.status for result in report.results] == ["failed", "done", "done", "done"]
    assert report.results[0].error == "it diverged"
    again = Trainings("crash")
    assert run(config, again).results[0].error == "RuntimeError: out of luck", "of this attempt, not of the one before"
    assert len(again.started) == 1
    assert "--resume" not in again.started[0][0]
    assert (config.folder / "lr=0.1,weight_decay=0.unfinished-1").is_dir()


def test_the_budget_interrupts_the_current_run_and_starts_no_other(config: SweepConfig) -> None:
    ticks = iter([0.0, 1.0, 2.0, *[3700.0] * 20])
    trainings = Trainings("too long")
    report = run(replace(config, budget_seconds=3600), trainings, clock=lambda: next(ticks))
    assert trainings.signals == [signal.SIGINT]
    assert [result.status for result in report.results] == ["interrupted", "waiting", "waiting", "waiting"]


def test_each_run_has_a_gpu_of_its_own(config: SweepConfig) -> None:
    trainings = Trainings()
    run(config, trainings, gpus=("3",))
    assert [gpu for _, gpu in trainings.started] == ["3"] * 4


def test_another_sweep_in_the_folder_is_refused(config: SweepConfig) -> None:
    run(config, Trainings())
    with pytest.raises(CheckpointError, match="holds a sweep with other options"):
        run(replace(config, words=("--model", "cnn")), Trainings())
    (config.folder / "sweep.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"sweep\.json is damaged"):
        run(config, Trainings())


def test_two_sweeps_at_once_in_a_folder_are_refused(config: SweepConfig) -> None:
    config.folder.mkdir()
    with FileLock(config.folder / ".lock"), pytest.raises(CheckpointError, match="another sweep is at work"):
        run(config, Trainings())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": ()}, "needs --grid, --search or --seeds"),
        ({"options": (RATES, RATES)}, "names an option twice"),
        ({"budget_seconds": 0.0}, "longer than 0 seconds"),
        ({"seeds": tuple(range(5000))}, "20,000 runs"),
    ],
)
def test_a_sweep_that_can_t_be_trained_is_refused(
    config: SweepConfig, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **options)  # type: ignore[arg-type]


def test_runs_whose_names_are_cut_or_changed_have_folders_of_their_own(config: SweepConfig) -> None:
    weights = SweptOption(key="weights", flag="--weights", values=(f"/{'x' * 300}/best.ckpt", "/a b", "/a_b"))
    names = [run.name for run in replace(config, options=(weights,), seeds=(0, 1, 2)).runs()]
    assert len(set(names)) == len(names) == 9
    assert max(map(len, names)) <= 200
    assert all(re.fullmatch(r"[\w.,=+-]+", name) for name in names)
    assert [run.name for run in replace(config, options=(RATES,)).runs()] == ["lr=0.1", "lr=0.2"]


@pytest.mark.parametrize(
    ("device", "devices", "gpus", "expected"),
    [
        ("auto", 1, (None,), (None,)),
        ("auto", 1, ("0", "1", "2"), ("0", "1", "2")),
        ("auto", 2, ("0", "1", "2", "3", "4"), ("0,1", "2,3")),
        ("auto", "auto", ("3", "5"), ("3,5",)),
        ("cpu", 1, ("0", "1"), (None,)),
    ],
)
def test_runs_share_the_gpus_by_their_devices(
    config: SweepConfig, device: Any, devices: Any, gpus: tuple[str | None, ...], expected: tuple[str | None, ...]
) -> None:
    assert slots(replace(config, device=device, devices=devices), gpus) == expected


def test_more_devices_than_there_are_end_a_sweep_before_it_begins(config: SweepConfig) -> None:
    with pytest.raises(ResourceError, match="--devices 4 asks for more GPUs than the 2 of this machine"):
        run(replace(config, devices=4), Trainings(), gpus=("0", "1"))
    assert not config.folder.exists()


def test_a_continued_run_takes_its_loggers_again(config: SweepConfig) -> None:
    with pytest.raises(Interrupted):
        run(config, Trainings("interrupt"))
    again = Trainings()
    run(replace(config, resumed_words=("--logger", "csv")), again)
    first, _ = again.started[0]
    assert first[0] == "--resume"
    assert first[2:] == ["--logger", "csv"]
