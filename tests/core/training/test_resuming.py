"""Ctrl-C, and going on from where a run was."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.module import Classifier
from cifar_cli.core.training.trainer import resume, train
from cifar_cli.errors import CheckpointError, Interrupted

ConfigOf = Callable[..., TrainConfig]


class StopAt:
    """Stands for a user who presses Ctrl-C in the middle of an epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        self.left = step
        original = Classifier.training_step

        def training_step(module: Classifier, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return original(module, batch, batch_idx)

        monkeypatch.setattr(Classifier, "training_step", training_step)


@pytest.mark.parametrize("step", [3, 6, 8])
def test_a_run_interrupted_anywhere_and_resumed_gives_the_weights_of_an_uninterrupted_one(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """360 images in batches of 64 are 6 steps an epoch: within the first, right after it, within the second."""
    whole = train(config_of(tmp_path / "whole", epochs=3))
    StopAt(monkeypatch, step)
    with pytest.raises(Interrupted, match="interrupted in epoch") as caught:
        train(config_of(tmp_path / "cut", epochs=3))
    assert f"cifar train --resume {tmp_path / 'cut'}" in str(caught.value)
    continued = resume(tmp_path / "cut")
    assert continued.epochs == whole.epochs == 3
    theirs = read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")["state_dict"]
    for name, value in read_checkpoint(tmp_path / "whole/checkpoints/last.ckpt")["state_dict"].items():
        assert torch.equal(value, theirs[name]), name
    rows = list(csv.DictReader((tmp_path / "cut/metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_a_run_interrupted_in_its_first_epoch_has_told_tensorboard_what_it_is(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StopAt(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(config_of(tmp_path / "run"))
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Tags()["tensors"] == ["dataset/text_summary"]


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_schedule_and_averaged_weights_survive_an_interruption(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    def config(name: str) -> TrainConfig:
        plain = config_of(tmp_path / name, epochs=3)
        recipe = replace(
            plain.recipe, optimizer=optimizer, learning_rate=0.02, schedule="one-cycle", warmup=0.3, ema_decay=0.8
        )
        return replace(plain, recipe=recipe)

    train(config("whole"))
    StopAt(monkeypatch, 8)
    with pytest.raises(Interrupted):
        train(config("cut"))
    resume(tmp_path / "cut")
    theirs = read_checkpoint(tmp_path / "cut/checkpoints/last.ckpt")
    ours = read_checkpoint(tmp_path / "whole/checkpoints/last.ckpt")
    for kind in ("state_dict", "current_model_state"):
        for name, value in ours[kind].items():
            assert torch.equal(value, theirs[kind][name]), (kind, name)
    rates = [[float(row["learning_rate"]) for row in csv.DictReader((tmp_path / name / "metrics.csv").open())]
             for name in ("whole", "cut")]  # fmt: skip
    assert rates[0] == rates[1]
    assert rates[0][0] > rates[0][-1]


def test_resuming_nothing_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run that can be continued"):
        resume(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(CheckpointError, match="was not written by `cifar train`"):
        resume(tmp_path)


def test_a_run_of_an_earlier_version_is_refused_in_words(config_of: ConfigOf, tmp_path: Path) -> None:
    result = train(replace(config_of(tmp_path / "run"), fast_dev_run=True))
    last = result.run_dir / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    content["callbacks"]["EpochLog"] = {"best_val_accuracy": 0.5}
    del content["cifar"]["config"]["precision"]
    torch.save(content, last)
    with pytest.raises(CheckpointError, match="written by an earlier version") as caught:
        resume(result.run_dir)
    assert "cifar evaluate" in str(caught.value)


def test_resuming_a_run_that_is_done_keeps_its_result(config_of: ConfigOf, tmp_path: Path) -> None:
    whole = train(config_of(tmp_path / "run"))
    again = resume(whole.run_dir)
    assert (again.test_accuracy, again.epochs) == (whole.test_accuracy, whole.epochs)
    assert again.images_per_second == pytest.approx(whole.images_per_second, rel=0.5)
    assert again.images_per_second > 0
