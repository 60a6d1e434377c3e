"""`airbench`: what its whitening does, its sizes, and that only training needs images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cifar_cli.core.models.airbench import Airbench, ResidualBlock, whitening_kernels
from cifar_cli.core.models.build import build_model, initialise_from_images
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.muon import MuonSGD
from cifar_cli.core.training.recipe import recipe_of
from cifar_cli.core.training.repeat import repeat_command
from cifar_cli.core.training.settings import layered
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import ConfigError, ModelError
from tests.conftest import Cifar

# Smooth noise: neighbouring pixels are alike, as in photographs.
NOISE = torch.randn(256, 3, 20, 20, generator=torch.Generator().manual_seed(1))
IMAGES = nn.functional.avg_pool2d(NOISE, 3, stride=1) + 0.3


def config(**options: object) -> ModelConfig:
    return ModelConfig(name="airbench", weights="none", **options)  # type: ignore[arg-type]


def test_the_outputs_of_the_whitening_are_uncorrelated_and_of_equal_size() -> None:
    outputs = nn.functional.conv2d(IMAGES, whitening_kernels(IMAGES)).transpose(0, 1).flatten(1).double()
    moments = outputs @ outputs.T / outputs.shape[1]
    assert (moments - torch.diag(moments.diagonal())).abs().max() < 1e-3
    assert moments.diagonal().min() > 0.8  # less than 1 because of SMALLEST_EIGENVALUE
    assert moments.diagonal().max() < 1.001


def test_equal_images_give_equal_kernels_whatever_their_order() -> None:
    assert torch.allclose(whitening_kernels(IMAGES), whitening_kernels(IMAGES.flip(0)), atol=1e-3)
    assert torch.equal(whitening_kernels(IMAGES), whitening_kernels(IMAGES))


def test_the_whitening_is_frozen_and_everything_else_but_scales_is_trained() -> None:
    model = build_model(config())
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    scales = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert frozen == scales | {"whiten.weight"}


def test_later_convolutions_begin_by_passing_their_input_on() -> None:
    model = build_model(config())
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)][1:]
    features = torch.randn(2, 256, 8, 8)
    assert len(layers) == 6
    for layer in layers:
        given = features[:, : layer.in_channels]
        kept = min(layer.in_channels, layer.out_channels)
        assert torch.allclose(layer(given)[:, :kept], given[:, :kept], atol=1e-5)


@pytest.mark.parametrize(("width", "parameters"), [(1.0, 1_972_792), (0.25, 127_096), (2.0, 7_852_856)])
def test_width_scales_the_channels(width: float, parameters: int) -> None:
    model = build_model(config(width=width))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_a_residual_block_begins_as_its_shortcut_and_its_convolutions_learn() -> None:
    model, plain = (build_model(config(residual=residual, width=0.25), seed=1) for residual in (True, False))
    convolutions = [sum(isinstance(each, nn.Conv2d) for each in built.modules()) for built in (model, plain)]
    assert convolutions == [10, 7]
    images = torch.randn(4, 3, 32, 32)
    model(images).sum().backward()
    kernels = [each for name, each in model.named_parameters() if each.ndim == 4 and not name.startswith("whiten")]
    assert all(kernel.grad is not None and bool(kernel.grad.abs().sum() > 0) for kernel in kernels)
    block = model.get_submodule("blocks.1")
    assert isinstance(block, ResidualBlock)
    with torch.no_grad():
        for batch_norm in (each for each in block.rest if isinstance(each, nn.BatchNorm2d)):
            batch_norm.weight.zero_()
    maps = torch.randn(2, 24, 16, 16)
    torch.testing.assert_close(block(maps), nn.functional.gelu(block.first(maps)))


@pytest.mark.parametrize(("words", "residual"), [([], True), (["--no-residual"], False)])
def test_best_trains_residual_blocks_unless_the_user_says_otherwise(
    cifar: Cifar, words: list[str], residual: bool
) -> None:
    asked = ("train", "--model", "airbench", "--recipe", "best", *words, "--print-config", "--json")
    values = json.loads(cifar(*asked).stdout)
    assert values["model.residual"]["value"] is residual
    assert values["model.residual"]["from"] == (words[0] if words else "recipe best")
    assert values["recipe.policy"]["value"] == "translate-alternate-cutout"
    flags = {"recipe.name": "--recipe"} | dict.fromkeys(["model.residual"] if words else [], "--residual")
    run = layered({"model.name": "airbench", "model.residual": False}, flags, recipe="best").config()
    command = repeat_command(run)
    assert ("--no-residual" in command, " --residual" in command) == (not residual, False)


FILES = {
    "best": "model: {name: airbench, width: 1.0, residual: true}\nrecipe: {name: best}",
    "fast": "model: {name: airbench, width: 1.0, residual: false}\nrecipe: {name: fast}",
    "of an earlier version": "model: {name: airbench, width: 1.0}\nrecipe: {name: best}",
    "by hand": "model: {name: airbench}\nrecipe: {name: best}",
    "without residual": "model: {name: airbench, width: 1.0, residual: false}\nrecipe: {name: best}",
}


@pytest.mark.parametrize(
    ("file", "words", "residual"),
    [
        ("best", [], True),
        ("best", ["--recipe", "fast"], False),
        ("best", ["--model", "null"], False),
        ("best", ["--no-residual"], False),
        ("fast", ["--recipe", "best"], True),
        ("of an earlier version", [], False),
        ("by hand", [], True),
        ("without residual", [], False),
    ],
)
def test_the_blocks_of_a_file_are_kept_unless_recipe_or_model_change(
    cifar: Cifar, tmp_path: Path, file: str, words: list[str], residual: bool
) -> None:
    (tmp_path / "c.yaml").write_text(FILES[file])
    result = cifar("train", "--config", tmp_path / "c.yaml", *words, "--print-config", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["model.residual"]["value"] is residual


@pytest.mark.parametrize("side", [9, 28, 32, 65])
def test_any_image_size_from_nine_pixels_on(side: int) -> None:
    assert build_model(config(img_size=side, classes=7)).eval()(torch.zeros(2, 3, side, side)).shape == (2, 7)


def test_smaller_images_are_refused() -> None:
    with pytest.raises(ModelError, match="can't read 8-pixel images") as caught:
        build_model(config(img_size=8))
    assert "--img-size 9" in str(caught.value)


def test_only_a_model_with_random_weights_asks_for_images(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def refuse() -> torch.Tensor:
        raise AssertionError("asked for images")

    initialise_from_images(build_model(ModelConfig(name="null")), ModelConfig(name="null"), refuse)
    saved, path = build_model(config()), tmp_path / "airbench.pt"
    assert isinstance(saved, Airbench)
    saved.initialise_from(IMAGES)
    torch.save(saved.state_dict(), path)
    from_file = ModelConfig(name="airbench", weights=str(path))
    loaded = build_model(from_file)
    initialise_from_images(loaded, from_file, refuse)
    assert torch.equal(loaded.get_parameter("whiten.weight"), saved.whiten.weight)


def test_muon_sgd_keeps_the_norm_of_kernels_and_the_rates_of_the_parts() -> None:
    recipe = recipe_of("fast", model="airbench")
    step_config = StepConfig.of_recipe(
        recipe, learning_rate=recipe.learning_rate or 0, precision="32", memory_format="contiguous"
    )
    model = build_model(config(width=0.25), seed=1)
    step = TrainingStep(model, step_config, device_type="cpu")
    assert isinstance(step.optimizer, MuonSGD)
    rates = [group["lr"] for group in step.optimizer.param_groups]
    assert rates == [recipe.learning_rate, recipe.bias_lr, recipe.head_lr]
    assert [len(group["params"]) for group in step.optimizer.param_groups] == [6, 7, 1]
    decays = {group["lr"] * group["weight_decay"] for group in step.optimizer.param_groups}
    assert max(decays) - min(decays) < 1e-12
    labels, before = torch.arange(16) % 10, model.get_parameter("whiten.weight").clone()
    losses = [float(step(IMAGES[:16], labels)[0]) for _ in range(12)]
    assert min(losses) < losses[0] - 0.3  # the rate is for larger batches, so the loss does not stay there
    assert torch.equal(before, model.get_parameter("whiten.weight"))


@pytest.mark.parametrize("recipe", ["fast", "best"])
def test_another_optimizer_drops_the_rates_of_muon_sgd(recipe: str) -> None:
    changed = recipe_of(recipe, model="airbench").changed({"optimizer": "adam", "learning_rate": 1e-3})
    assert (changed.momentum, changed.bias_lr, changed.head_lr) == (None, None, None)


def test_another_optimizer_takes_the_model_s_own_rate() -> None:
    """Muon's 0.01 and SGD's 0.15 make Adam diverge."""
    assert recipe_of("best", model="hybrid").changed({"optimizer": "adamw"}).learning_rate is None
    assert recipe_of("best", model="null").changed({"optimizer": "adam"}).learning_rate is None
    assert recipe_of("best", model="cnn").changed({"optimizer": "adam"}).learning_rate == 1e-3
    assert recipe_of("best", model="hybrid").changed({"optimizer": "sgd", "learning_rate": 0.1}).learning_rate == 0.1


def test_course_is_the_same_for_every_model_and_fast_is_not() -> None:
    assert recipe_of("course", model="airbench") == recipe_of("course", model="null") == recipe_of("course")
    assert recipe_of("fast", model="null") == recipe_of("fast")
    assert recipe_of("fast", model="cnn").optimizer == "adamw"
    assert recipe_of("best", model="timm:resnet18") == replace(recipe_of("best", model="cnn"), learning_rate=None)
    assert recipe_of("best", model="hybrid").optimizer == "muon"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias_lr": 1.0}, "--bias-lr applies to --optimizer muon-sgd only"),
        ({"optimizer": "muon-sgd", "head_lr": -1.0}, "--head-lr -1 is not a positive number"),
        ({"optimizer": "muon-sgd", "momentum": 1.0}, "--momentum 1 is not between 0 and 1"),
        ({"patience": 0}, "--patience must be at least 1"),
    ],
)
def test_bad_values_of_the_new_fields_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_of("course").changed(changes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("null", {"width": 2.0}, "null has no --width"),
        ("airbench", {"small_images": True}, "airbench has no --small-images"),
        ("null", {"residual": True}, "null has no --residual"),
        ("hybrid", {"drop_path": 0.1}, "hybrid has no --drop-path"),
        ("airbench", {"width": 0.0}, "--width 0 is not between"),
        ("cnn", {"drop_path": 1.0}, "--drop-path 1 is not between"),
    ],
)
def test_options_of_other_models_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(name=name, weights="none", **options)  # type: ignore[arg-type]


def test_small_images_keep_four_times_the_pixels_and_the_weights() -> None:
    cut, plain = (
        build_model(ModelConfig(name="cnn", weights="none", backbone="resnet18", small_images=small), seed=1)
        for small in (True, False)
    )
    images = torch.zeros(1, 3, 32, 32)
    assert cut.get_submodule("conv1")(images).shape[2:] == (32, 32)
    assert plain.get_submodule("conv1")(images).shape[2:] == (16, 16)
    assert cut.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("backbone", "flag"),
    [("vit_tiny_patch16_224", "small_images"), ("levit_128s", "small_images"), ("vgg11", "drop_path")],
)
def test_timm_models_without_such_a_part_are_refused(backbone: str, flag: str) -> None:
    value: object = True if flag == "small_images" else 0.1
    wanted = ModelConfig(name="cnn", weights="none", backbone=backbone, img_size=32, **{flag: value})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=f"leave --{flag.replace('_', '-')} out"):
        build_model(wanted)
