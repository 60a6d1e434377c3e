"""The search for the largest batch, against scripted machines."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import Tracer
from cifar_cli.core.memory.measure import measure_max_batch
from cifar_cli.core.memory.results import BatchSpeed, BatchTrial, TrialKind, knee_of
from cifar_cli.core.memory.search import Searching, largest_that
from cifar_cli.core.memory.worker import Outcome, Trials
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ModelError

MIB = 1 << 20


@dataclass
class Scripted:
    """A machine on which `runs` decides; proofs by `proves`, or as the trials."""

    runs: Callable[[int], bool]
    proves: Callable[[int], bool] | None = None
    kind: TrialKind = "out of memory"
    tried: list[int] = field(default_factory=list)
    proved: list[int] = field(default_factory=list)

    def trial(self, batch: int) -> BatchTrial:
        self.tried.append(batch)
        return self._trial(batch, self.runs(batch))

    def prove(self, batch: int) -> BatchTrial:
        self.proved.append(batch)
        return self._trial(batch, (self.proves or self.runs)(batch))

    def _trial(self, batch: int, ran: bool) -> BatchTrial:
        # Throughput grows up to a batch of 100.
        return BatchTrial(
            batch=batch, kind="ran" if ran else self.kind, images_per_second=10.0 * min(batch, 100), why="x"
        )


@pytest.mark.parametrize("truth", [0, 1, 2, 37, 1000])
@pytest.mark.parametrize("guess", [-5, 1, 40, 10**6])
@pytest.mark.parametrize("stride", [1, 50])
def test_bracket_and_bisection_find_the_exact_number(truth: int, guess: int, stride: int) -> None:
    assert largest_that(lambda n: n <= truth, guess=guess, most=1000, stride=stride) == truth


@pytest.mark.parametrize("truth", [1, 2, 37, 999, 1000])
@pytest.mark.parametrize("guess", [0, 30, 990, 5000])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_the_answer_is_exact_run_and_proved(truth: int, guess: int, multiple_of: int) -> None:
    machine = Scripted(lambda batch: batch <= truth)
    found = Searching(machine, most=1000, multiple_of=multiple_of).find(guess)
    assert found.batch == truth // multiple_of * multiple_of
    assert all(batch % multiple_of == 0 for batch in machine.tried)
    if found.batch:
        assert machine.proved == [found.batch]
        assert found.proof is not None
        assert found.proof.batch == found.batch
        assert found.batch in machine.tried


def test_a_near_guess_takes_few_trials() -> None:
    machine = Scripted(lambda batch: batch <= 4090)
    assert Searching(machine, most=1 << 22).find(4000).batch == 4090
    assert len(machine.tried) <= 14


def test_a_larger_size_that_runs_above_one_that_doesnt_is_found() -> None:
    machine = Scripted(lambda batch: batch <= 50 or batch in (52, 54))
    found = Searching(machine, most=1000).find(50)
    assert found.batch == 54
    assert {55, 56, 57} <= set(machine.tried)
    assert found.refusal is not None
    assert found.refusal.batch == 55


def test_after_a_failed_proof_the_largest_size_whose_proof_runs_is_found() -> None:
    machine = Scripted(lambda batch: batch <= 50, proves=lambda batch: batch <= 43)
    found = Searching(machine, most=1000).find(60)
    assert found.batch == 43
    assert machine.proved[0] == 50
    assert found.proof is not None
    assert found.proof.batch == 43
    assert found.refusal is not None
    assert found.refusal.batch == 44


def test_when_every_proof_fails_the_answer_is_0() -> None:
    found = Searching(Scripted(lambda batch: batch <= 9, proves=lambda batch: False), most=1000).find(9)
    assert (found.batch, found.proof) == (0, None)


def test_no_batch_above_the_most_is_tried() -> None:
    machine = Scripted(lambda batch: True)
    assert Searching(machine, most=300).find(1000).batch == 300
    assert max(machine.tried) == 300


def test_the_knee_is_the_smallest_size_within_five_percent_of_the_best() -> None:
    assert (
        knee_of([BatchSpeed(batch=b, images_per_second=s) for b, s in ((8, 80), (16, 94), (32, 95), (64, 100))]) == 32
    )
    assert knee_of([]) is None


def test_powers_of_two_below_the_answer_are_timed_and_the_knee_marked() -> None:
    largest = measure_max_batch(
        Tracer(MemoryConfig(model=ModelConfig(name="null"))),
        Scripted(lambda batch: batch <= 300),
        name="x",
        memory_bytes=1 << 30,
        guess=300,
    )
    assert {8, 16, 32, 64, 128, 256, 300} <= {speed.batch for speed in largest.speeds}
    assert max(speed.batch for speed in largest.speeds) == 300
    assert largest.knee_batch == 128
    assert largest.proved
    assert largest.stopped_by == "out of memory: x"


def test_batch_1_that_does_not_fit_has_a_remedy() -> None:
    largest = measure_max_batch(
        Tracer(MemoryConfig(model=ModelConfig(name="null"))),
        Scripted(lambda batch: False),
        name="x",
        memory_bytes=1 << 30,
        guess=5,
    )
    assert (largest.max_batch, largest.proved, largest.speeds) == (0, False, ())
    assert largest.help is not None
    assert "--precision bf16" in largest.help
    assert 1 in largest.tested


def test_steps_that_fail_for_another_reason_than_memory_raise_a_model_error() -> None:
    tracer = Tracer(MemoryConfig(model=ModelConfig(name="null")))
    with pytest.raises(ModelError, match="null doesn't train at batch 1: failed: x"):
        measure_max_batch(tracer, Scripted(lambda batch: False, kind="failed"), name="x", memory_bytes=1 << 30, guess=5)


class Processes:
    """Scripted processes. ends: for each process, how it ends at which batch size."""

    def __init__(self, fits: int, ends: Iterable[dict[int, Outcome]] = ()) -> None:
        self.fits = fits
        self.ends = list(ends)
        self.started = 0
        self.closed = 0
        self.asked: list[tuple[int, int, bool]] = []

    def start(self) -> "Process":
        self.started += 1
        return Process(self, self.started)


class Process:
    def __init__(self, all_of_them: Processes, number: int) -> None:
        self.all, self.number = all_of_them, number

    def ask(self, *arguments: Any, timeout_seconds: float) -> Outcome:
        batch, proof = arguments
        self.all.asked.append((self.number, batch, proof))
        ends = self.all.ends[self.number - 1] if self.number <= len(self.all.ends) else {}
        if batch in ends:
            return ends[batch]
        if batch > self.all.fits:
            return Outcome(kind="out of memory", value="the card is full")
        return Outcome(kind="done", value=BatchTrial(batch=batch, kind="ran"))

    def close(self) -> None:
        self.all.closed += 1


def test_one_process_runs_several_trials_and_the_proof_has_its_own() -> None:
    processes = Processes(100)
    trials = Trials(processes.start, label="null")
    assert all(trials.trial(batch).ran for batch in (10, 20, 30))
    assert processes.started == 1
    assert trials.prove(30).ran
    assert (processes.started, processes.closed) == (2, 2)
    assert processes.asked[-1] == (2, 30, True)


def test_a_size_that_fails_in_a_used_process_is_tried_again_in_a_fresh_one() -> None:
    processes = Processes(100, [{50: Outcome(kind="out of memory")}])
    trials = Trials(processes.start, label="null")
    trials.trial(10)
    assert trials.trial(50).ran
    assert processes.asked == [(1, 10, False), (1, 50, False), (2, 50, False)]
    assert trials.trial(200).kind == "out of memory"
    assert trials.trial(201).kind == "out of memory"  # in a fresh process at once: no second try
    assert [asked[1] for asked in processes.asked[3:]] == [200, 200, 201]


@pytest.mark.parametrize("kind", ["died", "timed out", "failed"])
def test_a_process_that_fails_is_replaced_and_the_search_continues(kind: str) -> None:
    end = Outcome(kind=kind, value=-9)  # type: ignore[arg-type]
    processes = Processes(100, [{104: end, 90: end}, {104: end}])
    trials = Trials(processes.start, label="null")
    found = Searching(trials, most=1000).find(90)
    trials.close()
    assert found.batch == 100
    assert found.proof is not None
    assert processes.started == processes.closed


def test_the_exit_code_of_a_process_that_dies_is_reported() -> None:
    trial = Trials(Processes(9, [{5: Outcome(kind="died", value=-9)}]).start, label="null").trial(5)
    assert (trial.kind, trial.why) == ("died", "exit code -9")
