from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from cifar_cli.core.memory.results import MaxBatch, MemoryTerms, ModuleMemory, PeakMemory, Speed
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


def test_the_speeds_of_a_measured_search_mark_the_knee_and_the_largest() -> None:
    speeds = tuple(Speed(batch=2**k, images_per_second=9000 * min(1.0, 2**k / 512)) for k in range(3, 13))
    measured = replace(LARGEST, method="measure", gpu="NVIDIA GeForce RTX 4060 Ti", max_batch=4096, speeds=speeds)
    estimate, text = replace(LARGEST, gpu=measured.gpu), ""
    for table in memory_tables.report([], [estimate, replace(measured, proved=True)]):
        text += drawn(table)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    rows = {cells[1].strip(): cells[3].strip() for line in text.splitlines() if len(cells := line.split("│")) == 5}
    assert [(batch, mark) for batch, mark in rows.items() if mark] == [("512", "knee"), ("4096", "largest")]
    assert "within 5% of the best images/s" in " ".join(text.split())
    same = "".join(drawn(table) for table in memory_tables.report([], [replace(measured, max_batch=512)]))
    assert "knee, largest" in same
