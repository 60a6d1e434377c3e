"""This package's step and data in a Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.for_lightning import CifarDataModule, ClassifierModule
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.scores import score
from cifar_cli.core.training.train import train
from cifar_cli.errors import ConfigError

ConfigOf = Callable[..., TrainConfig]


def fitted(module: ClassifierModule, data: CifarDataModule, folder: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet | options)
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPES["course"], batch=64, max_epochs=2),
        replace(RECIPES["best"], batch=64, max_epochs=2),
    ],
    ids=["course", "best"],
)
def test_an_epoch_in_a_trainer_gives_the_weights_and_metrics_of_cifar_train(
    config_of: ConfigOf, data_dir: Path, tmp_path: Path, recipe: Recipe
) -> None:
    seen: list[EpochResult] = []
    config = replace(config_of(tmp_path / "run"), recipe=recipe, precision="32", memory_format="channels-last")
    train(config, Listeners(on_epoch=seen.append))
    module = ClassifierModule(
        build_model(ModelConfig(name="null"), seed=42), classes=10, learning_rate=recipe.learning_rate or 1e-3,
        recipe=recipe,
    )  # fmt: skip
    data = CifarDataModule(data_dir, batch_size=64, dataset="shapes", policy=recipe.policy)
    trainer = fitted(module, data, tmp_path, max_epochs=2, enable_checkpointing=False)
    ours = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    theirs = {f"model.{key}": value for key, value in module.step.evaluated.state_dict().items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    last = seen[-1]
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert metrics[name] == pytest.approx(getattr(last, name), rel=1e-6), name
    assert trainer.global_step == 12
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    plain = score(module.step.evaluated, data.test_dataloader().loader, classes=10, device=torch.device("cpu")).plain
    assert tested["test_accuracy"] == pytest.approx(plain.accuracy)
    assert tested["test_loss"] == pytest.approx(plain.loss, rel=1e-5)


def test_a_trainer_s_precision_is_used_and_its_checkpoint_resumes(data_dir: Path, tmp_path: Path) -> None:
    def module() -> ClassifierModule:
        recipe = replace(RECIPES["best"], batch=64)
        return ClassifierModule(
            build_model(ModelConfig(name="null", img_size=40), seed=0), classes=10, learning_rate=0.05, recipe=recipe
        )

    data = CifarDataModule(str(data_dir), batch_size=64, dataset="shapes", img_size=40, val_split=0.2, seed=3)
    first = module()
    trainer = fitted(first, data, tmp_path, max_epochs=1, precision="bf16-mixed")
    assert next(iter(data.train_dataloader()))[0].shape == (64, 3, 40, 40)
    assert len(data.split.val_indices) == 80
    path = tmp_path / "one.ckpt"
    trainer.save_checkpoint(path)
    again = module()
    again.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    for key, value in first.step.evaluated.state_dict().items():
        assert torch.equal(value, again.step.evaluated.state_dict()[key]), key
    assert not torch.equal(
        first.model.state_dict()["head.1.weight"], first.average.module.state_dict()["head.1.weight"]
    )


def begin(module: ClassifierModule, data: CifarDataModule) -> None:
    module.on_train_start()
    data.train_dataloader()


@pytest.mark.parametrize(
    ("trainer", "recipe", "message"),
    [
        ({"precision": "16-mixed"}, "course", "would clip the scaled gradients"),
        ({"world_size": 2}, "course", "would give every process of the Trainer the same batches"),
    ],
    ids=["float16", "two processes"],
)
def test_what_a_trainer_would_do_wrong_is_refused(
    data_dir: Path, trainer: dict[str, Any], recipe: str, message: str
) -> None:
    pretended = SimpleNamespace(**{"precision": "32-true", "world_size": 1, "estimated_stepping_batches": 4} | trainer)
    data = CifarDataModule(data_dir, dataset="shapes")
    data.trainer = pretended  # type: ignore[assignment]
    data.setup("fit")
    model = build_model(ModelConfig(name="null"), seed=0)
    module = ClassifierModule(model, classes=10, learning_rate=1e-3, recipe=RECIPES[recipe])
    module._trainer = pretended  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=message) as caught:
        begin(module, data)
    assert caught.value.remedy


def test_class_weights_are_refused_where_no_dataset_is_known() -> None:
    recipe = replace(RECIPES["course"], class_weights="auto")
    with pytest.raises(ConfigError, match="class weights follow the dataset"):
        ClassifierModule(build_model(ModelConfig(name="null")), classes=10, learning_rate=1e-3, recipe=recipe)
