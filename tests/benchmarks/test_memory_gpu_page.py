"""The benchmark that compares predictions with a GPU, on a pretended GPU."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, estimate
from cifar_cli.core.memory.gpus import Gpu
from cifar_cli.core.memory.measure import Machine
from cifar_cli.core.memory.results import BatchTrial
from cifar_cli.core.memory.worker import Outcome
from cifar_cli.core.models.config import ModelConfig

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory_gpu.py"


class UpTo200:
    """A process on a GPU that runs up to batch 200 and needs less than predicted: the prediction is 10 % too high."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.config: MemoryConfig = function.args[0]  # type: ignore[attr-defined]

    def ask(self, *arguments: Any, timeout_seconds: float) -> Outcome:
        batch, _ = arguments
        if batch > 200:
            return Outcome(kind="out of memory", value="the card is full")
        reserved = int(estimate(self.config, batch).peak_reserved_bytes / 1.1)
        return Outcome(kind="done", value=BatchTrial(batch=batch, kind="ran", peak_reserved_bytes=reserved))

    def close(self) -> None:
        pass


MACHINE = Machine(gpu=Gpu(name="Pretended", memory_bytes=1 << 30, source="this test"), start=UpTo200)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("memory_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "memory_gpu", module)
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_every_comparison_and_their_summary(benchmark: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    options = ["--models", "null", "--batches", "8,400", "--page", str(page), "--skip-largest"]
    assert benchmark.main(options, MACHINE) == 0
    text = page.read_text()
    assert sum(line.startswith("| null |") for line in text.splitlines()) == 3 * 2 * 2
    assert "6 of 12 steps ran" in text
    assert "median error 10.0%, worst 10.0%" in text
    assert "The prediction is too low in 0 of 6 (0%)" in text
    assert "- null, 16, sgd, batch 400: 400 images of null don't run on this GPU: out of memory" in text
    assert "Pretended, 1,024 MiB" in text


def test_a_model_that_fails_is_named_and_what_was_measured_before_it_is_kept(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, real = tmp_path / "page.md", benchmark.Tracer
    seen: list[str] = []

    def tracer(config: MemoryConfig) -> Tracer:
        if config.model.name == "hybrid":
            seen.append(page.read_text())
            raise ModuleNotFoundError("No module named 'vit_pytorch'")
        made: Tracer = real(config)
        return made

    monkeypatch.setattr(benchmark, "Tracer", tracer)
    options = ["--models", "null,hybrid", "--batches", "8", "--page", str(page), "--skip-largest"]
    assert benchmark.main(options, MACHINE) == 0
    assert "| null | 32 | adam | 8 |" in seen[0]
    assert "- hybrid, 32, sgd: No module named 'vit_pytorch'" in page.read_text()


def test_the_largest_batch_is_searched_and_proved_as_in_profile_memory(benchmark: ModuleType) -> None:
    largest = benchmark.compare_largest(Tracer(MemoryConfig(model=ModelConfig(name="null"))), MACHINE)
    assert largest.found == 200
    assert largest.predicted > 200
    assert largest.stopped_by == "out of memory: the card is full"
    text = benchmark.page([], [largest], machine="a pretended GPU")
    assert "1 of 1 searches ended at memory that ran out and was reported" in text
    assert "| null | 32 | adam | " in text


@pytest.mark.parametrize("machine", [replace(MACHINE, gpu=None), MACHINE])
def test_without_a_measurement_no_page_is_written(benchmark: ModuleType, tmp_path: Path, machine: Machine) -> None:
    page = tmp_path / "page.md"
    options = ["--models", "null", "--batches", "400", "--page", str(page), "--skip-largest"]
    assert benchmark.main(options, machine) == 1
    assert not page.exists()


@pytest.mark.slow
def test_the_script_without_a_gpu_says_so_and_leaves_the_page_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("figures of an earlier run\n")
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--page", page], env=os.environ | hidden, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no CUDA GPU" in done.stderr
    assert page.read_text() == "figures of an earlier run\n"
