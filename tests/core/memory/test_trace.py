"""The traced step: every optimizer, precision and memory format, and every recipe."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from cifar_cli.core.choices import MemoryFormat, OptimizerName, Precision
from cifar_cli.core.memory.config import Backend, MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, peak_of, tensor_peak_bytes
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.memory.results import MemoryTerms, PeakMemory
from cifar_cli.core.memory.trace import trace_steps
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.training_form import LAYOUTS
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.core.training.step import AUTOCAST_DTYPES, OPTIMIZERS
from cifar_cli.errors import ConfigError, ModelError
from cifar_cli.render import memory_tables

NULL = ModelConfig(name="null", weights="none")
WEIGHTS = 545_098 * 4
PARAMETERS = 8


def config_of(backend: Backend = "cuda", **step: object) -> MemoryConfig:
    return MemoryConfig(model=NULL, step=StepConfig(**step), backend=backend)  # type: ignore[arg-type]


def peak(batch: int = 16, **step: object) -> PeakMemory:
    return peak_of(Tracer(config_of(**step)).at(batch), model="null")


def terms(**step: object) -> MemoryTerms:
    found = peak(**step).terms
    assert found is not None
    return found


@pytest.mark.parametrize(("optimizer", "precision", "memory_format"), product(OPTIMIZERS, AUTOCAST_DTYPES, LAYOUTS))
def test_every_optimizer_precision_and_memory_format_is_traced_and_has_its_rows(
    optimizer: OptimizerName, precision: Precision, memory_format: MemoryFormat
) -> None:
    found = peak(optimizer=optimizer, precision=precision, memory_format=memory_format)
    assert found.terms is not None
    assert found.terms.weights_bytes == WEIGHTS
    assert found.terms.optimizer_bytes >= WEIGHTS
    assert found.terms.total_bytes == found.device_bytes
    row = [next(iter(column.cells)) for column in memory_tables.peaks([found]).columns]
    assert row[0] == "16"
    assert float(row[1]) > 0
    held = [name for name in MemoryTerms.__slots__ if getattr(found.terms, name)]
    assert len(list(memory_tables.terms([found]).columns[0].cells)) == len(held) + 2


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("ema_decay", [None, 0.99])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels-last"])
def test_the_predicted_peak_of_every_optimizer_is_within_one_percent_of_the_measured_one(
    optimizer: OptimizerName, ema_decay: float | None, memory_format: MemoryFormat
) -> None:
    config = config_of("cpu", optimizer=optimizer, ema_decay=ema_decay, memory_format=memory_format)
    measured = measure(config, 24).peak_allocated_bytes
    assert tensor_peak_bytes(Tracer(config).at(24)) == pytest.approx(measured, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_the_predicted_peak_of_every_recipe_is_within_one_percent_of_the_measured_one(
    recipe: Recipe, precision: Precision
) -> None:
    step = StepConfig.of_recipe(recipe, learning_rate=1e-3, precision=precision, memory_format="channels-last")
    config = MemoryConfig(model=NULL, step=step, backend="cpu")
    measured = measure(config, 48).peak_allocated_bytes
    assert tensor_peak_bytes(Tracer(config).at(48)) == pytest.approx(measured, rel=0.01)


def test_averaged_weights_are_a_term_of_their_own() -> None:
    assert terms().averaged_weights_bytes == 0
    assert terms(ema_decay=0.9).averaged_weights_bytes == WEIGHTS


def test_momentum_of_sgd_and_muon_takes_as_much_as_the_weights() -> None:
    assert terms(optimizer="sgd").optimizer_bytes == WEIGHTS
    assert WEIGHTS < terms(optimizer="muon").optimizer_bytes < 1.1 * WEIGHTS  # the last layer has Adam's two moments


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_only_float16_updates_with_temporaries_because_it_has_no_fused_optimizer(optimizer: OptimizerName) -> None:
    at_batch_1 = {
        precision: tensor_peak_bytes(
            Tracer(config_of(optimizer=optimizer, precision=precision, weight_decay=0.1)).at(1)
        )
        for precision in ("16", "bf16")
    }
    # The update holds a copy of the weights where it has temporaries; otherwise the peak lies in the backward pass.
    assert at_batch_1["16"] > at_batch_1["bf16"] + WEIGHTS / 3


def test_clipping_on_cuda_works_on_lists_and_takes_no_copy_of_the_gradients() -> None:
    assert peak(1, clip_norm=1.0).peak_allocated_bytes <= peak(1, clip_norm=None).peak_allocated_bytes + 64 * 1024


def test_max_pooling_before_relu_is_traced_as_it_is_trained() -> None:
    names = [module.name for module in peak(128).largest_modules]
    assert names[0] == "features.0"


@pytest.mark.parametrize("step", [{"optimizer": "adm"}, {"precision": "8"}, {"memory_format": "nhwc"}])
def test_a_step_that_is_not_offered_is_refused(step: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is not offered"):
        config_of(**step)


class Particular(nn.Module):
    """Accepts sides that are a multiple of 7 only, and says so or not."""

    def __init__(self, *, says: str | None) -> None:
        super().__init__()
        self.says = says
        self.inner = nn.Module()
        self.inner.forward = self.check  # type: ignore[method-assign]
        self.head = nn.Linear(3, 10)

    def check(self, images_BCHW: Tensor) -> Tensor:
        if self.says is None:
            torch._assert(images_BCHW.shape[3] % 7 == 0, "")
        assert images_BCHW.shape[3] % 7 == 0, self.says
        return images_BCHW

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.head(self.inner(images_BCHW).mean(dim=(2, 3)))
        return logits_BK


class Odd(nn.Module):
    """Raises what no operator raises."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return {"cpu": images_BCHW}[images_BCHW.device.type]


def test_whatever_a_model_raises_is_a_sentence() -> None:
    with pytest.raises(ModelError, match=r"can't be traced \('meta'\)"):
        trace_steps(nn.Sequential(Odd(), nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), 4, config_of())


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("sides of 7\nand so on", "(sides of 7)"),
        (None, '(`torch._assert(images_BCHW.shape[3] % 7 == 0, "")` fails in inner)'),
    ],
)
def test_what_can_not_be_traced_is_said_in_the_models_own_words(says: str | None, reason: str) -> None:
    with pytest.raises(ModelError) as caught:
        trace_steps(Particular(says=says), 4, config_of())
    assert caught.value.what.endswith(f"a training step of null with 4 images at 32 pixels can't be traced {reason}")
