"""Signals: what the first does, what the second does, and what SLURM's does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.interrupts import Interrupts
from cifar_cli.core.training.launch import requeued_on_time_limit
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.pictures import Pictures
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import Interrupted
from tests.core.training.stopping import stopping_at

ConfigOf = Callable[..., TrainConfig]
SECOND = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "status"), SECOND)
def test_a_second_signal_leaves_at_once_and_says_what_is_saved(
    config_of: ConfigOf, tmp_path: Path, number: int, status: int
) -> None:
    """The clock of these signals is wound on, for a repeated signal within a second is one that was sent twice."""
    with pytest.raises(Interrupted, match="interrupted before anything was saved in") as caught:
        train(config_of(tmp_path / "run"), seams=stopping_at(2, by=(signal.SIGTERM, signal.SIGINT)))
    assert (caught.value.exit_code, caught.value.remedy) == (130, "start the run again")
    assert not list((tmp_path / "run/checkpoints").iterdir())
    seconds = iter((0.0, 2.0))
    interrupts = Interrupts(clock=lambda: next(seconds))
    with interrupts.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as second:
            os.kill(os.getpid(), number)
    assert second.value.args == (number,)
    assert 128 + number == status


@pytest.mark.slow
def test_the_checkpoint_of_an_epoch_is_written_before_its_pictures(config_of: ConfigOf, tmp_path: Path) -> None:
    """A kill is likely while they are drawn, for that takes long."""
    saved: list[int] = []

    class Watching(Pictures):
        def add(self, *arguments: object, **options: object) -> None:
            saved.append(read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"])

    train(config_of(tmp_path / "run"), seams=Seams(make_pictures=Watching))
    assert saved == [6, 12]


@pytest.mark.slow
def test_after_a_second_signal_the_run_continues_from_its_last_checkpoint(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"interrupted at once; the checkpoint of \d\d:\d\d:\d\d stays in") as caught:
        train(config_of(tmp_path / "run"), seams=stopping_at(9, by=(signal.SIGINT, signal.SIGINT)))
    assert f"cifar train --resume {tmp_path / 'run'}" in str(caught.value)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 6
    assert resume(tmp_path / "run").epochs == 2


def test_a_signal_that_a_closed_terminal_sends_twice_counts_once() -> None:
    interrupts = Interrupts(clock=lambda: 0.0)
    with interrupts.listening():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
    assert interrupts.signal == signal.SIGHUP


@pytest.mark.slow
def test_a_slow_step_says_that_the_signal_was_heard() -> None:
    said: list[str] = []
    heard = threading.Event()

    def note(sentence: str) -> None:
        said.append(sentence)
        heard.set()

    with Interrupts(note).listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard.wait(30)
    assert said == ["SIGTERM was received: the run ends after this step; the same again ends it now"]


def test_checkpoints_within_an_epoch_are_written_when_their_time_has_come(config_of: ConfigOf, tmp_path: Path) -> None:
    """The clock goes on by a second whenever it is read, so that every step takes longer than that."""
    ticks = iter(range(10**9))
    config = replace(config_of(tmp_path / "run", seconds=10**8), checkpoint_seconds=0.5)
    seams = stopping_at(4, by=(signal.SIGINT, signal.SIGINT))
    with pytest.raises(Interrupted, match="interrupted at once; the checkpoint of"):
        train(config, seams=Seams(make_step=seams.make_step, clock=lambda: float(next(ticks))))
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 3
    assert read_checkpoint(tmp_path / "run/checkpoints/previous.ckpt")["global_step"] == 2


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of SLURM, with a command `scontrol` that writes its words into a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return tmp_path / "called"


@pytest.mark.parametrize("requeue", [True, False])
def test_slurm_s_signal_before_the_time_limit_saves_and_requeues(
    config_of: ConfigOf, tmp_path: Path, scontrol: Path, monkeypatch: pytest.MonkeyPatch, requeue: bool
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(Interrupted) as caught, requeued_on_time_limit(requeue):
        train(config_of(tmp_path / "run"), seams=stopping_at(3, by=signal.SIGUSR1))
    assert caught.value.exit_code == 143
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 3
    assert scontrol.is_file() is requeue
    if requeue:
        assert scontrol.read_text() == "requeue 4711\n"
        assert caught.value.remedy == "nothing: job 4711 is in the queue again"
    assert not list((tmp_path / "here").iterdir())
    begun: list[int] = []
    other = replace(config_of(tmp_path / "other", epochs=1), seed=7)
    train(other, Listeners(on_epoch=lambda result: begun.append(result.epoch)))
    assert begun == [1], "a new run in that folder goes on with nothing"


def test_one_process_of_several_requeues_the_job(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    error = Interrupted("interrupted")
    error.before_time_limit = True
    with pytest.raises(Interrupted), requeued_on_time_limit(True):
        raise error
    assert not scontrol.exists()


@pytest.mark.parametrize("requeue", [True, False])
def test_the_signal_before_the_time_limit_is_answered_during_the_start_up(scontrol: Path, requeue: bool) -> None:
    with (
        pytest.raises(Interrupted, match="interrupted outside of the training") as caught,
        requeued_on_time_limit(requeue),
    ):
        raise KeyboardInterrupt(signal.SIGUSR1)  # as `start.py` turns it into one
    assert caught.value.exit_code == 143
    assert scontrol.exists() is requeue
    with pytest.raises(KeyboardInterrupt), requeued_on_time_limit(requeue):
        raise KeyboardInterrupt(signal.SIGINT)


def test_a_cancelled_job_is_not_requeued(config_of: ConfigOf, tmp_path: Path, scontrol: Path) -> None:
    with pytest.raises(Interrupted) as caught, requeued_on_time_limit(True):
        train(config_of(tmp_path / "run"), seams=stopping_at(3, by=signal.SIGTERM))
    assert caught.value.exit_code == 143
    assert not scontrol.exists()


def test_a_requeue_that_fails_is_said(config_of: ConfigOf, tmp_path: Path, scontrol: Path) -> None:
    Path(os.environ["PATH"].split(os.pathsep)[0], "scontrol").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(Interrupted, match="`scontrol requeue 4711` failed") as caught, requeued_on_time_limit(True):
        train(config_of(tmp_path / "run"), seams=stopping_at(3, by=signal.SIGUSR1))
    assert caught.value.remedy is not None
    assert "cifar train --resume" in caught.value.remedy
