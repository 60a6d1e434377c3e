"""`summarize`'s counts as tables: the layers, the counts side by side, the largest layers, and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cifar_cli.core.counting.results import LayerRow, ModelSummary, SummaryReport
from cifar_cli.render.tables import new_table, table_of

OPERATORS_NAMED = 4  # of each group; operators of unknown cost are all named

_COUNTS = {
    "total_params": "parameters",
    "trainable_params": "  trainable",
    "unused_params": "  unused",
    "weight_bytes": "weights",
    "macs_per_image": "multiply-adds per image",
    "macs_per_batch": "multiply-adds per batch",
    "forward_flops_per_image": "forward FLOPs per image",
    "forward_flops_per_batch": "forward FLOPs per batch",
    "train_step_flops_per_batch": "step FLOPs per batch",
    "forward_flops_per_byte": "forward FLOPs per byte",
}
_MEMORY = {
    "memory.weight_bytes": "memory: weights",
    "memory.buffer_bytes": "memory: buffers",
    "memory.gradient_bytes": "memory: gradients",
    "memory.adam_bytes": "memory: Adam's moments",
    "memory.activation_bytes": "memory: activations",
    "memory.total_bytes": "memory: sum",
}
_NOTES = {
    "parameters": "Weights, frozen ones included. Unused: no gradient reaches them from the logits.",
    "multiply-adds": "torchinfo's count: a convolution's parameters once per output pixel, those of a recurrent layer "
    "once per time step, any other layer's once per image, however many tokens it processes. Attention products are "
    "not counted. "
    "Some papers call these FLOPs.",
    "FLOPs": "torch's FlopCounterMode: 2 per multiply-add of a convolution or a matrix product, including attention.",
    "step FLOPs": "Forward and backward pass of a training step, without the optimizer's update.",
    "FLOPs per byte": "Every operator reads its inputs and weights and writes its outputs once, without fusion or "
    "cache.",
}
_MEMORY_NOTE = (
    "A simple count; `cifar profile-memory` predicts or measures a real training step. Activations are torchinfo's: "
    "outputs of layers with parameters, and their gradients."
)
_BEST_NOTE = "* best of its row: the highest FLOPs per byte, the lowest of every other count"


def report(summaries: Sequence[ModelSummary], *, layers: bool, memory: bool, width: int) -> Iterator[RenderableType]:
    """All tables and notes.

    layers: show each model's layer table. memory: add the bytes of training. width: of the console, in characters.
    """
    many = len(summaries) > 1
    for summary in summaries if layers else ():
        yield _title(f"{summary.label}: layers", summary)
        yield layer_table(summary, width=width)
    yield _title("counts" if many else f"{summaries[0].label}: counts", summaries[0])
    yield from count_tables(SummaryReport(models=tuple(summaries)), memory=memory, width=width)
    if many:
        yield Text(_BEST_NOTE + "\n", style="dim")
    for summary in summaries:
        yield Text(f"{summary.label}: largest layers", style="bold")
        yield largest_table(summary)
        if summary.unused_params:
            yield _unused(summary)
    yield notes(summaries, memory=memory)


def layer_table(summary: ModelSummary, *, width: int) -> Table:
    """torchinfo's rows as a tree, down to the requested depth.

    Where names don't fit, the column `train` is left out if all its cells are equal, then `input`;
    a name that still doesn't fit is cut.
    """
    rows = summary.layers
    names = [
        Text.assemble((branch, "dim"), row.name if row.depth else summary.label, (f" {row.kind}", "dim"))
        for branch, row in zip(_branches(rows), rows, strict=True)
    ]
    columns = {
        "input": ["×".join(map(str, row.input_shape)) for row in rows],
        "output": ["×".join(map(str, row.output_shape)) for row in rows],
        "params": ["again" if row.recurs and row.trainable else _or_blank(row.params) for row in rows],
        "train": [row.trainable for row in rows],
        "mult-adds": [_or_blank(row.macs) for row in rows],
    }
    left_out = []
    for column in ("train", "input"):
        if _room(columns, width) < max(map(len, names)) and (column == "input" or len({*columns[column], ""}) <= 2):
            del columns[column]
            left_out.append(column)
    table = new_table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.caption = f" not shown at this width: {', '.join(left_out)}\n" if left_out else None
    table.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=max(_room(columns, width), 1))
    for heading in columns:
        table.add_column(heading, justify="right" if heading in ("params", "mult-adds") else "left", overflow="fold")
    for cells in zip(names, *columns.values(), strict=True):
        table.add_row(*cells)
    return table


def count_tables(report: SummaryReport, *, memory: bool, width: int) -> Iterator[Table]:
    """The counts of the models side by side, in as many tables as the width needs; the best of all are marked."""
    labels = _COUNTS | (_MEMORY if memory else {})
    best = {key: report.best(key) for key in labels}
    blank = "  " if len(report.models) > 1 else ""  # numbers line up whether or not they carry the mark
    columns = [
        [Text(model.label), *(_count(model, key, mark=" *" if place in best[key] else blank) for key in labels)]
        for place, model in enumerate(report.models)
    ]
    room = width - max(map(len, labels.values())) - 3  # two spaces after each column, one before the first
    fitting = max(1, room // (2 + max(len(cell) for column in columns for cell in column)))
    for first in range(0, len(columns), fitting):
        headings, *rows = zip(*columns[first : first + fitting], strict=True)
        table = new_table("", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in headings:
            table.add_column(heading, justify="right", overflow="fold")
        for label, cells in zip(labels.values(), rows, strict=True):
            table.add_row(label, *cells)
        yield table


def _count(model: ModelSummary, key: str, *, mark: str) -> Text:
    value = attrgetter(key)(model)
    shown = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
    if key.endswith("_bytes"):
        shown = f"{value / 1e6:,.2f} MB"
    return Text(shown + mark, style="bold green" if mark.strip() else "")


def largest_table(summary: ModelSummary) -> Table:
    """The layers that hold most of the parameters."""
    layers = summary.largest_layers
    columns = {
        "layer": [layer.path for layer in layers],
        "kind": [f"{layer.kind} (unused)" if layer.unused else layer.kind for layer in layers],
        "parameters": [f"{layer.params:,}" for layer in layers],
        "share": [f"{layer.share_of_params:.1%}" for layer in layers],
    }
    return table_of(columns, words=("layer", "kind"), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def notes(summaries: Sequence[ModelSummary], *, memory: bool) -> Table:
    """What each count contains, and which operators are in no FLOP count."""
    table = Table.grid(padding=(0, 2))
    for term, text in (_NOTES | ({"memory": _MEMORY_NOTE} if memory else {}) | _uncounted(summaries)).items():
        table.add_row(Text(term, style="dim"), Text(text, style="dim"))
    return table


def _unused(summary: ModelSummary) -> Text:
    parts = ", ".join(f"{part.path} ({part.params:,})" for part in summary.unused_parts)
    share = f"{summary.unused_share_of_params:.1%}"
    text = f"{summary.unused_params:,} of {summary.label}'s parameters ({share}) are unused: {parts}."
    if summary.unused_remedy:
        text += f" Pass {summary.unused_remedy} to leave them out; the logits stay the same."
    return Text(text + "\n", style="yellow")


def _uncounted(summaries: Sequence[ModelSummary]) -> dict[str, str]:
    """Notes on operators that add nothing to the FLOPs: some of each known group, all unknown ones."""
    operators = sorted({(op.group, _plain(op.name)) for s in summaries for op in s.uncounted_operators})
    groups = {group: [name for _, name in found] for group, found in groupby(operators, key=lambda pair: pair[0])}
    unknown = groups.pop("unknown", [])
    found = {}
    if groups:
        kinds = "; ".join(f"{group} ({_some(names)})" for group, names in groups.items())
        found["not in FLOPs"] = f"A few operations per value: {kinds}."
    if unknown:
        found["unknown cost"] = f"Not in FLOPs, and perhaps more than a few operations per value: {', '.join(unknown)}."
    return found


def _plain(operator: str) -> str:
    """An operator's name without the marks of torch's variants: in place, native, backward, evaluation mode."""
    name = operator.strip("_").removeprefix("native_")
    return name.removesuffix("_data").removesuffix("_backward").removesuffix("_legit_no_training")


def _some(names: Sequence[str]) -> str:
    more = len(names) - OPERATORS_NAMED
    return ", ".join(names[:OPERATORS_NAMED]) + (f" and {more} more" if more > 0 else "")


def _title(what: str, summary: ModelSummary) -> Text:
    side = summary.config.img_size
    images = f"batch {summary.batch}, {side}×{side} pixels, {summary.config.classes} classes"
    return Text(f"{what} ({images})", style="bold")


def _or_blank(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _room(columns: dict[str, list[str]], width: int) -> int:
    """Characters left for names: each column takes two more than its text, the edges and the name's padding three."""
    return width - sum(max(map(len, [heading, *cells])) + 2 for heading, cells in columns.items()) - 3


def _branches(rows: Sequence[LayerRow]) -> list[str]:
    """The lines to the left of each name: ├ for a layer with a sibling below it, └ for the last."""
    branches = []
    continued: set[int] = set()  # depths at which a sibling follows
    for row in reversed(rows):
        guides = "".join("│ " if level in continued else "  " for level in range(1, row.depth))
        branches.append(guides + ("" if row.depth == 0 else "├ " if row.depth in continued else "└ "))
        continued = {level for level in continued if level < row.depth} | {row.depth}
    return branches[::-1]
