from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training import numerics
from cifar_cli.core.training.config import TrainConfig, Trial
from cifar_cli.core.training.numerics import choose_numerics, memory_path, offered_precisions, require_precision
from cifar_cli.errors import ConfigError

CPU = torch.device("cpu")
CONFIG = TrainConfig(model=ModelConfig(name="null"))


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(numerics, "TRIAL_SECONDS", 0.01)


def choose(config: TrainConfig = CONFIG) -> numerics.Numerics:
    return choose_numerics(config, build_model(config.model, seed=0), classes=10, device=CPU)


def scripted(monkeypatch: pytest.MonkeyPatch, **by_combination: tuple[float, float]) -> list[str]:
    """Replace the timing: (images per second, loss) by "precision_format"; gives the combinations tried.

    oneDNN's layout is on offer if it has a time.
    """
    onednn = "p32_onednn" in by_combination
    monkeypatch.setattr(numerics, "trains_in_onednn", lambda model, device: onednn)
    tried: list[str] = []

    class Step:
        def __init__(self, config, model, precision, memory_format, **options) -> None:  # type: ignore[no-untyped-def]
            self.name = f"p{precision}_{memory_format.replace('-', '_')}"

        def __call__(self, batch: int) -> float:
            return 0.0

    def timed(step: Step, batch: int, *, hopeless_below: float) -> tuple[float, float]:
        tried.append(step.name)
        return by_combination[step.name]

    monkeypatch.setattr(numerics, "_Step", Step)
    monkeypatch.setattr(numerics, "_timed", timed)
    monkeypatch.setattr(numerics, "offered_precisions", lambda device: ("32", "bf16"))
    return tried


def test_the_fastest_combination_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(
        monkeypatch, p32_channels_last=(10, 2.3), p32_contiguous=(30, 2.3), pbf16_channels_last=(20, 2.31),
        pbf16_contiguous=(15, 2.31),
    )  # fmt: skip
    chosen = choose()
    assert (chosen.precision, chosen.memory_format) == ("32", "contiguous")
    assert len(chosen.trials) == 4


def test_the_layout_of_onednn_is_tried_where_the_model_has_use_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        f"p{precision}_{layout}": (rate, 2.3)
        for precision, rate in (("32", 10.0), ("bf16", 20.0))
        for layout in ("channels_last", "contiguous")
    }
    tried = scripted(monkeypatch, p32_onednn=(15, 2.3), pbf16_onednn=(25, 2.3), **times)
    assert (choose().precision, choose().memory_format) == ("bf16", "onednn")
    assert len(tried) == 6
    assert choose(replace(CONFIG, compile=True)).memory_format == "channels-last"
    assert len(tried) == 10


@pytest.mark.parametrize(
    ("config", "device", "why"),
    [
        (CONFIG, torch.device("cuda"), "is for models with convolutions and poolings in one sequence"),
        (replace(CONFIG, model=ModelConfig(name="hybrid", weights="none")), CPU, "is for models with convolutions"),
        (replace(CONFIG, compile=True), CPU, "finds no use beside --compile"),
    ],
)
def test_the_layout_of_onednn_is_refused_where_it_would_change_nothing(
    config: TrainConfig, device: torch.device, why: str
) -> None:
    config = replace(config, memory_format="onednn", precision="32")
    with pytest.raises(ConfigError, match=f"--memory-format onednn {why}") as caught:
        choose_numerics(config, build_model(config.model), classes=10, device=device)
    assert "--memory-format auto" in str(caught.value)


def test_a_fast_combination_whose_loss_differs_from_float32_s_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(
        monkeypatch, p32_channels_last=(10, 2.0), p32_contiguous=(5, 2.0), pbf16_channels_last=(90, 2.11),
        pbf16_contiguous=(80, float("nan")),
    )  # fmt: skip
    chosen = choose()
    assert (chosen.precision, chosen.memory_format) == ("32", "channels-last")
    assert [trial.agrees for trial in chosen.trials] == [True, True, False, False]


