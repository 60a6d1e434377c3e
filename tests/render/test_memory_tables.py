"""Tables of `cifar profile-memory`, compared in full at 80 and at 120 columns."""

from dataclasses import fields, replace

import pytest
from rich.table import Table

from cifar_cli.core.memory.results import BatchSpeed, FitCheck, MaxBatch, MemoryTerms, ModuleMemory, PeakMemory
from cifar_cli.render import memory_tables
from tests.golden import Golden, rendered

MIB = 1 << 20


def peak(model: str, batch: int, *, scale: int = 1, module: str = "features.0") -> PeakMemory:
    """A predicted peak whose terms add up: 652 MiB of memory without tensors and 288 MiB times `scale` in tensors."""
    terms = MemoryTerms(
        weights_bytes=16 * MIB * scale,
        averaged_weights_bytes=16 * MIB * scale,
        gradients_bytes=3 * MIB * scale,
        optimizer_bytes=32 * MIB * scale,
        activations_bytes=217 * MIB * scale,
        input_bytes=2 * MIB * scale,
        temporaries_bytes=2 * MIB * scale,
        workspace_bytes=80 * MIB,
        allocator_overhead_bytes=32 * MIB,
        context_bytes=500 * MIB,
        not_derived_bytes=40 * MIB,
    )
    allocated = (288 * scale + 80) * MIB
    return PeakMemory(
        model=model,
        batch=batch,
        method="estimate",
        peak_allocated_bytes=allocated,
        peak_reserved_bytes=allocated + 32 * MIB,
        device_bytes=allocated + 572 * MIB,
        terms=terms,
        largest_modules=(ModuleMemory(name=module, held_bytes=9 * MIB),),
    )


def measured(peak: PeakMemory, **changes: object) -> PeakMemory:
    return replace(peak, method="measure", terms=None, largest_modules=(), **changes)  # type: ignore[arg-type]


LONG = "mobilenetv3_large_100"
PEAKS = (
    peak("null", 128),
    peak("cnn", 128, scale=2, module="blocks.1.0.bn1"),
    peak("hybrid", 128, scale=3, module="vit.transformer"),
    peak(LONG, 4096, scale=400, module="blocks.2.0.conv_pw"),
)
LARGEST = MaxBatch(
    model=LONG,
    gpu="RTX 4060 Ti",
    memory_bytes=79 << 30,
    max_batch=178_720,
    method="estimate",
    peak=peak(LONG, 178_720, scale=270),
    margin_left_bytes=6 * MIB,
    even_batch=190_000,
    tested=(178_720, 178_721),
)
SPEEDS = tuple(BatchSpeed(batch=2**k, images_per_second=9000 * min(1.0, 2**k / 512)) for k in range(3, 13))
MEASURED = replace(
    LARGEST,
    method="measure",
    even_batch=None,
    gpu="NVIDIA GeForce RTX 4060 Ti",
    max_batch=4096,
    peak=measured(peak(LONG, 4096, scale=270)),
    speeds=SPEEDS,
    proved=True,
)
HOST = replace(MEASURED, model="null", gpu="this host", memory_bytes=64 * MIB, max_batch=512, proved=True)


def columns(table: Table) -> list[list[str]]:
    """The cells of each column, without the header."""
    return [list(column.cells) for column in table.columns]


def test_estimates_beside_their_measurements(golden: Golden) -> None:
    sizes = [replace(peak(LONG, 16), bytes_per_image=1.5 * MIB), replace(peak(LONG, 64), bytes_per_image=1.5 * MIB)]
    rows = [row for found in sizes for row in (found, measured(found, bytes_per_image=1.25 * MIB))]
    golden.tables("memory/estimate-vs-measure", memory_tables.peaks(rows))
    golden.tables("memory/models-estimate-vs-measure", memory_tables.peaks([PEAKS[0], measured(PEAKS[0]), *PEAKS[1:3]]))


def test_peaks_measured_on_the_host(golden: Golden) -> None:
    golden.tables("memory/peaks-host", memory_tables.peaks([measured(PEAKS[0], host=True)]))


def test_largest_batches_of_one_method(golden: Golden) -> None:
    nothing = replace(LARGEST, model="hybrid", gpu="RTX 3070", memory_bytes=512 * MIB, max_batch=0)
    golden.tables("memory/largest", memory_tables.largest_batches([LARGEST, nothing]))


def test_a_predicted_largest_batch_beside_the_measured_one(golden: Golden) -> None:
    predicted = replace(LARGEST, gpu=MEASURED.gpu)
    golden.tables("memory/largest-estimate-vs-measure", memory_tables.largest_batches([predicted, MEASURED]))


def test_the_largest_batch_on_the_host(golden: Golden) -> None:
    golden.tables("memory/largest-host", memory_tables.largest_batches([HOST]))


def test_whether_a_batch_fits_on_several_cards(golden: Golden) -> None:
    sizes = {"model": LONG, "batch": 4096, "needed_bytes": 20 << 30, "even_bytes": 19 << 30}
    checks = [
        FitCheck(gpu="T4", memory_bytes=15 << 30, help="try --precision bf16", **sizes),  # type: ignore[arg-type]
        FitCheck(gpu="RTX 3090", memory_bytes=24 << 30, **sizes),  # type: ignore[arg-type]
    ]
    golden.tables("memory/fits", memory_tables.fits(checks))


def test_throughput_by_batch_marks_the_knee_and_the_largest(golden: Golden) -> None:
    golden.tables("memory/speeds", memory_tables.speeds(MEASURED))


def test_one_mark_serves_a_knee_that_is_the_largest() -> None:
    marks = columns(memory_tables.speeds(replace(MEASURED, max_batch=512, speeds=SPEEDS[:7])))[2]
    assert marks == [""] * 6 + ["knee, largest"]


@pytest.mark.parametrize("found", PEAKS)
def test_the_terms_shown_add_up_to_the_total_and_that_is_the_peaks_total(found: PeakMemory) -> None:
    names, cells = columns(memory_tables.terms([found]))
    figures = [float(cell.replace(",", "")) for cell in cells[:-1]]
    assert names[-2:] == ["total", "largest module"]
    assert len(figures) == len(fields(MemoryTerms)) + 1
    assert sum(figures[:-1]) == figures[-1] == found.device_bytes / MIB
    total = columns(memory_tables.peaks([found]))[3]
    assert float(total[0].replace(",", "")) == figures[-1]


def test_terms_that_dont_fit_beside_each_other_are_in_two_tables(golden: Golden) -> None:
    tables = memory_tables.report(PEAKS, [])
    assert [len(table.columns) for table in tables] == [5, 1 + 3, 1 + 1, 2]
    golden.tables("memory/report", *tables)


def test_every_figure_of_the_tables_is_in_the_json() -> None:
    found = MEASURED.to_dict()
    shown = {"model", "gpu", "method", "memory_bytes", "max_batch", "peak_reserved_bytes", "margin_left_bytes"}
    assert shown <= set(found)
    assert found["images_per_second"][0] == {"batch": 8, "images_per_second": SPEEDS[0].images_per_second}
    assert found["knee_batch"] == 512
    assert set(PEAKS[0].to_dict()["terms"]) == {field.name for field in fields(MemoryTerms)}
    assert PEAKS[0].to_dict()["largest_modules"] == [{"name": "features.0", "held_bytes": 9 * MIB}]


def test_no_table_of_the_report_is_wider_than_80_columns() -> None:
    text = rendered(*memory_tables.report(PEAKS, [LARGEST, MEASURED]), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
