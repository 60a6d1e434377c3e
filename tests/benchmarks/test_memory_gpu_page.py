import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, estimate
from cifar_cli.core.memory.results import PeakMemory, Trial
from cifar_cli.core.memory.worker import Outcome
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ResourceError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory_gpu.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, on a pretended GPU of 1 GiB that needs a tenth less than predicted and runs up to batch 200."""
    spec = importlib.util.spec_from_file_location("memory_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "memory_gpu", module)
    spec.loader.exec_module(module)

    def measure(config: MemoryConfig, batch: int, *, device: str) -> PeakMemory:
        assert device == "cuda"
        if batch > 200:
            raise ResourceError(f"{batch} images of null don't run on this GPU: out of memory")
        predicted = estimate(config, batch)
        return replace(predicted, method="measure", peak_reserved_bytes=int(predicted.peak_reserved_bytes / 1.1))

    monkeypatch.setattr(module, "measure", measure)
    card = SimpleNamespace(name="Pretended", total_memory=1 << 30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: card)
    monkeypatch.setattr(module, "has_gpu", lambda: True)
    return module


def run(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["memory_gpu.py", *map(str, arguments)])
    return int(benchmark.main())


def test_the_page_holds_every_comparison_and_their_summary(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark, "MODELS", ("null",))
    page = tmp_path / "page.md"
    assert run(benchmark, monkeypatch, "--batches", "8,400", "--page", page, "--skip-largest") == 0
    text = page.read_text()
    assert sum(line.startswith("| null |") for line in text.splitlines()) == 3 * 2 * 2
    assert "6 of 12 steps ran" in text
    assert "median error 10.0%, worst 10.0%" in text
    assert "Too little predicted in 0 of 6 (0%)" in text
    assert "- null, 16, sgd, batch 400: 400 images of null don't run on this GPU: out of memory" in text
    assert "Pretended, 1,024 MiB" in text


class UpTo200:
    """Answers as a process on that GPU would."""

    def ask(self, batch: int, proof: bool, /, *, timeout_seconds: float) -> Outcome:
        if batch > 200:
            return Outcome(kind="out of memory", value="told to")
        return Outcome(kind="done", value=Trial(batch=batch, kind="ran", peak_reserved_bytes=batch))

    def close(self) -> None:
        pass


def test_the_largest_batch_is_searched_and_proved_as_the_product_does_it(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar_cli.core.memory.measure.Worker", lambda function: UpTo200())
    largest = benchmark.compare_largest(Tracer(MemoryConfig(model=ModelConfig(name="null"))))
    assert largest.found == 200
    assert largest.predicted > 200
    assert largest.stopped_by == "out of memory: told to"
    text = benchmark.page([], [largest], machine="a pretended GPU")
    assert "1 of 1 searches ended at memory that ran out and was reported" in text
    assert "| null | 32 | adam | " in text


def test_without_a_gpu_the_script_says_so_and_leaves_the_page_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("not measured on a GPU yet\n")
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--page", page], env=os.environ | hidden, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no CUDA GPU" in done.stderr
    assert page.read_text() == "not measured on a GPU yet\n"