def test_the_choice_is_remembered_by_machine_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = scripted(
        monkeypatch, p32_channels_last=(10, 2.0), p32_contiguous=(5, 2.0), pbf16_channels_last=(20, 2.0),
        pbf16_contiguous=(9, 2.0),
    )  # fmt: skip
    assert choose().remembered_in is None
    again = choose()
    assert again.remembered_in == memory_path()
    assert again.precision == "bf16"
    assert len(tried) == 4
    choose(replace(CONFIG, recipe=replace(CONFIG.recipe, batch=7)))
    assert len(tried) == 8
    choose(replace(CONFIG, recipe=replace(CONFIG.recipe, clip_norm=None)))
    assert len(tried) == 12


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"x": 3}'])
def test_a_memory_that_can_t_be_read_is_replaced(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    scripted(
        monkeypatch, p32_channels_last=(10, 2.0), p32_contiguous=(5, 2.0), pbf16_channels_last=(20, 2.0),
        pbf16_contiguous=(9, 2.0),
    )  # fmt: skip
    memory_path().parent.mkdir(parents=True)
    memory_path().write_text(content)
    assert choose().remembered_in is None
    assert json.loads(memory_path().read_text())
    assert choose().remembered_in is not None


def test_what_is_given_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = scripted(monkeypatch, p32_channels_last=(10, 2.0), p32_contiguous=(5, 2.0))
    chosen = choose(replace(CONFIG, precision="bf16", memory_format="contiguous"))
    assert (chosen.precision, chosen.memory_format, tried) == ("bf16", "contiguous", [])
    assert choose(replace(CONFIG, precision="32")).memory_format == "channels-last"
    assert len(tried) == 2


def test_real_trials_leave_the_model_as_it_is_and_agree_with_float32() -> None:
    model = build_model(CONFIG.model, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = choose_numerics(replace(CONFIG, precision="auto"), model, classes=10, device=CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {trial.precision for trial in chosen.trials} == set(offered_precisions(CPU))
    assert all(trial.agrees and trial.images_per_second > 0 for trial in chosen.trials)
    assert all(isinstance(trial, Trial) for trial in chosen.trials)


def test_float16_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="--precision 16 needs a CUDA GPU") as caught:
        require_precision("16", CPU)
    assert "bf16" in str(caught.value)


def test_a_debugging_run_tries_nothing() -> None:
    assert choose(replace(CONFIG, fast_dev_run=True)).trials == ()


def test_a_loss_that_is_no_number_anywhere_leaves_the_first_combination_and_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nan = float("nan")
    scripted(
        monkeypatch, p32_channels_last=(10, nan), p32_contiguous=(50, nan), pbf16_channels_last=(90, nan),
        pbf16_contiguous=(80, nan),
    )  # fmt: skip
    chosen = choose()
    assert (chosen.precision, chosen.memory_format) == ("32", "channels-last")
    assert not memory_path().exists()


@pytest.mark.parametrize(("seconds_an_image", "batch"), [(1e-6, 128), (0.01, 15), (10.0, 2)])
def test_slow_steps_are_tried_with_fewer_images(
    monkeypatch: pytest.MonkeyPatch, seconds_an_image: float, batch: int
) -> None:
    now, calls = [0.0], []

    def step(images: int) -> float:
        calls.append(images)
        now[0] += 100.0 if len(calls) == 1 else images * seconds_an_image  # the first one loads kernels
        return 0.0

    monkeypatch.setattr(numerics.time, "perf_counter", lambda: now[0])
    assert numerics._affordable(step, 128) == pytest.approx(batch, abs=1)


def test_nobody_s_home_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert numerics.recall("key") is None
    numerics.remember("key", ())


def test_a_memory_that_can_t_be_written_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    numerics.remember("key", ())
    assert list(memory_path().parent.iterdir()) == []
