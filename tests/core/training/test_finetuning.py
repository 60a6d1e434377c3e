from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import estimate
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.head import head_parameters
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import ResumeConfig, StepConfig, TrainConfig
from cifar_cli.core.training.prepare import prepare
from cifar_cli.core.training.recipe import RECIPES
from cifar_cli.core.training.schedule import LearningRate
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import ConfigError

ConfigOf = Callable[..., TrainConfig]
LITE = ModelConfig(name="cnn", backbone="tf_efficientnet_lite0", weights="bundled")
IMAGES, LABELS = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 10


def lite_config(config_of: ConfigOf, run_dir: Path, **recipe: object) -> TrainConfig:
    """Steps of 180 images of a fine-tune with real weights, 2 in an epoch."""
    config = config_of(run_dir, epochs=2)
    changed = replace(RECIPES["finetune"], batch=180, max_epochs=2, policy="crop-flip", **recipe)  # type: ignore[arg-type]
    return replace(config, model=LITE, recipe=changed, precision="32", memory_format="channels-last")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (replace(LITE, weights="none"), {"classifier.weight", "classifier.bias"}),
        (ModelConfig(name="timm:resnet18", weights="none"), {"fc.weight", "fc.bias"}),
        (
            ModelConfig(name="timm:deit_tiny_distilled_patch16_224", weights="none", img_size=32),
            {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"},
        ),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_the_head_is_what_pretrained_weights_do_not_bring(model: ModelConfig, expected: set[str]) -> None:
    assert head_parameters(build_model(model)) == expected


def test_the_head_of_hybrid_is_its_transformer() -> None:
    model = build_model(ModelConfig(name="hybrid", weights="none"))
    head = head_parameters(model)
    assert head == {name for name, _ in model.named_parameters() if name.startswith("vit.")}


def test_a_frozen_backbone_keeps_its_weights_and_its_batch_statistics() -> None:
    model = build_model(replace(LITE, weights="none"), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = TrainingStep(model, StepConfig(freeze="backbone", optimizer="adamw", weight_decay=0.1), device_type="cpu")
    for _ in range(2):
        step.train()
        step(IMAGES, LABELS)
    assert model.training
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert sum(len(group["params"]) for group in step.optimizer.param_groups) == 2


def test_a_frozen_backbone_needs_less_memory_by_the_estimate() -> None:
    whole = MemoryConfig(model=replace(LITE, weights="none"), step=StepConfig(optimizer="adamw"))
    frozen = replace(whole, step=replace(whole.step, freeze="backbone"))
    ours, theirs = (estimate(each, 32).terms for each in (frozen, whole))
    assert ours.activations_bytes < 0.5 * theirs.activations_bytes
    assert ours.optimizer_bytes < 0.05 * theirs.optimizer_bytes


def test_the_head_is_trained_alone_first_and_the_rest_warms_up_after_it() -> None:
    model = build_model(replace(LITE, weights="none"), seed=0)
    recipe = replace(RECIPES["finetune"], head_first=0.25)
    step = TrainingStep(model, StepConfig(optimizer="adamw", head_first=True), device_type="cpu")
    rate = LearningRate(step.optimizer, recipe, steps=40)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: dict[bool, list[float]] = {True: [], False: []}
    for number in range(40):
        rate.set_for(number)
        for group in step.optimizer.param_groups:
            is_head = {names[id(each)].startswith("classifier") for each in group["params"]}
            assert is_head == {not group["waits"]}
            seen[is_head.pop()].append(group["lr"])
    head, others = seen[True][::2], seen[False][::2]
    assert all(head)
    assert others[:10] == 10 * [0.0]
    assert all(others[10:])
    assert others[10] < others[12] < others[13]  # a warm-up of its own
    assert max(others) == pytest.approx(max(head), rel=0.01)
    assert not LearningRate(step.optimizer, replace(recipe, schedule="constant"), steps=40).is_constant


def test_weights_outside_the_head_stay_until_its_share_is_over() -> None:
    model = build_model(replace(LITE, weights="none"), seed=0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    step = TrainingStep(model, StepConfig(optimizer="adamw", head_first=True, weight_decay=0.1), device_type="cpu")
    rate = LearningRate(step.optimizer, replace(RECIPES["finetune"], head_first=0.5), steps=4)
    for number in range(3):
        step.train()
        rate.set_for(number)
        step(IMAGES, LABELS)
        same = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
        assert same == (set(before) - head_parameters(model) if number < 2 else set())


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_a_fine_tune_that_is_resumed_ends_with_the_weights_of_one_that_was_not(
    config_of: ConfigOf, tmp_path: Path, freeze: str
) -> None:
    train(lite_config(config_of, tmp_path / "whole", freeze=freeze))
    train(lite_config(config_of, tmp_path / "cut", freeze=freeze))
    (tmp_path / "cut/checkpoints/previous.ckpt").replace(tmp_path / "cut/checkpoints/last.ckpt")
    (tmp_path / "cut/summary.json").unlink()
    resume(ResumeConfig(run_dir=tmp_path / "cut"))
    ours, theirs = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "cut"))
    assert ours["global_step"] == theirs["global_step"] == 4
    assert all(torch.equal(value, theirs["state_dict"][name]) for name, value in ours["state_dict"].items())


def test_freezing_or_waiting_is_refused_for_random_weights(config_of: ConfigOf) -> None:
    for recipe, what in (
        (replace(RECIPES["course"], freeze="backbone"), "--freeze backbone keeps pretrained weights, and null starts"),
        (RECIPES["finetune"], "--recipe finetune keeps pretrained weights, and null starts from random ones"),
    ):
        with pytest.raises(ConfigError, match=what) as raised:
            prepare(replace(config_of(), recipe=recipe))
        assert "--model cnn" in (raised.value.remedy or "")


@pytest.mark.parametrize(
    ("changes", "flag", "remedy"),
    [
        ({}, "--recipe finetune", "leave out --weights none, or pass --head-first 0"),
        ({"head_first": 0.5}, "--head-first 0.5", "leave out --weights none, or pass --head-first 0"),
        ({"freeze": "backbone"}, "--freeze backbone", "or pass --freeze none and --head-first 0"),
    ],
)
def test_random_weights_that_were_asked_for_are_refused_by_the_options_that_were_passed(
    config_of: ConfigOf, changes: dict[str, Any], flag: str, remedy: str
) -> None:
    recipe, model = replace(RECIPES["finetune"], **changes), ModelConfig(name="cnn", weights="none")
    with pytest.raises(ConfigError, match=f"{flag} keeps pretrained weights, and --weights none starts") as raised:
        prepare(replace(config_of(), recipe=recipe, model=model))
    assert remedy in (raised.value.remedy or "")


def test_optimizers_without_a_group_for_the_head_refuse_head_first() -> None:
    for name in ("muon", "muon-sgd"):
        for part, flag in ({}, "--recipe finetune"), ({"head_first": 0.5}, "--head-first 0.5"):
            with pytest.raises(ConfigError, match=f"{flag} can't be combined with --optimizer {name}"):
                replace(RECIPES["finetune"], optimizer=name, **part)
