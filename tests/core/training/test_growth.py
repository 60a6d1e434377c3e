"""Images that grow during a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.checkpoint import read_checkpoint
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.growth import FULL_FROM, Growth, require_growth, shrunk
from cifar_cli.core.training.loop import Seams
from cifar_cli.core.training.remembered import cache_file
from cifar_cli.core.training.train import resume, train
from cifar_cli.errors import ConfigError, Interrupted
from tests.core.training.fake_time import Machine

pytestmark = pytest.mark.usefixtures("own_cache")
ConfigOf = Callable[..., TrainConfig]
FULL_SECONDS = 1.0  # of a step with images of the full side; one with smaller images takes less, by their area


@pytest.fixture
def growing(config_of: ConfigOf, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes configs of a narrow airbench whose images grow from 20 to 32 pixels."""

    def make(name: str, *, epochs: int = 5, seconds: float = 6000, schedule: str = "triangular") -> TrainConfig:
        plain = config_of(tmp_path / name, epochs=epochs, seconds=seconds)
        recipe = replace(plain.recipe, optimizer="sgd", learning_rate=0.02, schedule=schedule, initial_scale=0.625)
        model = ModelConfig(name="airbench", width=0.125)
        return replace(plain, model=model, recipe=recipe, precision="32", memory_format="channels-last")

    return make


def sized(machine: Machine, sides: list[int]) -> Seams:
    """The machine's seams, whose steps take a time by the area of their images. Notes the side of each step."""

    class Sized(machine.seams.make_step):  # type: ignore[misc,name-defined]
        def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> Any:
            sides.append(images_BCHW.shape[-1])
            machine.now += FULL_SECONDS * (images_BCHW.shape[-1] / 32) ** 2
            return super().__call__(images_BCHW, labels_B)

    return replace(machine.seams, make_step=Sized)


@pytest.mark.parametrize(
    ("full", "scale", "sides"),
    [(32, 0.625, (20, 24, 28, 32)), (32, 0.8, (24, 28, 32)), (32, 1.0, (32,)), (224, 0.5, (112, 140, 168, 196, 224)),
     (3, 0.1, (1, 2, 3)), (1, 0.5, (1,))],
)  # fmt: skip
def test_sides_are_eighths_of_the_full_one(full: int, scale: float, sides: tuple[int, ...]) -> None:
    assert Growth(full=full, initial_scale=scale).sides == sides


def test_every_side_has_an_equal_share_and_the_full_one_the_rest() -> None:
    growth = Growth(full=32, initial_scale=0.625)
    seen = [growth.side_for(step, steps=400, planned=True) for step in range(400)]
    assert [seen.count(side) for side in (20, 24, 28, 32)] == [100, 100, 100, 100]
    assert seen == sorted(seen)
    assert seen[int(400 * FULL_FROM)] == 32 != seen[int(400 * FULL_FROM) - 1]


def test_the_weights_of_a_run_have_the_mean_1_and_follow_the_area() -> None:
    growth = Growth(full=32, initial_scale=0.75)
    weights = [growth.weight(growth.side_for(step, steps=960, planned=True)) for step in range(960)]
    assert sum(weights) / 960 == pytest.approx(1)
    assert growth.weight(24) / growth.weight(32) == pytest.approx((24 / 32) ** 2)
    assert Growth(full=32).weight(32) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1.0, 0.75, 0.5])
def test_the_cost_of_a_part_of_a_run_is_that_of_its_steps(scale: float) -> None:
    growth = Growth(full=32, initial_scale=scale)
    weights = [growth.weight(growth.side_at((step + 0.5) / 1200)) for step in range(1200)]
    for part in (0, 1, 300, 599, 900, 1199, 1200):
        assert growth.cost_until(part / 1200) == pytest.approx(sum(weights[:part]) / 1200, abs=1e-3)


@pytest.mark.parametrize("error", [IndexError, KeyError, RuntimeError, NotImplementedError])
def test_a_model_that_fails_on_smaller_images_is_named_whatever_it_raises(error: type[Exception]) -> None:
    class Picky(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.shape[-1] < 32:
                raise error(7)
            return images

    with pytest.raises(ConfigError, match=r"--initial-scale 0\.75 begins with images of 24 pixels") as caught:
        require_growth(Picky(), Growth(full=32, initial_scale=0.75))
    assert "--initial-scale 1" in str(caught.value.remedy)


def test_steps_that_are_only_measured_begin_with_the_full_side_and_show_all() -> None:
    growth = Growth(full=32, initial_scale=0.625)
    assert [growth.side_for(step, steps=9, planned=False) for step in range(9)] == [32, 32, 28, 28, 24, 24, 20, 20, 32]


def test_shrunk_images_are_those_of_an_antialiased_bilinear_filter() -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert shrunk(images, 32) is images
    half = shrunk(images, 16)
    assert half.is_contiguous(memory_format=torch.channels_last)
    taps = torch.tensor([1, 3, 3, 1]) / 8  # of a triangle as wide as two of the new pixels
    expected = torch.einsum("bchw,h,w->bc", images[:, :, 3:7, 5:9], taps, taps)
    torch.testing.assert_close(half[:, :, 2, 3], expected)


def test_a_planned_run_fits_its_time_and_sees_every_side(growing: ConfigOf) -> None:
    machine, sides = Machine(0.0), list[int]()
    result = train(growing("run", epochs=50, seconds=60), machine.listeners, seams=sized(machine, sides))
    assert result.stopped_by == "time"
    taken = sides[-round(result.epochs * 6) :]
    assert taken == sorted(taken)
    assert set(taken) == {20, 24, 28, 32}
    assert sum(FULL_SECONDS * (side / 32) ** 2 for side in taken) <= 60
    assert machine.now <= 60
    assert "became slower" not in "".join(machine.notes)


@pytest.mark.parametrize("schedule", ["triangular", "constant"])
@pytest.mark.parametrize("step", [3, 11])
def test_an_interruption_changes_no_side_and_no_weight(
    growing: ConfigOf, tmp_path: Path, step: int, schedule: str
) -> None:
    def run(machine: Machine, asked: TrainConfig | Path) -> list[int]:
        start: Any = train if isinstance(asked, TrainConfig) else resume
        start(asked, machine.listeners, seams=sized(machine, sides := []))
        return sides

    whole = run(Machine(0.0), growing("whole", epochs=9, seconds=40, schedule=schedule))
    cache_file("plans").unlink()
    with pytest.raises(Interrupted):
        run(Machine(0.0, interrupted_at=(step,)), growing("cut", epochs=9, seconds=40, schedule=schedule))
    rest = run(Machine(0.0), tmp_path / "cut")
    assert rest == whole[-len(rest) :]
    ours, theirs = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "cut"))
    for key, value in ours["state_dict"].items():
        assert torch.equal(value, theirs["state_dict"][key]), key


def test_a_model_that_reads_one_size_only_is_refused(growing: ConfigOf, tmp_path: Path) -> None:
    config = replace(growing("run"), model=ModelConfig(name="null"))
    with pytest.raises(ConfigError, match="begins with images of 20 pixels, which the model can't read") as caught:
        train(config)
    assert caught.value.remedy == "pass --initial-scale 1, or a larger --img-size"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5, float("nan")])
def test_a_scale_outside_0_to_1_is_refused(growing: ConfigOf, scale: float) -> None:
    with pytest.raises(ConfigError, match="is not above 0 and at most 1"):
        replace(growing("run").recipe, initial_scale=scale)
