"""A real Ctrl-C to a real process."""

from __future__ import annotations

import json
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
