from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.onednn import computes
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.numerics import (
    choose_numerics,
    offered_precisions,
    require_precision,
    trials_path,
)
from cifar_cli.core.training.recipe import RECIPES, Recipe, recipe_of
from cifar_cli.core.training.results import Numerics, NumericsTrial
from cifar_cli.errors import ConfigError

CPU = torch.device("cpu")
CONFIG = TrainConfig(model=ModelConfig(name="null"))
NARROW = ModelConfig(name="airbench", width=0.25)


FEW_FORMATS = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))  # has no use for oneDNN's layout


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Scripted:
    """Steps of given speed and loss: (images per second, loss) by "precision_format", on a clock of their own."""

    def __init__(self, *, fixed_seconds: float = 0.0, **by_combination: tuple[float, float]) -> None:
        self.by_combination, self.fixed_seconds = by_combination, fixed_seconds
        self.names: list[str] = []
        self.now = 0.0

    def make_step(self, precision: str, memory_format: str) -> Callable[[int], float]:
        name = f"p{precision}_{memory_format.replace('-', '_')}"
        rate, loss = self.by_combination[name]
        self.names.append(name)

        def step(batch: int) -> float:
            self.now += self.fixed_seconds + batch / rate
            return loss

        return step

    @property
    def tried(self) -> list[str]:
        """Combinations in turn; the first one of a choice is made twice, to find its batch."""
        return [name for place, name in enumerate(self.names) if name not in self.names[place - 1 : place]]

    def choose(self, config: TrainConfig = CONFIG, model: nn.Module = FEW_FORMATS) -> Numerics:
        return choose_numerics(
            config,
            model,
            classes=10,
            device=CPU,
            make_step=self.make_step,
            clock=lambda: self.now,
            precisions=("32", "bf16"),
        )


FOUR = {"p32_channels_last": (10, 2.0), "p32_contiguous": (5, 2.0), "pbf16_channels_last": (20, 2.0),
        "pbf16_contiguous": (9, 2.0)}  # fmt: skip


def test_the_fastest_combination_wins() -> None:
    steps = Scripted(**FOUR | {"p32_contiguous": (30, 2.0)})
    chosen = steps.choose()
    assert (chosen.precision, chosen.memory_format) == ("32", "contiguous")
    assert len(chosen.trials) == len(steps.tried) == 4
    assert [round(trial.images_per_second) for trial in chosen.trials] == [10, 30, 20, 9]


def test_an_optimizer_s_fixed_seconds_are_not_counted_as_the_images() -> None:
    steps = Scripted(**{name: (100 * rate, loss) for name, (rate, loss) in FOUR.items()}, fixed_seconds=0.5)
    trials = steps.choose(replace(CONFIG, recipe=replace(CONFIG.recipe, batch=1000))).trials
    assert all(149 <= trial.batch <= 150 for trial in trials)
    rates = [1000 / (0.5 + 1000 / (100 * rate)) for rate, _ in FOUR.values()]
    assert [trial.images_per_second for trial in trials] == pytest.approx(rates)


@pytest.mark.skipif(not computes(torch.float32), reason="this torch was built without oneDNN")
def test_onednn_s_layout_is_tried_for_a_model_that_can_use_it() -> None:
    steps, null = Scripted(**FOUR, p32_onednn=(15, 2.0), pbf16_onednn=(25, 2.0)), build_model(CONFIG.model, seed=0)
    chosen = steps.choose(CONFIG, null)
    assert (chosen.precision, chosen.memory_format) == ("bf16", "onednn")
    assert len(steps.tried) == 6
    assert steps.choose(replace(CONFIG, compile=True), null).memory_format == "channels-last"
    assert len(steps.tried) == 10


@pytest.mark.parametrize(
    ("config", "device", "why"),
    [
        (CONFIG, torch.device("cuda"), "needs a CPU with oneDNN and a model with convolutions and poolings"),
        (replace(CONFIG, model=ModelConfig(name="hybrid", weights="none")), CPU, "needs a CPU with oneDNN"),
        (replace(CONFIG, compile=True), CPU, "has no effect with --compile"),
    ],
)
def test_onednn_s_layout_is_refused_where_it_would_change_nothing(
    config: TrainConfig, device: torch.device, why: str
) -> None:
    config = replace(config, memory_format="onednn", precision="32")
    with pytest.raises(ConfigError, match=f"--memory-format onednn {why}") as caught:
        choose_numerics(config, build_model(config.model), classes=10, device=device)
    assert "--memory-format auto" in str(caught.value)


def test_a_fast_combination_whose_loss_differs_from_float32_s_is_not_chosen() -> None:
    steps = Scripted(**FOUR | {"pbf16_channels_last": (90, 2.11), "pbf16_contiguous": (80, float("nan"))})
    chosen = steps.choose()
    assert (chosen.precision, chosen.memory_format) == ("32", "channels-last")
    assert [trial.agrees for trial in chosen.trials] == [True, True, False, False]


