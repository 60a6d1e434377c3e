"""What `benchmarks/train_gpu.py` makes of a trace and of the page, without a GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

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
