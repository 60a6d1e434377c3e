"""The model of training on many GPUs: its formulas, and that the page shows its table."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig

ROOT = Path(__file__).parents[2]
SCRIPT, PAGE = ROOT / "benchmarks" / "scaling_model.py", ROOT / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("scaling_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling_model"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["scaling_model"]


@pytest.mark.slow
def test_the_page_shows_the_table_that_the_script_writes(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "scaling.md"
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(benchmark.TABLE_BEGINS)[0], text.split(benchmark.TABLE_ENDS)[1]
    copy.write_text(f"{before}{benchmark.TABLE_BEGINS}\n{benchmark.TABLE_ENDS}{after}", encoding="utf-8")
    assert benchmark.main(["--write", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == text
    table = capsys.readouterr().out
    assert table.count("\n") == 2 + 4 * 5
    assert table in text


def test_a_message_in_a_ring_takes_the_time_of_its_hops_and_its_bytes(benchmark: ModuleType) -> None:
    low_latency, simple = benchmark.RINGS
    # 14 hops over NVLink, and 1.75 times the bytes at 370 GB/s
    assert benchmark.ring_seconds(37e6, 8, simple) == pytest.approx(8.4e-6 + 14 * 3.4e-6 + 1.75 * 1e-4)
    # 126 hops, of which 14 between 8 nodes
    expected = 6.6e-6 + 112 * 1e-6 + 14 * 2.7e-6 + 2 * 63 / 64 * 2.04e6 / 20.4e9
    assert benchmark.ring_seconds(2.04e6, 64, low_latency) == pytest.approx(expected)
    assert benchmark.ring_seconds(0, 8, low_latency, rounds=1) == pytest.approx(6.6e-6 + 7 * 0.6e-6)


def test_a_message_in_a_tree_passes_the_nodes_in_logarithmically_many_hops(benchmark: ModuleType) -> None:
    low_latency, _ = benchmark.TREES
    assert benchmark.tree_seconds(0, 512, low_latency) == pytest.approx(6.8e-6 + 2 * (7 * 1e-6 + 6 * 5e-6))


def test_the_faster_algorithm_is_taken(benchmark: ModuleType) -> None:
    assert benchmark.all_reduce(8, 8)[1] == "ring, LL"
    assert benchmark.all_reduce(1e9, 8)[1] == "ring"
    assert benchmark.all_reduce(8, 512)[1] == "tree, LL"


def test_the_host_message_goes_twice_around_all_processes(benchmark: ModuleType) -> None:
    assert benchmark.host_message_seconds(8) == pytest.approx(14 * 10e-6)
    assert benchmark.host_message_seconds(16) == pytest.approx(28 * 10e-6 + 2 * 25e-6)


def test_gradients_are_four_bytes_for_each_parameter(benchmark: ModuleType) -> None:
    config = ModelConfig(name="null")
    parameters = sum(parameter.numel() for parameter in build_model(config, seed=0).parameters())
    assert benchmark.counted(config, "null").gradient_bytes == 4 * parameters


def test_more_gpus_or_fewer_images_never_raise_the_efficiency(benchmark: ModuleType) -> None:
    model = benchmark.Model(name="any", gradient_bytes=4_000_000, flops_per_image=1e8, batch_norm_channels=(64, 128))

    def efficiency(gpus: int, images: int) -> float:
        return float(benchmark.Row(model=model, gpus=gpus, images=images, share=0.05).efficiency)

    by_gpus = [efficiency(gpus, 512) for gpus in (8, 64, 512)]
    by_images = [efficiency(64, images) for images in (4096, 512, 64)]
    for values in (by_gpus, by_images):
        assert values == sorted(values, reverse=True)
        assert all(0 < value < 1 for value in values)
    assert len(set(by_gpus)) == 3
