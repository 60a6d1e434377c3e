"""What reaches the terminal: --quiet, --verbose, narrow terminals, no colour, a locale without UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cifar


@pytest.fixture
def small(data_dir: Path, tmp_path: Path) -> list[object]:
    return [
        "--dataset",
        "shapes",
        "--data-dir",
        data_dir,
        "--max-epochs",
        1,
        "--precision",
        "32",
        "--memory-format",
        "contiguous",
        "--no-report",
        "--run-dir",
        tmp_path / "run",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["-q", "train"], ["train", "--quiet"]])
def test_quiet_prints_the_result_only(cifar: Cifar, small: list[object], words: list[str]) -> None:
    result = cifar(*words, *small)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert "test accuracy" in result.stdout


@pytest.mark.slow
def test_the_next_commands_stand_on_lines_of_their_own(cifar: Cifar, small: list[object], tmp_path: Path) -> None:
    lines = cifar("train", *small).stderr.splitlines()
    at = lines.index("next:")
    assert lines[at + 1 :] == [f"  cifar evaluate {tmp_path / 'run'}", f"  tensorboard --logdir {tmp_path}"]


@pytest.mark.parametrize("words", [["-v", "evaluate"], ["evaluate", "--verbose"]])
def test_verbose_prints_the_cause_of_an_error_and_quiet_keeps_the_error(
    cifar: Cifar, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    plain = cifar("train", "--quiet", "--config", tmp_path / "config.yaml")
    assert "is not a YAML file" in plain.stderr
    assert "caused by" not in plain.stderr
    verbose = cifar(*(word.replace("evaluate", "train") for word in words), "--config", tmp_path / "config.yaml")
    assert "note: caused by ValueError" in verbose.stderr


@pytest.mark.parametrize("width", [60, 80])
def test_without_colour_and_utf_8_no_line_is_too_wide_and_nothing_fails(width: int) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "PYTHONUTF8")}
    env |= {"NO_COLOR": "1", "LC_ALL": "C", "COLUMNS": str(width), "PYTHONCOERCECLOCALE": "0"}
    run = [sys.executable, "-X", "utf8=0", "-m", "cifar_cli", "runs", "--help"]
    done = subprocess.run(run, capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout
    assert max(map(len, done.stdout.decode("ascii").splitlines())) <= width
