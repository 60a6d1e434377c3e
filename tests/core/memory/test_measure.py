"""The search for real, on the host."""

from functools import partial

import pytest
import torch

from cifar_cli.core.memory import measure as measure_module
from cifar_cli.core.memory import real_steps
from cifar_cli.core.memory.config import MemoryConfig, StepConfig
from cifar_cli.core.memory.estimate import Tracer
from cifar_cli.core.memory.host import available_bytes
from cifar_cli.core.memory.measure import guess_on_host, host_memory, host_trials, on_host
from cifar_cli.core.memory.real_steps import measure, prove_steps, run_on_gpu, run_on_host
from cifar_cli.core.memory.results import Trial
from cifar_cli.core.memory.worker import in_child
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ResourceError

MIB = 1 << 20
NULL = MemoryConfig(model=ModelConfig(name="null"), step=StepConfig(physics="cpu"))


def test_on_the_host_the_largest_batch_is_exact_and_proved() -> None:
    memory = 24 * MIB
    found = on_host(Tracer(NULL), memory_bytes=memory)
    assert found.proved
    assert found.peak.host
    assert 0 <= found.margin_left_bytes == memory - found.peak.peak_allocated_bytes
    assert measure(NULL, found.max_batch, device="cpu").peak_allocated_bytes <= memory
    assert all(measure(NULL, found.max_batch + more, device="cpu").peak_allocated_bytes > memory for more in (1, 2, 3))
    assert found.knee_batch in [speed.batch for speed in found.speeds]
    assert {8, 16} <= {speed.batch for speed in found.speeds}


def test_margin_and_multiples_are_kept_on_the_host() -> None:
    found = on_host(Tracer(NULL), memory_bytes=24 * MIB, margin=0.2, multiple_of=8)
    assert found.max_batch % 8 == 0
    assert found.margin_left_bytes >= 0.2 * 24 * MIB


def test_the_guess_is_near_what_the_allocator_says() -> None:
    guess = guess_on_host(Tracer(NULL), 30 * MIB)
    assert measure(NULL, guess, device="cpu").peak_allocated_bytes == pytest.approx(30 * MIB, rel=0.03)


def test_what_would_take_far_more_than_allowed_is_not_run() -> None:
    with host_trials(Tracer(NULL), 24 * MIB) as trials:
        assert trials.trial(4000).kind == "refused"


def test_a_step_beyond_what_the_host_has_fails_in_its_own_process() -> None:
    images = 2 * available_bytes() // (3 * 32 * 32 * 4)
    outcome = in_child(partial(run_on_host, NULL, 1 << 60), images, timeout_seconds=120)
    assert outcome.kind == "out of memory"


def test_more_memory_than_the_host_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "available_bytes", lambda: 10 * 2**30)
    assert host_memory(None) == 9 * 2**30
    assert host_memory(2**30) == 2**30
    with pytest.raises(ResourceError, match=r"this host has 9\.0 GiB to spare, not 100\.0 GiB"):
        host_memory(100 * 2**30)


class Card:
    """A pretended GPU of 1,000 bytes on which context and others hold 300, and a step reserves `needs`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, needs: int, grows: int = 0) -> None:
        self.free, self.fraction = 700, 1.0
        self.needs, self.grows = needs, grows
        for name in ("empty_cache", "reset_peak_memory_stats"):
            monkeypatch.setattr(f"torch.cuda.{name}", lambda: None)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (self.free, 1000))
        monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", self.limit)
        monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: needs - 1)
        monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda: needs)
        monkeypatch.setattr("cifar_cli.core.memory.real_steps.try_steps", self.steps)

    def limit(self, fraction: float) -> None:
        self.fraction = fraction

    def steps(self, config: MemoryConfig, batch: int, *, device: str) -> float:
        if self.needs > min(self.free, self.fraction * 1000 + 1e-6):
            raise torch.OutOfMemoryError("told to")
        self.free -= self.needs + self.grows
        return 50.0


def test_on_a_gpu_a_trial_reports_what_the_card_lacked(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, needs=700)
    trial = run_on_gpu(NULL, 1000, 4)
    assert trial.ran
    assert (trial.peak_allocated_bytes, trial.peak_reserved_bytes, trial.device_bytes) == (699, 700, 1000)
    assert trial.images_per_second == 50.0


def test_on_a_gpu_a_margin_limits_the_allocator_to_what_context_and_others_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Card(monkeypatch, needs=600)
    assert run_on_gpu(NULL, 900, 4).ran
    assert card.fraction == pytest.approx(0.6)
    Card(monkeypatch, needs=601)
    with pytest.raises(torch.OutOfMemoryError):
        run_on_gpu(NULL, 900, 4)
    Card(monkeypatch, needs=600, grows=1)
    with pytest.raises(torch.OutOfMemoryError, match="context grew"):
        run_on_gpu(NULL, 900, 4)
    Card(monkeypatch, needs=1)
    with pytest.raises(torch.OutOfMemoryError, match="leave nothing"):
        run_on_gpu(NULL, 300, 4)


def test_memory_that_is_available_is_a_part_of_all_there_is() -> None:
    import os

    assert 0 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("batch", [1, 7])
def test_the_proof_runs_whole_and_partial_batches_and_a_validation(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:

    seen: list[tuple[str, int]] = []

    class Noted(real_steps.Training):
        def step(self) -> None:
            seen.append(("step", len(self.images)))
            super().step()

        def validate(self) -> None:
            seen.append(("validate", len(self.images)))
            super().validate()
            assert self.model.training

    monkeypatch.setattr(real_steps, "Training", Noted)
    prove_steps(NULL, batch, device="cpu")
    assert seen.count(("step", batch)) >= 6
    assert ("validate", batch) in seen
    assert batch == 1 or ("step", 4) in seen


def test_a_trial_beyond_the_limit_counts_as_out_of_memory() -> None:
    outcome = in_child(partial(run_on_host, NULL, 10 * MIB), 64, timeout_seconds=120)
    assert isinstance(outcome.value, Trial)
    assert outcome.value.kind == "out of memory"
