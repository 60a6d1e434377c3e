from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.store import write_store
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.prepare import prepare
from cifar_cli.core.workflow.suggestion import finetune_suggested
from tests.conftest import Cifar
from tests.core.data.streams import photo_stream


@pytest.fixture
def photos(tmp_path: Path) -> DataConfig:
    """40 training and 4 test photographs in a store of image files, for 64 pixels."""
    write_store(tmp_path / "photos.safetensors", name="photos", images=photo_stream(40, 0, 4, img_size=64))
    return DataConfig(dataset="photos", data_dir=tmp_path)


def test_for_photographs_the_command_of_a_fine_tune_and_its_cost_are_said(photos: DataConfig) -> None:
    config = TrainConfig(model=ModelConfig(name="null"), data=photos, device="cpu", precision="32", workers=0)
    told = finetune_suggested(prepare(replace(config, memory_format="channels-last")))
    assert told is not None
    assert f"`cifar train --dataset photos --data-dir {photos.data_dir} --recipe finetune`" in told
    assert "An epoch is 2 steps of 32 images at 64 pixels" in told
    assert "GiB with --freeze backbone" in told
    assert "--backbone tf_efficientnet_lite0 --weights bundled" in told


def test_for_small_images_nothing_is_suggested(data_dir: Path) -> None:
    data = DataConfig(dataset="shapes", data_dir=data_dir)
    config = TrainConfig(model=ModelConfig(name="null"), data=data, device="cpu", precision="32")
    assert finetune_suggested(prepare(replace(config, memory_format="channels-last"))) is None


def test_only_a_model_that_nobody_chose_is_commented_on(
    photos: DataConfig, cifar: Cifar, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train", "--dataset", "photos", "--data-dir", tmp_path, "--fast-dev-run", "--workers", 0, "--no-report")
    for more, suggested in (((), True), (("--model", "null"), False)):
        result = cifar(*words, "--precision", "32", "--memory-format", "channels-last", *more)
        assert result.exit_code == 0, result.stderr
        assert ("--recipe finetune" in result.stderr) == suggested
