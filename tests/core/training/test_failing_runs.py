"""Trainings that end before their time: what is said, and what is left."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from cifar_cli.core.models.onednn import computes
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.module import Classifier
from cifar_cli.core.training.trainer import resume, train
from cifar_cli.errors import CifarError, ResourceError

ConfigOf = Callable[..., TrainConfig]


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, images: original(self, images) * float("nan"))
    with pytest.raises(CifarError, match="the training loss became nan in epoch 1") as caught:
        train(config_of(tmp_path / "run"))
    assert "lower --lr" in str(caught.value)


def test_a_loss_that_becomes_no_number_leaves_the_weights_of_the_epochs_before(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Classifier.training_step

    def step(self: Classifier, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return original(self, batch, batch_idx) * (float("nan") if self.current_epoch == 1 else 1.0)

    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(CifarError, match="the training loss became nan in epoch 2") as caught:
        train(config_of(tmp_path / "run"))
    assert "the best weights so far are in" in str(caught.value)
    for name in ("best", "last"):
        content = read_checkpoint(tmp_path / f"run/checkpoints/{name}.ckpt")
        assert content["epoch"] == 0
        assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())


@pytest.mark.skipif(not computes(torch.float32), reason="this torch was built without oneDNN")
def test_a_weight_that_becomes_no_number_ends_the_run_even_if_the_loss_doesn_t_show_it(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Classifier.training_step

    def step(self: Classifier, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1:
            self.get_parameter("model.features.0.weight").data[0] = float("nan")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(CifarError, match="a weight became infinite or no number in epoch 2") as caught:
        train(replace(config_of(tmp_path / "run"), memory_format="onednn"))
    assert "lower --lr" in str(caught.value)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["epoch"] == 0


@pytest.mark.parametrize(("full_from", "go_on"), [(1, "start again"), (2, "continue with `cifar train --resume")])
def test_a_full_disk_is_named_with_the_way_to_go_on_and_spoils_nothing(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_from: int, go_on: str
) -> None:
    original, run = Trainer.save_checkpoint, tmp_path / "run"

    def save(self: Trainer, filepath: Path, *arguments: object) -> None:
        if self.current_epoch + 1 >= full_from:
            filepath.write_bytes(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        original(self, filepath, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "save_checkpoint", save)
    with pytest.raises(ResourceError, match="there is no space left to write to") as caught:
        train(config_of(run, epochs=2))
    assert f"free some, then {go_on}" in str(caught.value)
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == ({"best.ckpt", "last.ckpt"} if full_from == 2 else set())
    if left:
        monkeypatch.undo()
        assert read_checkpoint(run / "checkpoints/last.ckpt")["epoch"] == 0
        assert resume(run).epochs == 2
        with (run / "metrics.csv").open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
