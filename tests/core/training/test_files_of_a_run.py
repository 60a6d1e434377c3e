"""Files of a run directory that anybody may have made: read without waiting, and within limits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cifar_cli.core.evaluation.report.recorded import read_run
from cifar_cli.core.limits import MAX_RUN_FILE_BYTES
from cifar_cli.core.training.runs import list_runs
from cifar_cli.errors import CheckpointError
from tests.conftest import Cifar


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _deep(file: Path) -> None:
    file.write_text("[" * 200_000)


def _huge(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(MAX_RUN_FILE_BYTES + 1)


def _endless(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize("replaced", [_pipe, _deep, _huge, _endless])
def test_no_file_of_a_run_makes_a_reader_wait_or_fail_without_words(
    replaced: Callable[[Path], None], trained_run: Path, tmp_path: Path
) -> None:
    names = [file.name for file in trained_run.iterdir() if file.is_file()]
    assert {"config.yaml", "metrics.csv", "learning_rate.csv", "summary.json", "confusion.json"} <= set(names)
    for name in names:
        run = tmp_path / name / "run"
        shutil.copytree(trained_run, run)
        (run / name).unlink()
        replaced(run / name)
        listed = list_runs(run.parent).runs
        assert len(listed) == (name != "config.yaml")
        with suppress(CheckpointError):  # a summary or a matrix is left out, anything else is refused
            assert read_run(run).summary is None or name != "summary.json"


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [_pipe, _deep, _folder])
def test_a_run_with_any_file_replaced_is_continued_or_refused_in_a_sentence(
    replaced: Callable[[Path], None], trained_run: Path, tmp_path: Path, cifar: Cifar
) -> None:
    files = [file.relative_to(trained_run) for file in trained_run.rglob("*") if file.is_file()]
    for number, name in enumerate(file for file in files if "events" not in file.name):
        run = tmp_path / str(number)
        shutil.copytree(trained_run, run)
        (run / name).unlink()
        replaced(run / name)
        result = cifar("train", "--resume", run, "--max-epochs", 3)
        assert result.exit_code == 0 or result.stderr.count("error: ") == 1, (name, result.output)
        assert result.exit_code == 0 or str(run) in result.stderr, (name, result.output)
