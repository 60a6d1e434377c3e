"""What `benchmarks/train_gpu.py` makes of a trace and of the page, without a GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.errors import CifarError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("train_gpu", BENCHMARKS / "train_gpu.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_overlapping_kernels_count_once(benchmark: ModuleType) -> None:
    spans = [(0, 10, "kernel"), (5, 10, "gpu_memcpy"), (20, 5, "kernel"), (0, 100, "cpu_op"), (22, 2, "kernel")]
    events = [{"ts": start, "dur": length, "cat": kind} for start, length, kind in spans]
    assert benchmark.idle_share([*events, {"name": "no span"}]) == pytest.approx(5 / 25)
    assert benchmark.idle_share([]) == 0


def test_the_section_between_the_marks_is_replaced(benchmark: ModuleType) -> None:
    page = f"# Page\n{benchmark.START}\nnot measured\n{benchmark.END}\nafter\n"
    changed = benchmark.with_section(page, ["new"])
    assert changed == f"# Page\n{benchmark.START}\nnew\n{benchmark.END}\nafter\n"


def test_without_a_gpu_the_page_stays(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("as it was")
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["train_gpu.py", "--page", str(page)])
    assert benchmark.main() == 1
    assert page.read_text() == "as it was"
    assert "no CUDA GPU" in capsys.readouterr().err


def test_every_row_is_in_the_page_before_the_next_one_is_made(benchmark: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n{benchmark.START}\nnot measured\n{benchmark.END}\nafter\n")

    def lines() -> Iterator[str]:
        yield "| null |"
        assert "| null |" in page.read_text()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark.write_as_they_come(lines(), page)
    assert page.read_text() == f"# Page\n{benchmark.START}\n| null |\n{benchmark.END}\nafter\n"


@pytest.mark.parametrize("error", [ImportError("No module\nnamed 'vit_pytorch'"), CifarError("no 'x'", remedy="y")])
def test_a_model_that_cannot_be_trained_is_a_row_with_the_reason(benchmark: ModuleType, error: Exception) -> None:
    def make() -> str:
        raise error

    row = benchmark.row_or_reason(make, "| hybrid |", empty=2)
    assert row == f"| hybrid | not measured: {' '.join(str(error).split())} | | |"


def test_the_cost_of_determinism_is_that_of_the_kernels_in_the_same_precision(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(config: TrainConfig) -> SimpleNamespace:
        rate = 1000 if config.precision == "auto" else 400
        return SimpleNamespace(images_per_second=rate * (0.75 if config.deterministic else 1))

    monkeypatch.setattr(benchmark, "train", trained)
    row = benchmark._cost_of_determinism("null", DataConfig(dataset="shapes"), 20.0)
    assert row == "| null | 1,000 | 400 | 300 | 25.0% |"


@pytest.mark.slow
def test_the_scripts_start_where_packages_of_other_commands_are_missing() -> None:
    """The figures of `null` need neither albumentations nor vit-pytorch nor torchinfo."""
    program = """
import sys
for name in ("albumentations", "vit_pytorch", "torchinfo"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import memory_gpu, train_gpu, torch
from bare_step import bare_rate
from cifar_cli.core.training.results import Numerics
print(bare_rate("null", Numerics(precision="32", memory_format="channels-last"), batch=2))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, BENCHMARKS], capture_output=True, text=True, check=False, timeout=300
    )
    assert float(done.stdout) > 0, done.stderr
