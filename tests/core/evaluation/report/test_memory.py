"""The memory in a report is what profile-memory predicts."""

from __future__ import annotations

import pytest

from cifar_cli.core.evaluation.report.facts import largest_batch
from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
from cifar_cli.core.memory.estimate import Tracer, find_max_batch
from cifar_cli.core.memory.gpus import GPUS, TABLE_GPUS
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES

CONFIG = TrainConfig(
    model=ModelConfig(name="null", weights="none"),
    recipe=RECIPES["course"],
    precision="32",
    memory_format="channels-last",
)


@pytest.mark.parametrize("card", [TABLE_GPUS[0], "RTX 3090"])
def test_the_largest_batch_is_that_of_a_search_rounded_down_to_two_digits(card: str) -> None:
    config = MemoryConfig(model=CONFIG.model, step=CONFIG.step_config())
    memory_bytes = GPUS[card].memory_bytes
    asked = MemoryRequest(configs=(config,))
    found = find_max_batch(Tracer(config), gpu=card, memory_bytes=memory_bytes, risk=asked.risk).max_batch
    assert largest_batch(Tracer(config), memory_bytes) == found // 1000 * 1000


def test_a_card_that_is_too_small_for_one_image_has_a_largest_batch_of_0() -> None:
    config = MemoryConfig(model=CONFIG.model, step=CONFIG.step_config())
    assert largest_batch(Tracer(config), 1 << 20) == 0


class Unscaled(Tracer):
    """Traces whose events differ, so that small ones don't stand for others."""

    def scaled(self, batch: int) -> None:
        return None


def test_without_a_prediction_there_is_no_largest_batch() -> None:
    tracer = Unscaled(MemoryConfig(model=CONFIG.model, step=CONFIG.step_config()))
    assert largest_batch(tracer, GPUS["RTX 3090"].memory_bytes) is None
