"""Memory results as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import GIB, MIB, MemoryConfig
from cifar_cli.core.memory.gpus import Gpu
from cifar_cli.core.memory.results import KNEE_SHARE, FitCheck, HelpReport, MaxBatch, MemoryTerms, PeakMemory
from cifar_cli.render.tables import new_table, table_of

WIDTH = 80  # terms of more peaks than fit into it go to a further table
_TERM_WIDTH = len("recomputed activations")
_CELL_PADDING = 3  # a blank on both sides and the line
_PRECISIONS: dict[Precision, str] = {"32": "float32", "bf16": "bf16", "16": "float16"}

_TERMS = {
    "weights": "parameters and buffers",
    "averaged weights": "a copy of them, for recipes that keep a moving average",
    "gathered weights": "those of the blocks that FSDP has gathered, and its buffers",
    "gradients": "one for each trained parameter, in float32",
    "gradient buckets": "copies in which gradients are averaged over the GPUs",
    "optimizer": "momentum, second moments, step counts",
    "activations": "tensors that the forward pass keeps for the backward pass",
    "recomputed activations": "those of one block, computed again in the backward pass",
    "input": "one batch of images and labels",
    "temporaries": "intermediate results that nothing keeps",
    "workspace": "scratch memory of cuBLAS and cuDNN, in part an assumption",
    "allocator overhead": "blocks that PyTorch's allocator holds and no tensor uses",
    "context": "the CUDA context with its kernels, an assumption",
    "not derived": "an allowance for what varies by driver, card and algorithm (--risk)",
}


def report(
    peaks_found: Sequence[PeakMemory],
    largest: Sequence[MaxBatch],
    checks: Sequence[FitCheck] = (),
    helps: Sequence[HelpReport] = (),
) -> list[RenderableType]:
    """Every table that has a row."""
    tables: list[RenderableType] = [peaks(peaks_found)] if peaks_found else []
    groups = _side_by_side([peak for peak in peaks_found if peak.terms is not None])
    tables.extend(terms(group) for group in groups)
    if groups:
        tables.append(notes(peaks_found))
    if checks:
        tables.append(fits(checks))
    tables.extend(what_would_help(found) for found in helps if found.remedies)
    if largest:
        tables.append(largest_batches(largest))
    tables.extend(speeds(found) for found in largest if found.speeds)
    return tables


def peaks(results: Iterable[PeakMemory]) -> Table:
    """One row for each model, batch size and method. A model or a method that all rows share is in the title."""
    rows = list(results)
    columns = {
        "model": [peak.model for peak in rows],
        "batch": [f"{peak.batch:,}" for peak in rows],
        "method": [f"{peak.method}, host" if peak.host else peak.method for peak in rows],
        "precision": [_PRECISIONS[peak.precision] for peak in rows],
        "allocated": [_mib(peak.peak_allocated_bytes) for peak in rows],
        "reserved": [_mib(peak.peak_reserved_bytes) for peak in rows],
        "total": [_mib(peak.device_bytes) for peak in rows],
        "per image": ["-" if peak.bytes_per_image is None else f"{peak.bytes_per_image / MIB:,.2f}" for peak in rows],
    }
    if set(columns["per image"]) == {"-"}:
        del columns["per image"]
    model = _shared(columns, "model")
    title = "Peak memory" + (f" of {model}" if model else "") + ", MiB" + _in_brackets(columns)
    return table_of(columns, words=("model", "method", "precision"), title=title, min_width=min(len(title), WIDTH))


def terms(results: Iterable[PeakMemory]) -> Table:
    """What the memory at each peak consists of, one column for each peak; the rows add up to the total."""
    shown = [(peak, peak.terms) for peak in results if peak.terms is not None]
    table = new_table(title="Memory at the peak, MiB")
    table.add_column("term", no_wrap=True)
    several = len({peak.precision for peak, _ in shown}) > 1
    for peak, _ in shown:
        precision = f"\n{_PRECISIONS[peak.precision]}" if several else ""
        table.add_column(f"{peak.model}\nbatch {peak.batch:,}{precision}", justify="right", overflow="fold")
    for name in _held([peak for peak, _ in shown]):
        table.add_row(_label(name), *(_mib(getattr(parts, name)) for _, parts in shown))
    table.add_section()
    table.add_row("total", *(_mib(parts.total_bytes) for _, parts in shown))
    table.add_row("largest module", *(_largest_module(peak) for peak, _ in shown))
    return table


def notes(results: Iterable[PeakMemory]) -> Table:
    """What each term contains that is not zero at every peak."""
    table = Table.grid(padding=(0, 2))
    for name in _held(results):
        table.add_row(Text(_label(name), style="dim"), Text(_TERMS[_label(name)], style="dim"))
    return table


def steps(configs: Iterable[MemoryConfig], *, auto: bool) -> list[RenderableType]:
    """The step that was profiled, in a line, and what was chosen for the user. auto: whether the precision was."""
    shown = list(configs)
    lines = [f"step: {_step(shown[0])}"]
    if auto and shown[0].evaluate:
        lines.append("precision: float32, as in cifar evaluate")
    elif auto:
        lines.append("precision: auto, what cifar train probably chooses; --precision decides it")
    lines += [
        f"hybrid: {'trimmed, as in cifar train' if config.model.trim_backbone else 'with the full backbone'}"
        for config in shown
        if config.model.name == "hybrid"
    ]
    return [Text(line, style="dim") for line in lines]


def _step(config: MemoryConfig) -> str:
    if config.evaluate:
        return f"a forward pass without gradients, {config.step.memory_format}"
    parts = {
        f"training with {config.step.optimizer}": True,
        config.step.memory_format: True,
        "frozen backbone": config.step.freeze == "backbone",
        "averaged weights": config.step.ema_decay is not None,
        f"batch in {config.accumulate} parts": config.accumulate > 1,
        "activation checkpointing": config.grad_checkpointing,
        "compiled": config.compile,
        f"{config.devices} GPUs with {'fsdp' if config.shards else 'ddp'}": config.devices > 1,
    }
    return ", ".join(text for text, applies in parts.items() if applies)


def fits(checks: Iterable[FitCheck]) -> Table:
    """One row for each model, batch size and card: whether it fits, and what is left."""
    rows = list(checks)
    columns = {
        "model": [check.model for check in rows],
        "card": [check.gpu for check in rows],
        "batch": [f"{check.batch:,}" for check in rows],
        "precision": [_PRECISIONS[check.precision] for check in rows],
        "fits": ["yes" if check.fits else "no" for check in rows],
        "needs\nMiB": [f"{check.needed_bytes / MIB:,.0f}" for check in rows],
        "middle\nMiB": [f"{check.even_bytes / MIB:,.0f}" for check in rows],
        "left\nMiB": [f"{check.left_bytes / MIB:,.0f}" if check.fits else "-" for check in rows],
    }
    model = _shared(columns, "model")
    title = "Does it fit" + (f": {model}" if model else "")
    title += _in_brackets({"method": ["estimate"]} | columns)
    if len(set(columns["precision"])) == 1:
        del columns["precision"]
    return table_of(columns, words=("model", "card", "precision", "fits"), title=title, min_width=len(title))


def what_would_help(found: HelpReport) -> Table:
    """One row for each change of the step, the one that saves the most first."""
    check = found.check
    columns = {
        "add": [remedy.options for remedy in found.remedies],
        "needs\nMiB": [f"{remedy.needed_bytes / MIB:,.0f}" for remedy in found.remedies],
        "saves\nMiB": [f"{remedy.saved_bytes / MIB:,.0f}" for remedy in found.remedies],
        "fits": ["yes" if remedy.fits else "no" for remedy in found.remedies],
    }
    title = (
        f"What would help batch {check.batch:,} of {check.model} on {check.gpu} (estimate)\n"
        f"it needs {check.needed_bytes / MIB:,.0f} of {check.memory_bytes / MIB:,.0f} MiB"
    )
    caption = "\n".join(f"not possible: {why}" for why in found.not_possible) or None
    table = table_of(columns, words=("add", "fits"), title=title, caption=caption)
    table.columns[0].no_wrap = True
    return table


def cards(gpus: Iterable[Gpu]) -> list[RenderableType]:
    """The cards by the source of their figures."""
    tables: list[RenderableType] = []
    for source, known in groupby(gpus, key=lambda gpu: gpu.source):
        tables.append(Text(source, style="bold"))
        grid = Table.grid(padding=(0, 2))
        for gpu in known:
            grid.add_row(f"  {gpu.name}", Text(f"{_gib(gpu.memory_bytes)} GiB", justify="right"))
        tables.extend((grid, Text()))
    return tables


def largest_batches(results: Iterable[MaxBatch]) -> Table:
    """One row for each model, device and method. A value that all rows share is in the title."""
    rows = list(results)
    columns = {
        "model": [found.model for found in rows],
        "device": [found.gpu for found in rows],
        "GiB": [_gib(found.memory_bytes) for found in rows],
        "method": [str(found.method) for found in rows],
        "precision": [_PRECISIONS[found.peak.precision] for found in rows],
        "batch": [f"{found.max_batch:,}" if found.max_batch else "none fits" for found in rows],
        "middle": ["-" if found.even_batch is None else f"{found.even_batch:,}" for found in rows],
        "reserved\nMiB": [_if_fits(found, found.peak.peak_reserved_bytes) for found in rows],
        "free\nMiB": [_if_fits(found, found.margin_left_bytes) for found in rows],
    }
    if all(found.even_batch in (None, found.max_batch) for found in rows):
        del columns["middle"]
    title = "Largest batch"
    if len({(found.gpu, found.memory_bytes) for found in rows}) == 1:
        title += f" on {_shared(columns, 'device')}, {_shared(columns, 'GiB')} GiB"
    title += _in_brackets(columns)
    table = table_of(columns, words=("model", "device", "method", "precision"), title=title, min_width=len(title))
    if any(found.proved for found in rows):
        table.caption = "measured: a fresh process ran 5 steps, a partial batch and a validation pass"
    return table


def speeds(found: MaxBatch) -> Table:
    """Throughput by batch size, with the knee marked."""
    marks = {found.max_batch: "largest", found.knee_batch: "knee"}
    if found.knee_batch == found.max_batch:
        marks[found.max_batch] = "knee, largest"
    columns = {
        "batch": [f"{speed.batch:,}" for speed in found.speeds],
        "images/s": [f"{speed.images_per_second:,.0f}" for speed in found.speeds],
        "remark": [marks.get(speed.batch, "") for speed in found.speeds],
    }
    caption = f"knee: within {1 - KNEE_SHARE:.0%} of the best images/s"
    table = table_of(columns, words=("remark",), title=f"{found.model}: throughput", caption=caption)
    table.columns[-1].min_width = len("knee, largest")
    return table


def _if_fits(found: MaxBatch, size: int) -> str:
    return f"{size / MIB:,.0f}" if found.max_batch else "-"


def _shared(columns: dict[str, list[str]], heading: str) -> str | None:
    """Remove a column of equal cells and return that cell; None if the cells differ."""
    return columns.pop(heading)[0] if len(set(columns[heading])) == 1 else None


def _in_brackets(columns: dict[str, list[str]]) -> str:
    """Remove the method and the precision where all rows share them, and return them for the title."""
    shared = [_shared(columns, heading) for heading in ("method", "precision")]
    found = ", ".join(text for text in shared if text)
    return f" ({found})" if found else ""


def _held(results: Iterable[PeakMemory]) -> list[str]:
    """The terms that take memory at one peak or more."""
    shown = [peak.terms for peak in results if peak.terms is not None]
    return [name for name in MemoryTerms.__slots__ if any(getattr(parts, name) for parts in shown)]


def _label(term: str) -> str:
    return term.removesuffix("_bytes").replace("_", " ")


def _side_by_side(results: Iterable[PeakMemory]) -> list[list[PeakMemory]]:
    """Peaks in their order, in groups whose columns fit beside each other into WIDTH."""
    groups: list[list[PeakMemory]] = []
    left = 0
    for peak in results:
        header = f"batch {peak.batch:,}"
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
