"""`--strategy fsdp`: each process keeps a part of the weights, and the run is that of one process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.choices import OptimizerName
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.errors import ConfigError
from tests.core.training.crew import Crew
from tests.core.training.rank_tasks import (
    kept_shares,
    run,
    run_with_signal,
)
from tests.core.training.same_run import assert_same_run, step_losses

pytestmark = pytest.mark.slow
ConfigOf = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    ("model", "tolerance", "size"),
    [
        (ModelConfig(name="null"), 1e-12, 2),
        (ModelConfig(name="null"), 1e-12, 3),
        (ModelConfig(name="hybrid", weights="none", trim_backbone=False), 1e-10, 2),
        (ModelConfig(name="timm:test_efficientnet", weights="none"), 1e-10, 2),
        (ModelConfig(name="timm:test_vit", weights="none"), 1e-10, 2),
    ],
    ids=["null-2", "null-3", "hybrid-2", "timm:test_efficientnet-2", "timm:test_vit-2"],
)
def test_a_run_is_that_of_one_process(
    config: ConfigOf, tmp_path: Path, crew: Crew, model: ModelConfig, tolerance: float, size: int
) -> None:
    def averaged(name: str) -> TrainConfig:
        made = config(tmp_path / name, batch=90, model=model, strategy="fsdp")
        return replace(made, recipe=replace(made.recipe, ema_decay=0.8))

    one = run(averaged("one"), double=True)
    several = crew(run, averaged("several"), double=True, size=size)
    assert_same_run(several, one, tolerance=tolerance)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])  # torch has no fused kernel for sharded SGD
def test_a_run_goes_on_with_other_numbers_of_processes(
    config: ConfigOf, tmp_path: Path, crew: Crew, optimizer: OptimizerName
) -> None:
    def averaged(name: str) -> TrainConfig:
        made = config(tmp_path / name, epochs=3, batch=67, strategy="fsdp")
        return replace(made, recipe=replace(made.recipe, optimizer=optimizer, ema_decay=0.8))

    whole, resumed = run(averaged("whole"), double=True), ResumeConfig(run_dir=tmp_path / "cut")
    parts = [
        crew(run_with_signal, averaged("cut"), number=signal.SIGINT, rank=1, step=4, double=True),
        [run_with_signal(resumed, number=signal.SIGINT, rank=0, step=7, double=True)],
        crew(run, resumed, size=3, double=True),
    ]
    losses = [loss for part in parts for loss in step_losses(part)]
    assert losses == pytest.approx(step_losses([whole]), abs=1e-12, rel=0)


def test_each_process_keeps_a_part_of_every_weight_and_state(crew: Crew) -> None:
    shares = crew(kept_shares)
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.6


def test_muon_is_refused(config: ConfigOf, tmp_path: Path) -> None:
    made = config(tmp_path)
    with pytest.raises(ConfigError, match="--optimizer muon needs complete ones") as refused:
        replace(made, strategy="fsdp", recipe=replace(made.recipe, optimizer="muon"))
    assert refused.value.remedy == "pass --strategy ddp, or another --optimizer"
