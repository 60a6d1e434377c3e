"""A real Ctrl-C to a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_ctrl_c_exits_130_and_the_run_can_be_resumed(data_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    cifar = [sys.executable, "-m", "cifar_cli", "train"]
    words = ["--dataset", "shapes", "--data-dir", str(data_dir), "--run-dir", str(run_dir), "--max-time", "00:00:30"]
    process = subprocess.Popen(
        [*cifar, *words, "--max-epochs", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:  # the second epoch has begun, so the checkpoint of the first one exists
        if line.startswith("epoch   2"):
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "interrupted in epoch" in stderr
    assert f"cifar train --resume {run_dir}" in stderr
    assert "Traceback" not in stderr
    done = subprocess.run([*cifar, "--resume", str(run_dir), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["stopped_by"] == "time"


@pytest.mark.slow
def test_a_killed_worker_process_is_one_sentence(data_dir: Path, tmp_path: Path) -> None:
    words = ["--dataset", "shapes", "--data-dir", str(data_dir), "--run-dir", str(tmp_path / "run")]
    words += ["--pipeline", "albumentations", "--workers", "1", "--max-epochs", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cifar_cli", "train", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch   2"):
            break
    while not (children := Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        assert process.poll() is None
    os.kill(int(children[0]), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, ""), stderr
    assert stderr.count("error: a process that augments images ended, perhaps because memory ran out") == 1
    assert f"continue with `cifar train --resume {tmp_path / 'run'}`" in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_a_signal_to_every_process_of_a_run_saves_although_workers_make_its_batches(
    data_dir: Path, tmp_path: Path
) -> None:
    words = ["--dataset", "shapes", "--data-dir", str(data_dir), "--run-dir", str(tmp_path / "run")]
    words += ["--pipeline", "albumentations", "--workers", "1", "--max-epochs", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cifar_cli", "train", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch   2"):
            break
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout`, `scancel` and systemd do
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (143, ""), stderr
    assert "interrupted in epoch" in stderr
    assert f"continue with `cifar train --resume {tmp_path / 'run'}`" in stderr
