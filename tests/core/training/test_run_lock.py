"""One process at a time trains in a run directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.run_dir import create_run_dir, require_free
from cifar_cli.core.training.run_lock import locked
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import CheckpointError, Interrupted
from tests.core.training.stopping import stopping_at

ConfigOf = Callable[..., TrainConfig]

HOLDER = """
import sys, time
from pathlib import Path
from cifar_cli.core.training.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def test_a_run_in_use_is_refused_with_who_uses_it_until_that_process_is_killed(run: Path) -> None:
    used = rf"run is in use by process \d+ on {os.uname().nodename} since 2\d\d\d-.*\d\d:\d\d:\d\d"
    with held_by_another_process(run) as holder:
        with pytest.raises(CheckpointError, match=used) as caught:
            resume(ResumeConfig(run_dir=run, max_epochs=3))
        assert str(holder.pid) in str(caught.value)
        with pytest.raises(CheckpointError, match=used):
            require_free(run)
    assert resume(run).epochs == 2


def test_a_new_run_in_a_directory_where_another_one_begins_is_refused(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path), pytest.raises(CheckpointError, match="is in use by process"):
        create_run_dir(tmp_path, model="null")


def test_the_same_process_may_enter_again_and_leaves_the_lock_free(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path):
        pass
    with held_by_another_process(tmp_path):
        pass


@pytest.mark.slow
def test_a_directory_of_which_nothing_was_saved_is_begun_again(config_of: ConfigOf, tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", epochs=1)
    run = create_run_dir(config.run_dir, model="null")
    run.write_config({"half": "a run"})
    (run.path / "events.out.tfevents.1.host").write_bytes(b"")
    (run.checkpoints / "last.ckpt.part").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="nothing was saved of the run in") as caught:
        resume(run.path)
    assert caught.value.remedy == f"start it again, with --run-dir {run.path}"
    assert train(config).epochs == 1
    assert "half" not in run.config.read_text()
    assert not (run.path / "events.out.tfevents.1.host").exists()


@pytest.mark.slow
def test_run_dir_and_resume_agree_on_whether_there_is_something_to_continue(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "a run [1]", epochs=2)
    with pytest.raises(Interrupted):
        train(config, seams=stopping_at(3))
    with pytest.raises(CheckpointError, match="holds a run already") as caught:
        train(config)
    assert f"cifar train --resume '{tmp_path}/a run [1]'" in str(caught.value)
    assert resume(tmp_path / "a run [1]").epochs == 2
