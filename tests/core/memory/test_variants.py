"""Steps other than the plain one, against torch's profiler on real steps and the arithmetic of the formats."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, tensor_peak_bytes
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.memory.recorder import Category
from cifar_cli.core.memory.results import MemoryTerms
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig, RectangularConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.errors import ModelError

VIT = ModelConfig(name="timm:test_vit", img_size=160, weights="none")
RESNET = ModelConfig(name="timm:resnet18", img_size=64, weights="none")
NULL = ModelConfig(name="null", weights="none")
WIDE = RectangularConfig(name="timm:test_vit", img_size=96, img_width=160, weights="none")
VARIANTS: dict[str, dict[str, Any]] = {
    "eval": {"evaluate": True},
    "freeze": {"step": StepConfig(freeze="backbone")},
    "accumulate": {"accumulate": 4},
    "checkpointing": {"grad_checkpointing": True},
    "ema": {"step": StepConfig(ema_decay=0.99)},
    "all": {"step": StepConfig(ema_decay=0.99, optimizer="sgd"), "accumulate": 2, "grad_checkpointing": True},
}


def terms(config: MemoryConfig, batch: int = 8) -> MemoryTerms:
    found = Tracer(config).peak(batch).terms
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", [VIT, RESNET, WIDE], ids=["vit", "resnet", "96x160"])
def test_the_predicted_peak_is_within_one_percent_of_the_hosts(variant: str, model: ModelConfig) -> None:
    config = MemoryConfig(model=model, backend="cpu", **VARIANTS[variant])
    measured = measure(config, 8).peak_allocated_bytes
    assert tensor_peak_bytes(Tracer(config).at(8)) == pytest.approx(measured, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["eval", "checkpointing"])
def test_in_16_bits_too(variant: str) -> None:
    config = MemoryConfig(model=RESNET, backend="cpu", **VARIANTS[variant])
    config = replace(config, step=replace(config.step, precision="bf16"))
    measured = measure(config, 8).peak_allocated_bytes
    assert tensor_peak_bytes(Tracer(config).at(8)) == pytest.approx(measured, rel=0.01)


def test_a_forward_pass_holds_weights_and_no_training_state() -> None:
    found = terms(MemoryConfig(model=NULL, evaluate=True))
    assert found.weights_bytes == 545_098 * 4
    assert found.gradients_bytes == found.optimizer_bytes == found.activations_bytes == 0


def test_a_frozen_backbone_has_neither_gradients_nor_optimizer_state() -> None:
    head = 128 * 10 + 10
    found = terms(MemoryConfig(model=NULL, step=StepConfig(freeze="backbone", optimizer="sgd")))
    assert found.optimizer_bytes == head * 4
    assert found.gradients_bytes <= head * 4


def test_gradients_of_earlier_parts_stay_while_later_ones_are_computed() -> None:
    whole, parts = (MemoryConfig(model=NULL, accumulate=count) for count in (1, 8))
    tracer = Tracer(parts)
    assert terms(parts, 8 * 512).gradients_bytes == 545_098 * 4
    assert tracer.at(8 * 512).batch == 512
    assert terms(whole, 512).activations_bytes == terms(parts, 8 * 512).activations_bytes


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_checkpointing_keeps_less_and_computes_again(precision: Precision) -> None:
    plain = MemoryConfig(model=VIT, step=StepConfig(precision=precision))
    kept, again = (Tracer(replace(plain, grad_checkpointing=asked)) for asked in (False, True))
    assert Category.RECOMPUTED_ACTIVATIONS not in kept.at(64).categories
    assert Category.RECOMPUTED_ACTIVATIONS in again.at(64).categories
    few, many = again.peak(64).terms, kept.peak(64).terms
    assert few is not None
    assert many is not None
    assert few.activations_bytes + few.recomputed_activations_bytes < 0.6 * many.activations_bytes


def test_checkpointing_leaves_no_module_as_the_owner_of_what_follows() -> None:
    """A block that stops in the middle, when it computes activations again, is left as well."""
    traced = Tracer(MemoryConfig(model=VIT, grad_checkpointing=True)).at(8)
    by_module = zip(traced.modules, traced.categories, strict=True)
    owners = {module for module, category in by_module if category == Category.OPTIMIZER}
    assert owners == {""}


@pytest.mark.parametrize("name", ["null", "hybrid", "airbench"])
def test_a_model_without_checkpointing_says_so(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name} has no activation checkpointing"):
        Tracer(MemoryConfig(model=ModelConfig(name=name, weights="none"), grad_checkpointing=True)).at(8)


@pytest.mark.parametrize("name", ["null", "hybrid", "cnn", "airbench", "timm:test_vit"])
def test_images_that_are_not_square_are_read_and_traced(name: str) -> None:
    config = RectangularConfig(name=name, img_size=64, img_width=96, weights="none")
    logits = build_untrained(config).eval()(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 10)
    assert terms(MemoryConfig(model=config, evaluate=True)).input_bytes == 8 * (3 * 64 * 96 * 4 + 8)


@pytest.mark.slow
def test_a_compiled_model_is_measured() -> None:
    plain = MemoryConfig(model=NULL, backend="cpu", evaluate=True)
    assert measure(replace(plain, compile=True), 8).peak_allocated_bytes > 0
