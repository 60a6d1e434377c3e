"""The measured search: run on the host, and on a GPU that is only pretended."""

import os
from dataclasses import replace
from functools import partial

import pytest
import torch

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import Tracer
from cifar_cli.core.memory.host import available_bytes
from cifar_cli.core.memory.measure import Machine, guess_on_host, host_memory, host_trials, max_batch_on_host
from cifar_cli.core.memory.real_steps import RealSteps, measure, prove_steps, run_on_gpu, run_on_host
from cifar_cli.core.memory.results import BatchTrial
from cifar_cli.core.memory.worker import Outcome, in_child
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.errors import ResourceError

MIB = 1 << 20
NULL = MemoryConfig(model=ModelConfig(name="null"), backend="cpu")
HOST = Machine(gpu=None)


@pytest.mark.slow
def test_on_the_host_the_largest_batch_is_exact_and_proved() -> None:
    memory = 24 * MIB
    found = max_batch_on_host(Tracer(NULL), HOST, memory_bytes=memory)
    assert found.proved
    assert found.peak.host
    assert 0 <= found.margin_left_bytes == memory - found.peak.peak_allocated_bytes
    assert measure(NULL, found.max_batch).peak_allocated_bytes <= memory
    assert all(measure(NULL, found.max_batch + more).peak_allocated_bytes > memory for more in (1, 2, 3))
    assert found.knee_batch in [speed.batch for speed in found.speeds]
    assert {8, 16} <= {speed.batch for speed in found.speeds}


@pytest.mark.slow
def test_the_search_on_the_host_respects_margin_and_multiples() -> None:
    found = max_batch_on_host(Tracer(NULL), HOST, memory_bytes=24 * MIB, margin=0.2, multiple_of=8)
    assert found.max_batch % 8 == 0
    assert found.margin_left_bytes >= 0.2 * 24 * MIB


@pytest.mark.slow
def test_the_guess_is_near_the_measured_limit() -> None:
    guess = guess_on_host(Tracer(NULL), 30 * MIB)
    assert measure(NULL, guess).peak_allocated_bytes == pytest.approx(30 * MIB, rel=0.03)


def test_every_size_is_run_however_large_its_prediction_is() -> None:
    class Fits:
        def ask(self, batch: int, proof: bool, *, timeout_seconds: float) -> Outcome:
            return Outcome(kind="done", value=BatchTrial(batch=batch, kind="ran"))

        def close(self) -> None:
            pass

    with host_trials(Tracer(NULL), 24 * MIB, replace(HOST, start=lambda function: Fits())) as trials:
        assert trials.trial(4000).ran


@pytest.mark.slow
def test_a_step_beyond_the_hosts_memory_fails_in_its_own_process() -> None:
    images = 2 * available_bytes() // (3 * 32 * 32 * 4)
    outcome = in_child(partial(run_on_host, NULL, 1 << 60), images, timeout_seconds=120)
    assert outcome.kind == "out of memory"


def test_more_memory_than_the_host_has_is_refused() -> None:
    machine = Machine(gpu=None, host_bytes=lambda: 10 * 2**30)
    assert host_memory(None, machine) == 9 * 2**30
    assert host_memory(2**30, machine) == 2**30
    with pytest.raises(ResourceError, match=r"this host has 9\.0 GiB to spare, not 100\.0 GiB"):
        host_memory(100 * 2**30, machine)


class Card:
    """A pretended GPU of 1,000 bytes, of which context and other processes hold 300. A step reserves `needs`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, needs: int, grows: int = 0) -> None:
        self.free, self.fraction = 700, 1.0
        self.needs, self.grows = needs, grows
        for name in ("empty_cache", "reset_peak_memory_stats"):
            monkeypatch.setattr(f"torch.cuda.{name}", lambda: None)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (self.free, 1000))
        monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", self.limit)
        monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: needs - 1)
        monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda: needs)

    def limit(self, fraction: float) -> None:
        self.fraction = fraction

    def run(self, usable: int) -> BatchTrial:
        return run_on_gpu(NULL, usable, 4, run=self.steps)

    def steps(self, config: MemoryConfig, batch: int, *, device: str) -> float:
        if self.needs > min(self.free, self.fraction * 1000 + 1e-6):
            raise torch.OutOfMemoryError("the card is full")
        self.free -= self.needs + self.grows
        return 50.0


def test_on_a_gpu_a_trial_reports_the_memory_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Card(monkeypatch, needs=700).run(1000)
    assert trial.ran
    assert (trial.peak_allocated_bytes, trial.peak_reserved_bytes, trial.device_bytes) == (699, 700, 1000)
    assert trial.images_per_second == 50.0


@pytest.mark.slow
def test_on_a_gpu_a_margin_limits_the_allocator_to_the_memory_without_context_and_other_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Card(monkeypatch, needs=600)
    assert card.run(900).ran
    assert card.fraction == pytest.approx(0.6)
    with pytest.raises(torch.OutOfMemoryError):
        Card(monkeypatch, needs=601).run(900)
    with pytest.raises(torch.OutOfMemoryError, match="context grew"):
        Card(monkeypatch, needs=600, grows=1).run(900)
    with pytest.raises(torch.OutOfMemoryError, match="leave nothing"):
        Card(monkeypatch, needs=1).run(300)


def test_available_memory_is_at_most_the_physical_memory() -> None:
    assert 0 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_proof_runs_full_and_partial_batches_and_a_validation(batch: int, ema_decay: float | None) -> None:
    ran: list[tuple[str, int]] = []

    class Noted(RealSteps):
        def train(self) -> None:
            ran.append(("train", len(self.images_BCHW)))
            super().train()

        def validate(self) -> None:
            ran.append(("validate", len(self.images_BCHW)))
            super().validate()
            assert self.step.model.training

    config = replace(NULL, step=StepConfig(ema_decay=ema_decay))
    prove_steps(config, batch, device="cpu", make_steps=Noted)
    assert ran.count(("train", batch)) >= 6
    assert ("validate", batch) in ran
    assert batch == 1 or ("train", 4) in ran


@pytest.mark.parametrize(("batch", "partial_batches"), [(2, []), (3, [2]), (4, [2])])
def test_the_proof_has_no_partial_batch_that_batch_norm_can_t_train_on(batch: int, partial_batches: list[int]) -> None:
    drawn: list[int] = []

    class Noted(RealSteps):
        def draw(self, batch: int) -> None:
            drawn.append(batch)
            super().draw(batch)

    config = replace(NULL, model=ModelConfig(name="cnn", weights="none"))  # 1x1 features at 32 pixels
    prove_steps(config, batch, device="cpu", make_steps=Noted)
    assert [each for each in drawn if each != batch] == partial_batches


@pytest.mark.slow
def test_a_trial_beyond_the_limit_counts_as_out_of_memory() -> None:
    outcome = in_child(partial(run_on_host, NULL, 10 * MIB), 64, timeout_seconds=120)
    assert isinstance(outcome.value, BatchTrial)
    assert outcome.value.kind == "out of memory"
