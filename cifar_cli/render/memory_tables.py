"""Memory results as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from cifar_cli.core.profiling.results import MaxBatch, MemoryTerms, PeakMemory

MIB = 1024**2
GIB = 1024**3
TERMS_ABREAST = 3  # columns of figures beside each other at 80 characters


def peaks(results: Iterable[PeakMemory]) -> Table:
    """One line for each batch size. The method is a column only where methods differ."""
    rows = list(results)
    methods = [f"{peak.method} on the host" if peak.host else peak.method for peak in rows]
    same = len(set(methods)) == 1
    table = Table(title="Peak memory of a training step, MiB" + (f" ({methods[0]})" if same else ""))
    table.add_column("model", overflow="fold")
    table.add_column("batch", justify="right", no_wrap=True)
    if not same:
        table.add_column("method")
    for name in ("allocated", "reserved", "in all", "per image"):
        table.add_column(name, justify="right", no_wrap=True)
    for peak, method in zip(rows, methods, strict=True):
        table.add_row(
            peak.model,
            str(peak.batch),
            *(() if same else (method,)),
            *(_mib(size) for size in (peak.peak_allocated_bytes, peak.peak_reserved_bytes, peak.device_bytes)),
            "-" if peak.bytes_per_image is None else f"{peak.bytes_per_image / MIB:.2f}",
        )
    return table


def terms(results: Iterable[PeakMemory]) -> Table:
    """What the memory at each peak consists of, a column a peak; the lines add up to the last."""
    table = Table(title="Memory at the peak, MiB")
    table.add_column("term", no_wrap=True)
    columns: list[MemoryTerms] = []
    holders: list[str] = []
    for peak in results:
        if peak.terms is not None:
            table.add_column(f"{peak.model}\nbatch {peak.batch}", justify="right", overflow="fold")
            columns.append(peak.terms)
            holders.append(peak.largest_modules[0].name if peak.largest_modules else "-")
    for name in MemoryTerms.__slots__:
        table.add_row(
            name.removesuffix("_bytes").replace("_", " "), *(_mib(getattr(column, name)) for column in columns)
        )
    table.add_section()
    table.add_row("in all", *(_mib(column.total_bytes) for column in columns))
    table.add_row("most held by", *holders)
    return table


def largest_batches(results: Iterable[MaxBatch]) -> Table:
    """One line for each model and card."""
    found_by_method = list(results)
    methods = " and ".join(sorted({found.method for found in found_by_method}))
    table = Table(title=f"Largest batch ({methods})")
    table.add_column("model", overflow="fold")
    table.add_column("GPU", overflow="fold")
    for name in ("GiB", "batch", "reserved MiB", "left MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for found in found_by_method:
        table.add_row(
            found.model,
            found.gpu,
            f"{found.memory_bytes / GIB:.1f}",
            str(found.max_batch) if found.max_batch else "none",
            f"{found.peak.peak_reserved_bytes / MIB:,.0f}",
            f"{found.margin_left_bytes / MIB:,.0f}",
        )
    return table


def report(peaks_found: Sequence[PeakMemory], largest: Sequence[MaxBatch]) -> list[Table]:
    """Every table that has a line."""
    tables = []
    if peaks_found:
        tables.append(peaks(peaks_found))
    explained = [peak for peak in peaks_found if peak.terms is not None]
    for first in range(0, len(explained), TERMS_ABREAST):
        tables.append(terms(explained[first : first + TERMS_ABREAST]))
    if largest:
        tables.append(largest_batches(largest))
    return tables


def _mib(size: float) -> str:
    return f"{size / MIB:,.1f}" if size < 10_000 * MIB else f"{size / MIB:,.0f}"
