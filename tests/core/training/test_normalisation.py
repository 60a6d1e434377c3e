from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import Store, open_store
from cifar_cli.core.evaluation.config import ExportConfig
from cifar_cli.core.evaluation.export import export
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.batches import make_loaders
from cifar_cli.core.training.checkpoint import load_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.normalisation import normalisation_of
from cifar_cli.core.training.prepare import prepare, run_config
from cifar_cli.core.training.train import train
from cifar_cli.errors import CheckpointError, ConfigError

ConfigOf = Callable[..., TrainConfig]
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LITE = ModelConfig(name="cnn", backbone="tf_efficientnet_lite0", weights="bundled", classes=10)


@pytest.fixture
def store(data_dir: Path) -> Store:
    """A dataset whose channels have a mean and a deviation of their own."""
    opened = open_store(data_dir / "shapes.safetensors")
    return replace(opened, mean=(0.123456, 0.5, 0.75), std=(0.1, 0.222222, 0.0))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ModelConfig(name="cnn"), IMAGENET),
        (ModelConfig(name="cnn", backbone="tf_efficientnet_lite0"), INCEPTION),
        (LITE, INCEPTION),
        (ModelConfig(name="timm:vit_tiny_patch16_224", img_size=224), INCEPTION),
        (ModelConfig(name="hybrid"), IMAGENET),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_pretrained_weights_bring_the_normalisation_they_were_trained_with(
    store: Store, model: ModelConfig, expected: Normalisation
) -> None:
    assert normalisation_of(model, store) == expected


def test_random_weights_take_the_mean_and_deviation_of_the_dataset(store: Store) -> None:
    for model in (ModelConfig(name="null"), ModelConfig(name="cnn", weights="none")):
        found = normalisation_of(model, store)
        assert found.mean == (0.1235, 0.5, 0.75)  # rounded as CIFAR-10's published constants are
        assert found.std == (0.1, 0.2222, 1 / 255)  # a channel of one colour stays finite
        assert normalisation_of(model, replace(store, mean=None, std=None)) == Normalisation()


def test_weights_of_a_run_bring_the_normalisation_of_the_run(config_of: ConfigOf, tmp_path: Path, store: Store) -> None:
    config = replace(config_of(tmp_path / "run", epochs=1), model=LITE, img_size=32, fast_dev_run=True)
    run = train(config).run_dir
    for name in ("best.ckpt", "model.safetensors"):
        model = replace(LITE, weights=str(run / "checkpoints" / name))
        assert normalisation_of(model, store) == INCEPTION
    checkpoint = load_checkpoint(run)
    assert checkpoint.config.normalisation == INCEPTION
    assert run_config(run).normalisation == INCEPTION
    exported = export(ExportConfig(checkpoint=run, format="safetensors"))
    assert exported.metadata["mean"] == exported.metadata["std"] == "[0.5, 0.5, 0.5]"


def test_a_checkpoint_of_an_earlier_version_has_that_of_cifar10(trained_run: Path, tmp_path: Path) -> None:
    content = torch.load(trained_run / "checkpoints/best.ckpt", weights_only=True)
    assert content["cifar"]["config"].pop("normalisation") is not None
    torch.save(content, tmp_path / "old.ckpt")
    assert load_checkpoint(tmp_path / "old.ckpt").config.normalised_by == Normalisation()
    model = ModelConfig(name="null", weights=str(tmp_path / "old.ckpt"))
    other = replace(open_store(load_checkpoint(trained_run).config.data.store_path), mean=(0.1, 0.1, 0.1))
    assert normalisation_of(model, other) == Normalisation()


def test_all_three_splits_are_normalised_as_the_config_says(config_of: ConfigOf, store: Store) -> None:
    by = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    config = replace(config_of(), normalisation=by)
    config = replace(config, recipe=replace(config.recipe, policy="none"))
    loaders = make_loaders(config, store, device=torch.device("cpu"))
    for loader, part in ((loaders.train, store.train), (loaders.val, store.train), (loaders.test, store.test)):
        images_BCHW, _ = next(iter(loader))
        pixels = images_BCHW.permute(0, 2, 3, 1) * torch.tensor(by.std) + torch.tensor(by.mean)
        row = pixels[0].mul(255).round().to(torch.uint8)
        assert any(torch.equal(row, each) for each in part.images_NHWC)


def test_what_is_prepared_has_its_normalisation_resolved(config_of: ConfigOf) -> None:
    prepared = prepare(replace(config_of(), model=replace(LITE, weights="none"), img_size=32))
    assert prepared.config.normalisation is not None
    assert prepared.config.normalisation != INCEPTION


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5, 0.5), (0.5, 0.5, 0.5)), ((0.5, 0.5, float("nan")), (1, 1, 1)), ((0, 0, 0), (1, 1, 0))]
)
def test_a_checkpoint_with_an_impossible_normalisation_is_refused(
    trained_run: Path, tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(ConfigError):
        Normalisation(mean, std)  # type: ignore[arg-type]
    content = torch.load(trained_run / "checkpoints/best.ckpt", weights_only=True)
    content["cifar"]["config"]["normalisation"] = {"mean": list(mean), "std": list(std)}
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match="was not written by this version"):
        load_checkpoint(tmp_path / "bad.ckpt")
