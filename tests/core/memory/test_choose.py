from typing import Any

import pytest

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.memory.choose import choose_batch, time_sizes
from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.gpus import Gpu
from cifar_cli.core.memory.measure import Machine
from cifar_cli.core.memory.results import BatchTrial
from cifar_cli.core.memory.worker import Outcome
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.errors import ResourceError

NULL = ModelConfig(name="null", weights="none")
ROOMY = Machine(gpu=None, host_bytes=lambda: 8 << 30)


class Clock:
    """Time that passes only while something is timed."""

    def __init__(self, overhead: float) -> None:
        self.now, self.overhead = 0.0, overhead

    def speed(self, batch: int) -> float:
        """Images per second of a machine that takes `overhead` seconds a step and 1 ms an image."""
        step = self.overhead + batch / 1000
        self.now += 3 * step
        return batch / step

    def __call__(self) -> float:
        return self.now


def timed(overhead: float) -> list[int]:
    clock = Clock(overhead)
    return [size.batch for size in time_sizes([16, 32, 64, 128, 256, 512], clock.speed, clock=clock)]


def test_sizes_are_timed_upwards_as_long_as_time_allows() -> None:
    assert timed(0.01) == [16, 32, 64, 128, 256, 512]
    assert timed(0.5)[0] == 16
    assert len(timed(0.5)) < 6
    assert timed(20.0) == [16]


def test_timing_ends_where_larger_sizes_are_no_faster() -> None:
    sizes = time_sizes([16, 32, 64, 128, 256], lambda batch: 100.0, clock=lambda: 0.0)
    assert [size.batch for size in sizes] == [16, 32, 64]


def test_on_the_cpu_the_knee_is_chosen_and_the_sentence_says_why() -> None:
    choice = choose_batch(
        NULL, StepConfig(), machine=ROOMY, run_steps=lambda config, batch, device: min(100.0 * batch, 6000.0)
    )
    assert choice.batch == 64
    assert choice.images_per_second == 6000.0
    assert choice.reason == "batch 64: 6,000 images/s on the CPU; the best of 16, 32, 64, 128, 256 reaches 6,000"


def test_where_one_step_takes_minutes_the_usual_batch_is_taken() -> None:
    choice = choose_batch(NULL, StepConfig(), device="cpu", machine=ROOMY, run_steps=lambda *_, **__: 0.1)
    assert choice.batch == 128
    assert "too slow to time" in choice.reason


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_step_that_is_timed_is_the_step_that_is_trained(recipe: Recipe) -> None:
    step = StepConfig.of_recipe(recipe, learning_rate=1e-3, precision="32", memory_format="channels-last")
    timed: list[MemoryConfig] = []

    def run_steps(config: MemoryConfig, batch: int, *, device: str) -> float:
        timed.append(config)
        return 1000.0

    choose_batch(NULL, step, machine=ROOMY, run_steps=run_steps)
    assert {config.step for config in timed} == {step}


def test_no_batch_is_larger_than_the_number_of_training_images() -> None:
    choice = choose_batch(NULL, StepConfig(), machine=ROOMY, most=10, run_steps=lambda *_, **__: 100.0)
    assert choice.batch == 10


def test_the_error_for_a_host_without_memory_has_a_remedy() -> None:
    with pytest.raises(ResourceError, match="16 images of null don't fit") as error:
        choose_batch(NULL, StepConfig(), device="cpu", machine=Machine(gpu=None, host_bytes=lambda: 12 << 20))
    assert "--precision bf16" in str(error.value.remedy)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_whose_memory_cant_be_measured_is_named(device: DeviceChoice) -> None:
    with pytest.raises(ResourceError, match=f"there is no {device.upper()} device"):
        choose_batch(NULL, StepConfig(), device=device, machine=ROOMY)


class UpTo200:
    """A process on a GPU that runs up to 200 images; more than `fastest` together are no faster."""

    def __init__(self, fastest: int = 0) -> None:
        self.fastest = fastest

    def ask(self, *arguments: Any, timeout_seconds: float) -> Outcome:
        batch, _ = arguments
        if batch > 200:
            return Outcome(kind="out of memory")
        return Outcome(
            kind="done",
            value=BatchTrial(
                batch=batch, kind="ran", device_bytes=batch, images_per_second=1e3 * min(batch, self.fastest)
            ),
        )

    def close(self) -> None:
        pass


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_on_a_gpu_the_largest_proved_batch_is_chosen(device: DeviceChoice) -> None:
    gpu = Gpu(name="Pretended", memory_bytes=1 << 30, source="this test")
    machine = Machine(gpu=gpu, start=lambda function: UpTo200())
    choice = choose_batch(NULL, StepConfig(), device=device, machine=machine)
    assert choice.batch == 200
    assert choice.reason == "batch 200: the largest that ran on Pretended with 5% left free"
    assert choice.largest is not None
    assert choice.largest.proved
    fewer = choose_batch(NULL, StepConfig(), device=device, machine=machine, most=150)
    assert fewer.reason == "batch 150: all training images"


def test_on_a_gpu_no_batch_beyond_the_knee_is_chosen() -> None:
    gpu = Gpu(name="Pretended", memory_bytes=1 << 30, source="this test")
    machine = Machine(gpu=gpu, start=lambda function: UpTo200(fastest=60))
    choice = choose_batch(NULL, StepConfig(), device="cuda", machine=machine)
    assert choice.batch == 64
    assert choice.reason == (
        "batch 64: 60,000 images/s on Pretended; the best of all sizes reaches 60,000, and batch 200 is "
        "the largest that ran on Pretended with 5% left free"
    )
