"""Runs that fail: the message, and what is left on disk."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.onednn import computes
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import CifarError, ResourceError

ConfigOf = Callable[..., TrainConfig]


def failing_from(step: int, spoil: Callable[[TrainingStep], None] | None = None) -> Seams:
    """A training step that from its `step`-th call on returns NaN, or spoils the weights."""
    calls = 0

    class Failing(TrainingStep):
        def loss(self, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal calls
            calls += 1
            if calls >= step and spoil is not None:
                spoil(self)
            loss, logits_BK = super().loss(images_BCHW, labels_B)
            return loss * (float("nan") if calls >= step and spoil is None else 1.0), logits_BK

    return Seams(make_step=Failing)


def test_a_nan_loss_ends_the_run_with_a_remedy(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(CifarError, match="the training loss became nan in epoch 1") as caught:
        train(config_of(tmp_path / "run"), seams=failing_from(1))
    assert "lower --lr" in str(caught.value)


def test_a_loss_that_becomes_nan_leaves_the_weights_of_the_epochs_before(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(CifarError, match="the training loss became nan in epoch 2") as caught:
        train(config_of(tmp_path / "run"), seams=failing_from(7))
    assert "the best weights so far are in" in str(caught.value)
    for name in ("best", "last"):
        content = read_checkpoint(tmp_path / f"run/checkpoints/{name}.ckpt")
        assert content["epoch"] == 0
        assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())


@pytest.mark.skipif(not computes(torch.float32), reason="this torch was built without oneDNN")
def test_a_weight_that_becomes_nan_ends_the_run_even_if_the_loss_does_not_show_it(
    config_of: ConfigOf, tmp_path: Path
) -> None:
    def spoil(step: TrainingStep) -> None:
        step.model.get_parameter("features.0.weight").data[0] = float("nan")

    with pytest.raises(CifarError, match="a weight became NaN or infinite in epoch 2") as caught:
        train(replace(config_of(tmp_path / "run"), memory_format="onednn"), seams=failing_from(7, spoil))
    assert "lower --lr" in str(caught.value)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["epoch"] == 0


@pytest.mark.parametrize(("full_from", "go_on"), [(1, "start again"), (2, "continue with `cifar train --resume")])
def test_a_full_disk_is_named_with_the_way_to_continue_and_damages_nothing(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_from: int, go_on: str
) -> None:
    original, run = torch.save, tmp_path / "run"

    def save(content: dict[str, object], path: Path) -> None:
        if int(str(content["epoch"])) + 1 >= full_from:
            path.write_bytes(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        original(content, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ResourceError, match="there is no space left to write to") as caught:
        train(config_of(run, epochs=2))
    assert f"free disk space, then {go_on}" in str(caught.value)
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == ({"best.ckpt", "model.safetensors", "last.ckpt"} if full_from == 2 else set())
    if left:
        monkeypatch.undo()
        assert read_checkpoint(run / "checkpoints/last.ckpt")["epoch"] == 0
        assert resume(run).epochs == 2
        with (run / "metrics.csv").open(newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system"),
              RuntimeError("File x.part cannot be opened: Permission denied")],
    ids=["denied", "read-only", "torch"],
)  # fmt: skip
def test_a_run_directory_that_becomes_read_only_is_named(
    config_of: ConfigOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def save(content: object, path: Path) -> None:
        raise error

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ResourceError, match="run can't be written to") as caught:
        train(config_of(tmp_path / "run", epochs=1))
    assert "make it writable" in str(caught.value)


def test_a_bad_policy_file_is_refused_before_a_dataset_is_opened(tmp_path: Path) -> None:
    config = TrainConfig(
        model=ModelConfig(name="null"),
        data=DataConfig(dataset="absent", data_dir=tmp_path / "data"),
        pipeline="albumentations",
        augment_file=tmp_path / "absent.yaml",
    )
    with pytest.raises(CifarError, match=r"absent\.yaml"):
        train(config)
    assert not (tmp_path / "data").exists()