def test_the_choice_is_remembered_by_machine_model_and_step() -> None:
    steps = Scripted(**FOUR)
    assert steps.choose().remembered_in is None
    again = steps.choose()
    assert again.remembered_in == trials_path()
    assert again.precision == "bf16"
    assert len(steps.tried) == 4
    for count, change in enumerate(({"batch": 7}, {"clip_norm": None}, {"ema_decay": 0.9}), start=2):
        steps.choose(replace(CONFIG, recipe=replace(CONFIG.recipe, **change)))
        assert len(steps.tried) == 4 * count


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("airbench", {"width": 2}),
        ("airbench", {"residual": True}),
        ("cnn", {"small_images": True}),
        ("cnn", {"drop_path": 0.1}),
    ],
)
def test_a_model_with_other_options_is_tried_anew(name: str, change: dict[str, Any]) -> None:
    steps = Scripted(**FOUR)
    steps.choose(replace(CONFIG, model=ModelConfig(name=name)))
    assert steps.choose(replace(CONFIG, model=ModelConfig(name=name, **change))).remembered_in is None


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"x": 3}'])
def test_a_cache_that_can_t_be_read_is_replaced(content: str) -> None:
    steps = Scripted(**FOUR)
    trials_path().parent.mkdir(parents=True)
    trials_path().write_text(content)
    assert steps.choose().remembered_in is None
    assert json.loads(trials_path().read_text())
    assert steps.choose().remembered_in is not None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda trials: None,
        lambda trials: 3,
        lambda trials: [],
        lambda trials: trials[1:],
        lambda trials: [trial | {"precision": "64"} for trial in trials],
        lambda trials: [trial | {"images_per_second": "fast"} for trial in trials],
    ],
)
def test_remembered_trials_that_make_no_sense_are_replaced(spoil: Callable[[Any], Any]) -> None:
    steps = Scripted(**FOUR)
    steps.choose()
    ((key, trials),) = json.loads(trials_path().read_text()).items()
    trials_path().write_text(json.dumps({key: spoil(trials)}))
    assert steps.choose().remembered_in is None
    assert steps.choose().remembered_in is not None


def test_of_two_runs_that_measure_at_the_same_time_both_take_what_the_first_one_found() -> None:
    first, second = Scripted(**FOUR), Scripted(**FOUR | {"p32_contiguous": (90, 2.0)})
    making = second.make_step

    def late(precision: str, memory_format: str) -> Callable[[int], float]:
        if not second.names:
            first.choose()
        return making(precision, memory_format)

    second.make_step = late  # type: ignore[method-assign]
    chosen = second.choose()
    assert (chosen.precision, chosen.memory_format) == ("bf16", "channels-last")


def test_in_a_deterministic_run_nothing_that_is_timed_decides() -> None:
    chosen = Scripted().choose(replace(CONFIG, deterministic=True))
    assert (chosen.precision, chosen.memory_format, chosen.trials) == ("32", "channels-last", ())
    assert Scripted().choose(replace(CONFIG, deterministic=True, precision="bf16")).precision == "bf16"


def test_given_values_are_not_tried() -> None:
    steps = Scripted(**FOUR)
    chosen = steps.choose(replace(CONFIG, precision="bf16", memory_format="contiguous"))
    assert (chosen.precision, chosen.memory_format, steps.tried) == ("bf16", "contiguous", [])
    assert steps.choose(replace(CONFIG, precision="32")).memory_format == "channels-last"
    assert len(steps.tried) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_config", "recipe"),
    [pytest.param(CONFIG.model, recipe, id=name) for name, recipe in RECIPES.items()]
    + [pytest.param(NARROW, recipe_of(name, model="airbench"), id=f"airbench-{name}") for name in ("fast", "best")],
)
def test_real_trials_leave_the_model_unchanged_and_agree_with_float32(
    model_config: ModelConfig, recipe: Recipe
) -> None:
    model = build_model(model_config, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = replace(CONFIG, model=model_config, recipe=replace(recipe, batch=16))
    chosen = choose_numerics(config, model, classes=10, device=CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {trial.precision for trial in chosen.trials} == set(offered_precisions(CPU))
    assert all(trial.agrees and trial.images_per_second > 0 for trial in chosen.trials)
    assert all(isinstance(trial, NumericsTrial) for trial in chosen.trials)


def test_float16_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="--precision 16 needs a CUDA GPU") as caught:
        require_precision("16", CPU)
    assert "bf16" in str(caught.value)


def test_a_debugging_run_tries_nothing() -> None:
    assert Scripted().choose(replace(CONFIG, fast_dev_run=True)).trials == ()


def test_a_loss_that_is_nan_everywhere_keeps_the_first_combination_and_is_not_remembered() -> None:
    nan = float("nan")
    chosen = Scripted(**{name: (rate, nan) for name, (rate, _) in FOUR.items()}).choose()
    assert (chosen.precision, chosen.memory_format) == ("32", "channels-last")
    assert not trials_path().exists()


@pytest.mark.parametrize(("seconds_per_image", "batch"), [(1e-6, 128), (0.01, 15), (10.0, 2)])
def test_slow_steps_are_tried_with_smaller_batches(seconds_per_image: float, batch: int) -> None:
    chosen = Scripted(**dict.fromkeys(FOUR, (1 / seconds_per_image, 2.0))).choose()
    assert [trial.batch for trial in chosen.trials] == [pytest.approx(batch, abs=1)] * len(FOUR)
