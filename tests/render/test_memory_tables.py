"""Tables of `cifar profile-memory`, compared in full at 80 and at 120 columns."""

from dataclasses import fields, replace

import pytest
from rich.table import Table

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.results import (
    BatchSpeed,
    FitCheck,
    HelpReport,
    MaxBatch,
    MemoryTerms,
    ModuleMemory,
    PeakMemory,
    Remedy,
)
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig
from cifar_cli.render import memory_tables
from tests.golden import Golden, rendered

MIB = 1 << 20


def peak(model: str, batch: int, *, scale: int = 1, module: str = "features.0") -> PeakMemory:
    """A predicted peak whose terms add up: 652 MiB of memory without tensors and 288 MiB times `scale` in tensors."""
    terms = MemoryTerms(
        weights_bytes=16 * MIB * scale,
        averaged_weights_bytes=16 * MIB * scale,
        gathered_weights_bytes=0,
        gradients_bytes=3 * MIB * scale,
        gradient_buckets_bytes=3 * MIB * scale,
        optimizer_bytes=32 * MIB * scale,
        activations_bytes=204 * MIB * scale,
        recomputed_activations_bytes=10 * MIB * scale,
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


def test_what_would_help_is_ranked(golden: Golden) -> None:
    check = FitCheck(
        model=LONG, batch=4096, gpu="T4", memory_bytes=15 << 30, needed_bytes=20 << 30, even_bytes=19 << 30, help="…"
    )
    remedies = (
        Remedy(options="--devices 8 --strategy fsdp", needed_bytes=9 << 30, saved_bytes=11 << 30, fits=True),
        Remedy(options="--optimizer sgd", needed_bytes=19 << 30, saved_bytes=1 << 30, fits=False),
    )
    why = ("--grad-checkpointing: null has no activation checkpointing",)
    found = HelpReport(check=check, remedies=remedies, not_possible=why)
    golden.tables("memory/what-would-help", memory_tables.what_would_help(found))


def test_the_step_is_named_with_everything_that_was_asked_for_or_chosen() -> None:
    hybrid = MemoryConfig(model=ModelConfig(name="hybrid", trim_backbone=True))
    asked = StepConfig(optimizer="sgd", ema_decay=0.9, freeze="backbone")
    busy = replace(hybrid, step=asked, devices=4, strategy="fsdp", accumulate=2, grad_checkpointing=True, compile=True)
    lines = [str(line) for line in memory_tables.steps([busy], auto=True)]
    assert lines == [
        "step: training with sgd, contiguous, frozen backbone, averaged weights, batch in 2 parts, activation "
        "checkpointing, compiled, 4 GPUs with fsdp",
        "precision: auto, what cifar train probably chooses; --precision decides it",
        "hybrid: trimmed, as in cifar train",
    ]
    scored = replace(hybrid, model=ModelConfig(name="hybrid"), evaluate=True)
    assert [str(line) for line in memory_tables.steps([scored], auto=True)] == [
        "step: a forward pass without gradients, contiguous",
        "precision: float32, as in cifar evaluate",
        "hybrid: with the full backbone",
    ]
    assert len(memory_tables.steps([replace(busy, model=ModelConfig(name="null"))], auto=False)) == 1


def test_precisions_that_differ_between_cards_are_a_column(golden: Golden) -> None:
    check = FitCheck(
        model=LONG,
        batch=4096,
        gpu="T4",
        memory_bytes=15 << 30,
        needed_bytes=9 << 30,
        even_bytes=8 << 30,
        precision="16",
    )
    peaks = [replace(PEAKS[0], precision="16"), replace(PEAKS[0], precision="bf16")]
    golden.tables(
        "memory/precisions",
        *memory_tables.report(
            peaks, [replace(LARGEST, peak=peaks[0]), LARGEST], [check, replace(check, precision="32")]
        ),
    )


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
    assert len(figures) == len(fields(MemoryTerms))  # without gathered weights, which are zero
    assert "gathered weights" not in names
    assert names[:-2] == [str(name) for name in columns(memory_tables.notes([found]))[0]]
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
