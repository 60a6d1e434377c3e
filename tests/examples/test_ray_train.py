"""The example that trains with Ray Train, on two real workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cifar_cli.core.training.checkpoint import read_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray isn't installed: pip install -e '.[ray]'"),
]
SCRIPT = Path(__file__).parents[2] / "examples" / "ray_train.py"
RUN_SECONDS = 240


def finished(words: list[object], **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_workers_train_the_weights_that_cifar_train_gets_on_two_devices(data_dir: Path, tmp_path: Path) -> None:
    shared = ["--dataset", "shapes", "--data-dir", data_dir, "--max-epochs", 2, "--batch", 67, "--precision", "32"]
    ray = ["--workers", 2, "--run-dir", tmp_path / "ray", "--storage", tmp_path / "storage"]
    by_ray = json.loads(finished([SCRIPT, *shared, *ray], RAY_USAGE_STATS_ENABLED="0"))
    layout = by_ray["memory_format"]
    local = ["--devices", 2, "--device", "cpu", "--run-dir", tmp_path / "local", "--memory-format", layout]
    alone = json.loads(finished(["-m", "cifar_cli", "train", *shared, *local, "--json"]))

    assert (by_ray["processes"], by_ray["epochs"]) == (2, 2)
    same = ("processes", "epochs", "val_accuracy", "test_accuracy", "dataset", "precision", "stopped_by")
    assert {name: by_ray[name] for name in same} == {name: alone[name] for name in same}
    assert by_ray["test_loss"] == pytest.approx(alone["test_loss"], abs=1e-4)
    ours, theirs = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("ray", "local"))
    assert ours["global_step"] == theirs["global_step"] == 12
    for name, value in theirs["state_dict"].items():
        assert ours["state_dict"][name].sub(value).abs().max() <= 1e-4, name
