from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from cifar_cli.core.profiling.results import MaxBatch, MemoryTerms, ModuleMemory, PeakMemory
from cifar_cli.render import memory_tables

MIB = 1 << 20
TERMS = MemoryTerms(
    weights_bytes=16 * MIB,
    gradients_bytes=3 * MIB,
    optimizer_bytes=31 * MIB,
    activations_bytes=225 * MIB,
    input_bytes=2 * MIB,
    temporaries_bytes=2 * MIB,
    workspace_bytes=80 * MIB,
    allocator_overhead_bytes=21 * MIB,
    context_bytes=500 * MIB,
)
PEAK = PeakMemory(
    model="mobilenetv3_large_100",
    batch=128,
    method="estimate",
    peak_allocated_bytes=123_456 * MIB,
    peak_reserved_bytes=123_500 * MIB,
    device_bytes=124_000 * MIB,
    terms=TERMS,
    largest_modules=(ModuleMemory(name="blocks.1.0.bn1", held_bytes=9 * MIB),),
    bytes_per_image=1.5 * MIB,
)
LARGEST = MaxBatch(
    model="mobilenetv3_large_100",
    gpu="RTX 4060 Ti",
    memory_bytes=79 << 30,
    max_batch=178_720,
    method="estimate",
    peak=PEAK,
    margin_left_bytes=6 * MIB,
    tested=(178_720, 178_721),
)


def drawn(table: RenderableType, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("peaks", [[PEAK], [PEAK] * 3, [PEAK, replace(PEAK, method="measure", terms=None)]])
def test_nothing_is_cut_off_at_80_columns(peaks: list[PeakMemory]) -> None:
    text = "".join(drawn(table) for table in memory_tables.report(peaks, [LARGEST, replace(LARGEST, max_batch=0)]))
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    for wanted in ("mobilenetv3_large_100", "123,456", "blocks.1.0.bn1", "allocator overhead", "178720", "none"):
        assert wanted in text


def test_the_terms_shown_add_up_to_the_last_line() -> None:
    figures = [
        float(line.split("│")[2].replace(",", ""))
        for line in drawn(memory_tables.terms([PEAK])).splitlines()
        if line.startswith("│") and "most held" not in line
    ]
    assert sum(figures[:-1]) == figures[-1] == 880.0
    assert len(figures) == len(MemoryTerms.__slots__) + 1


def test_methods_become_a_column_only_where_they_differ() -> None:
    alone = drawn(memory_tables.peaks([PEAK]))
    both = drawn(memory_tables.peaks([PEAK, replace(PEAK, method="measure")]))
    assert "(estimate)" in alone
    assert "method" not in alone
    assert "method" in both
    assert "measure" in both


def test_models_beyond_three_go_to_a_second_table() -> None:
    assert len(memory_tables.report([PEAK] * 4, [])) == 1 + 2
