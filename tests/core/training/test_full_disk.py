"""Runs on a disk that becomes full, and on one that can only be read."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import ResourceError

ConfigOf = Callable[..., TrainConfig]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill(disk: Path, *, left: int) -> None:
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filling").write_bytes(bytes(max(free - left, 0)))


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 3_000, 100_000])
def test_a_disk_that_becomes_full_is_one_sentence_and_the_run_continues_once_there_is_space(
    config_of: ConfigOf, disk: Path, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_epoch(epoch: EpochResult) -> None:
        if epoch.epoch == 2:
            fill(disk, left=left)

    config = replace(config_of(disk / "run", epochs=3), precision="32", memory_format="contiguous")
    with pytest.raises(ResourceError, match="there is no space left to write to") as caught:
        train(config, Listeners(on_epoch=on_epoch))
    assert caught.value.remedy == f"free disk space, then continue with `cifar train --resume {disk}/run`"
    assert "Traceback" not in capsys.readouterr().err
    (disk / "filling").unlink()
    assert resume(disk / "run").epochs == 3
    rows = list(csv.DictReader((disk / "run/metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 3_000, 20_000])
def test_a_disk_that_is_full_from_the_start_is_one_sentence(
    config_of: ConfigOf, disk: Path, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(disk, left=left)
    config = replace(config_of(disk / "run", epochs=1), precision="32", memory_format="contiguous")
    with pytest.raises(ResourceError, match=r"[Nn]o space left"):
        train(config)
    assert "Traceback" not in capsys.readouterr().err
    (disk / "filling").unlink()
    assert train(config).epochs == 1


@pytest.mark.slow
def test_a_run_that_can_only_be_read_is_evaluated_and_resumed_with_its_scores(config_of: ConfigOf, disk: Path) -> None:
    config = replace(config_of(disk / "run", epochs=1), precision="32", memory_format="contiguous")
    trained = train(config)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert resume(disk / "run").test_accuracy == trained.test_accuracy
    scored = evaluate(EvaluateConfig(checkpoint=disk / "run"))
    assert (scored.accuracy, scored.figure) == (trained.test_accuracy, None)
    assert str(scored.files_problem).startswith("the results can't be written to ")
    assert str(scored.files_problem).endswith("(Read-only file system)")
