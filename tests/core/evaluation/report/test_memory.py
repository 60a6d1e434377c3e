"""The memory in a report is what profile-memory predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cifar_cli.core.evaluation.report.facts import facts_of, largest_batch
from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
from cifar_cli.core.memory.estimate import Tracer, find_max_batch
from cifar_cli.core.memory.gpus import GPUS, TABLE_GPUS
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES
from tests.core.evaluation.report import histories
from tests.core.evaluation.report.histories import write_run

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


@pytest.mark.parametrize(("processes", "batch"), [(None, 64), (1, 64), (8, 8), (7, 10), ("8", 64)])
def test_a_step_has_the_images_of_one_device(
    data_dir: Path, tmp_path: Path, processes: int | str | None, batch: int
) -> None:
    run = write_run(tmp_path / "run", histories.healthy(), data_dir=data_dir, finished=False)
    told = yaml.safe_load((run / "config.yaml").read_text()) | {"processes": processes}
    (run / "config.yaml").write_text(yaml.safe_dump(told))
    memory = facts_of(run).memory
    assert memory is not None
    assert memory.batch == batch
    config = MemoryConfig(model=CONFIG.model, step=replace(CONFIG.step_config(), memory_format="contiguous"))
    assert memory.device_bytes == Tracer(config).peak(batch).device_bytes


def test_the_memory_of_divided_weights_is_not_that_of_one_device(data_dir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", histories.healthy(), data_dir=data_dir, finished=False, strategy="fsdp")
    told = yaml.safe_load((run / "config.yaml").read_text()) | {"processes": 2}
    (run / "config.yaml").write_text(yaml.safe_dump(told))
    assert facts_of(run).memory is None


class Unscaled(Tracer):
    """Traces whose events differ, so that small ones don't stand for others."""

    def scaled(self, batch: int) -> None:
        return None


def test_without_a_prediction_there_is_no_largest_batch() -> None:
    tracer = Unscaled(MemoryConfig(model=CONFIG.model, step=CONFIG.step_config()))
    assert largest_batch(tracer, GPUS["RTX 3090"].memory_bytes) is None
