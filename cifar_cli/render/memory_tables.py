"""Memory results as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from cifar_cli.core.memory.results import KNEE_SHARE, MaxBatch, MemoryTerms, PeakMemory

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
    """One line for each model, card and method."""
    rows = list(results)
    methods = sorted({found.method for found in rows})
    several = len(methods) > 1
    table = Table(title="Largest batch" if several else f"Largest batch ({methods[0]})")
    if any(found.proved for found in rows):
        table.caption = "measured: a fresh process ran 5 steps, a partial batch and a validation pass at that size"
    table.add_column("model", overflow="fold")
    table.add_column("device", overflow="fold")
    if several:
        table.add_column("method")
    for name in ("GiB", "batch", "reserved MiB", "left MiB"):
        table.add_column(name, justify="right", no_wrap=not several or name == "batch")
    for found in rows:
        table.add_row(
            found.model,
            found.gpu,
            *((found.method,) if several else ()),
            f"{found.memory_bytes / GIB:.1f}" if found.memory_bytes >= GIB else f"{found.memory_bytes / GIB:.3f}",
            str(found.max_batch) if found.max_batch else "none",
            f"{found.peak.peak_reserved_bytes / MIB:,.0f}",
            f"{found.margin_left_bytes / MIB:,.0f}",
        )
    return table


def speeds(found: MaxBatch) -> Table:
    """Images a second at the sizes that were run, with the knee marked."""
    table = Table(
        title=f"{found.model} on {found.gpu}: speed by batch",
        caption=f"knee: the smallest size run within {1 - KNEE_SHARE:.0%} of the best images/s",
    )
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("images/s", justify="right", no_wrap=True)
    table.add_column("")
    marks = {found.max_batch: "largest", found.knee_batch: "knee"}
    if found.knee_batch == found.max_batch:
        marks[found.max_batch] = "knee, largest"
    for speed in found.speeds:
        table.add_row(str(speed.batch), f"{speed.images_per_second:,.0f}", marks.get(speed.batch, ""))
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
    tables.extend(speeds(found) for found in largest if found.speeds)
    return tables


def _mib(size: float) -> str:
    return f"{size / MIB:,.1f}" if size < 10_000 * MIB else f"{size / MIB:,.0f}"
