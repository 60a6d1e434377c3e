"""Memory results as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from cifar_cli.core.memory.results import KNEE_SHARE, MaxBatch, MemoryTerms, PeakMemory

MIB = 1024**2
GIB = 1024**3
WIDTH = 80  # terms of more peaks than fit into it go to a further table
_TERM_WIDTH = len("allocator overhead")
_CELL_PADDING = 3  # a blank on both sides and the line


def report(peaks_found: Sequence[PeakMemory], largest: Sequence[MaxBatch]) -> list[Table]:
    """Every table that has a row."""
    tables = [peaks(peaks_found)] if peaks_found else []
    tables.extend(terms(group) for group in _side_by_side([peak for peak in peaks_found if peak.terms is not None]))
    if largest:
        tables.append(largest_batches(largest))
    tables.extend(speeds(found) for found in largest if found.speeds)
    return tables


def peaks(results: Iterable[PeakMemory]) -> Table:
    """One row for each model, batch size and method. A model or a method that all rows share stands in the title."""
    rows = list(results)
    methods = [f"{peak.method}, host" if peak.host else peak.method for peak in rows]
    one_model, one_method = len({peak.model for peak in rows}) == 1, len(set(methods)) == 1
    with_slope = any(peak.bytes_per_image is not None for peak in rows)
    title = "Peak memory of a training step" + (f" of {rows[0].model}" if one_model else "") + ", MiB"
    title += f" ({methods[0]})" if one_method else ""
    table = Table(title=title, min_width=min(len(title), WIDTH))
    if not one_model:
        table.add_column("model", overflow="fold")
    table.add_column("batch", justify="right", no_wrap=True)
    if not one_method:
        table.add_column("method")
    for name in ("allocated", "reserved", "total", *(("per image",) if with_slope else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for peak, method in zip(rows, methods, strict=True):
        slope = "-" if peak.bytes_per_image is None else f"{peak.bytes_per_image / MIB:.2f}"
        table.add_row(
            *(() if one_model else (peak.model,)),
            str(peak.batch),
            *(() if one_method else (method,)),
            *(_mib(size) for size in (peak.peak_allocated_bytes, peak.peak_reserved_bytes, peak.device_bytes)),
            *((slope,) if with_slope else ()),
        )
    return table


def terms(results: Iterable[PeakMemory]) -> Table:
    """What the memory at each peak consists of, one column for each peak; the rows add up to the total."""
    table = Table(title="Memory at the peak, MiB")
    table.add_column("term", no_wrap=True)
    columns: list[MemoryTerms] = []
    holders: list[str] = []
    for peak in results:
        if peak.terms is not None:
            table.add_column(f"{peak.model}\nbatch {peak.batch}", justify="right", overflow="fold")
            columns.append(peak.terms)
            holders.append(_largest_module(peak))
    for name in MemoryTerms.__slots__:
        table.add_row(
            name.removesuffix("_bytes").replace("_", " "), *(_mib(getattr(column, name)) for column in columns)
        )
    table.add_section()
    table.add_row("total", *(_mib(column.total_bytes) for column in columns))
    table.add_row("largest module", *holders)
    return table


def largest_batches(results: Iterable[MaxBatch]) -> Table:
    """One row for each model, device and method. What is the same in every row stands in the title."""
    rows = list(results)
    methods = sorted({found.method for found in rows})
    devices = {(found.gpu, found.memory_bytes): f"{found.gpu}, {_gib(found.memory_bytes)} GiB" for found in rows}
    several_methods, several_devices = len(methods) > 1, len(devices) > 1
    title = "Largest batch" if several_devices else f"Largest batch on {next(iter(devices.values()))}"
    title += "" if several_methods else f" ({methods[0]})"
    table = Table(title=title, min_width=len(title))
    if any(found.proved for found in rows):
        table.caption = "measured: a fresh process ran 5 steps, a partial batch and a validation pass"
    table.add_column("model", overflow="fold")
    if several_devices:
        table.add_column("device", overflow="fold")
        table.add_column("GiB", justify="right", no_wrap=True)
    if several_methods:
        table.add_column("method")
    for name in ("batch", "reserved\nMiB", "free\nMiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for found in rows:
        table.add_row(
            found.model,
            *((found.gpu, _gib(found.memory_bytes)) if several_devices else ()),
            *((found.method,) if several_methods else ()),
            str(found.max_batch) if found.max_batch else "none",
            f"{found.peak.peak_reserved_bytes / MIB:,.0f}",
            f"{found.margin_left_bytes / MIB:,.0f}",
        )
    return table


def speeds(found: MaxBatch) -> Table:
    """Throughput by batch size, with the knee marked."""
    table = Table(title=f"{found.model}: throughput", caption=f"knee: within {1 - KNEE_SHARE:.0%} of the best images/s")
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("images/s", justify="right", no_wrap=True)
    table.add_column("remark", min_width=len("knee, largest"))
    marks = {found.max_batch: "largest", found.knee_batch: "knee"}
    if found.knee_batch == found.max_batch:
        marks[found.max_batch] = "knee, largest"
    for speed in found.speeds:
        table.add_row(str(speed.batch), f"{speed.images_per_second:,.0f}", marks.get(speed.batch, ""))
    return table


def _side_by_side(results: Iterable[PeakMemory]) -> list[list[PeakMemory]]:
    """Peaks in their order, in groups whose columns fit beside each other into WIDTH."""
    groups: list[list[PeakMemory]] = []
    left = 0
    for peak in results:
        header = f"batch {peak.batch}"
        width = max(map(len, (peak.model, header, _largest_module(peak), "10,000.0"))) + _CELL_PADDING
        if not groups or width > left:
            groups.append([])
            left = WIDTH - _TERM_WIDTH - _CELL_PADDING - 1
        groups[-1].append(peak)
        left -= width
    return groups


def _largest_module(peak: PeakMemory) -> str:
    return peak.largest_modules[0].name if peak.largest_modules else "-"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.3f}"


def _mib(size: float) -> str:
    return f"{size / MIB:,.1f}" if size < 10_000 * MIB else f"{size / MIB:,.0f}"
