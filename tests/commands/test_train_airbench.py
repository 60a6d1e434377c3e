"""`cifar train --model airbench`: early stopping, and a run that is continued and evaluated without training images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
    assert json.loads(again.stdout)["test_accuracy"] == ended["test_accuracy"]
    scored = cifar("evaluate", tmp_path / "run", "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["accuracy"] == ended["test_accuracy"]
