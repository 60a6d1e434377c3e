"""`cifar train --model airbench`: early stopping, and a run that is continued and evaluated without training images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

UTILIZATION = ("achieved_flops_per_second", "matmul_flops_per_second")  # of a finished run, not measured again
RATES = ("--lr", "1e-9", "--bias-lr", "1e-9", "--head-lr", "1e-9")  # so that no epoch is better by much


@pytest.mark.slow
def test_patience_ends_a_run_that_can_be_continued_and_evaluated(cifar: Any, data_dir: Path, tmp_path: Path) -> None:
    words = ("--dataset", "shapes", "--data-dir", data_dir, "--batch", 100, "--run-dir", tmp_path / "run", "--json")
    plain = ("--precision", 32, "--memory-format", "channels-last", "--device", "cpu", "--width", 0.25)
    result = cifar(
        "train", "-m", "airbench", "--recipe", "fast", "--max-epochs", 9, "--patience", 1, *RATES, *words, *plain
    )
    assert result.exit_code == 0, result.output
    ended = json.loads(result.stdout)
    assert ended["stopped_by"] == "patience"
    assert ended["epochs"] < 9
    again = cifar("train", "--resume", tmp_path / "run", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == ended | dict.fromkeys(UTILIZATION)
    assert f"is already finished ({ended['epochs']} epochs, stopped by --patience); nothing was changed" in again.stderr
    assert f"`cifar train --resume {tmp_path / 'run'} --patience 2` trains it longer" in again.stderr
    more = cifar("train", "--resume", tmp_path / "run", "--max-epochs", 12)
    assert "hasn't risen for the 1 epochs of --patience, so more epochs or time alone change nothing" in more.stderr
    assert "try: pass a larger --patience too, or --patience 0" in more.stderr
    scored = cifar("evaluate", tmp_path / "run", "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["accuracy"] == ended["test_accuracy"]
    longer = cifar(
        "train", "--resume", tmp_path / "run", "--patience", 0, "--max-epochs", ended["epochs"] + 1, "--json"
    )
    assert json.loads(longer.stdout)["epochs"] == ended["epochs"] + 1
