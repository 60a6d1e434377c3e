import pytest

from cifar_cli.core.memory import choose
from cifar_cli.core.memory.choose import choose_batch, time_sizes
from cifar_cli.core.memory.config import StepConfig
from cifar_cli.core.memory.results import Trial
from cifar_cli.core.memory.worker import Outcome
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ResourceError

NULL = ModelConfig(name="null", weights="none")


class Clock:
    """Time that passes only while something is timed."""

    def __init__(self, overhead: float) -> None:
        self.now, self.overhead = 0.0, overhead

    def speed(self, batch: int) -> float:
        """Images a second of a machine with so many seconds a step besides 1 ms an image."""
        step = self.overhead + batch / 1000
        self.now += 3 * step
        return batch / step

    def __call__(self) -> float:
        return self.now


def timed(overhead: float) -> list[int]:
    clock = Clock(overhead)
    return [seen.batch for seen in time_sizes([16, 32, 64, 128, 256, 512], clock.speed, clock=clock)]


def test_sizes_are_timed_upwards_as_long_as_time_allows() -> None:
    assert timed(0.01) == [16, 32, 64, 128, 256, 512]
    assert timed(0.5)[0] == 16
    assert len(timed(0.5)) < 6
    assert timed(20.0) == [16]


def test_timing_ends_where_larger_sizes_bring_nothing() -> None:
    sizes = time_sizes([16, 32, 64, 128, 256], lambda batch: 100.0, clock=lambda: 0.0)
    assert [seen.batch for seen in sizes] == [16, 32, 64]


def test_on_the_cpu_the_knee_is_chosen_and_the_sentence_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "try_steps", lambda config, batch, **_: min(100.0 * batch, 6000.0))
    choice = choose_batch(NULL, StepConfig(), device="cpu")
    assert choice.batch == 64
    assert choice.images_per_second == 6000.0
    assert choice.reason == "batch 64: 6,000 images/s on the CPU, and the best of 16, 32, 64, 128, 256 is 6,000"


def test_where_one_step_takes_minutes_the_usual_batch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "try_steps", lambda config, batch, **_: 0.1)
    choice = choose_batch(NULL, StepConfig(), device="cpu")
    assert choice.batch == 128
    assert "too slow to time" in choice.reason


def test_no_more_images_than_there_are() -> None:
    assert choose_batch(NULL, StepConfig(), device="cpu", most=10).batch == 10


def test_on_a_host_without_memory_it_says_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "available_bytes", lambda: 12 << 20)
    with pytest.raises(ResourceError, match="16 images of null don't fit"):
        choose_batch(NULL, StepConfig(), device="cpu")


class UpTo200:
    """A GPU's process."""

    def ask(self, batch: int, proof: bool, /, *, timeout_seconds: float) -> Outcome:
        if batch > 200:
            return Outcome(kind="out of memory")
        return Outcome(kind="done", value=Trial(batch=batch, kind="ran", device_bytes=batch))

    def close(self) -> None:
        pass


def test_on_a_gpu_the_largest_proved_batch_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "gpu_and_memory", lambda: ("Pretended", 1 << 30))
    monkeypatch.setattr("cifar_cli.core.memory.measure.Worker", lambda function: UpTo200())
    choice = choose_batch(NULL, StepConfig(), device="gpu")
    assert choice.batch == 200
    assert choice.reason == "batch 200: the largest that Pretended ran with 5% left free"
    assert choice.largest is not None
    assert choice.largest.proved
    assert choose_batch(NULL, StepConfig(), device="gpu", most=150).reason == "batch 150: all there are"
