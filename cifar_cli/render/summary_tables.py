"""How `summarize`'s counts look: the layer table, the answer table, the notes under them, the JSON document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cifar_cli.core.counting.results import LayerRow, ModelSummary

LABEL_WIDTH = 30
MODEL_WIDTH = 18
SHORTEST_NAME = 16
BEST = " *"
OPERATORS_NAMED = 4  # of a group that is known to be small; the unknown are all named


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One row of the answer table. value: what is compared; shown: how it is printed."""

    label: str
    value: Callable[[ModelSummary], float]
    shown: Callable[[ModelSummary], str]
    more_is_better: bool = False


def _exact(label: str, value: Callable[[ModelSummary], int]) -> _Line:
    return _Line(label=label, value=value, shown=lambda summary: f"{value(summary):,}")


def _megabytes(label: str, value: Callable[[ModelSummary], int]) -> _Line:
    return _Line(label=label, value=value, shown=lambda summary: f"{value(summary) / 1e6:,.2f} MB")


_COUNTS = (
    _exact("parameters", lambda s: s.total_params),
    _exact("  trainable", lambda s: s.trainable_params),
    _exact("  unused: never reach logits", lambda s: s.unused_params),
    _megabytes("weights", lambda s: s.weight_bytes),
    _exact("multiply-adds, one image", lambda s: s.macs_per_image),
    _exact("multiply-adds, batch", lambda s: s.macs_per_batch),
    _exact("forward FLOPs, one image", lambda s: s.forward_flops_per_image),
    _exact("forward FLOPs, batch", lambda s: s.forward_flops_per_batch),
    _exact("training-step FLOPs, batch", lambda s: s.train_step_flops_per_batch),
    _Line(
        label="forward FLOPs per byte moved",
        value=lambda s: s.forward_flops_per_byte,
        shown=lambda s: f"{s.forward_flops_per_byte:.2f}",
        more_is_better=True,
    ),
)
_MEMORY = (
    _megabytes("memory: weights and buffers", lambda s: s.memory.weight_bytes + s.memory.buffer_bytes),
    _megabytes("memory: gradients", lambda s: s.memory.gradient_bytes),
    _megabytes("memory: Adam's two moments", lambda s: s.memory.adam_bytes),
    _megabytes("memory: activations, batch", lambda s: s.memory.activation_bytes),
    _megabytes("memory: sum of these", lambda s: s.memory.total_bytes),
)
_NOTES = (
    "parameters: numbers the model learns; unused ones got no gradient when the logits were differentiated.",
    "multiply-adds: torchinfo's: a convolution's parameters once for each pixel it puts out, other layers' once for "
    "each image, however many tokens; no attention products. Some call these FLOPs.",
    "FLOPs: torch's FlopCounterMode, 2 for each multiply-add of convolutions and matrix products, attention's "
    "included.",
    "training step: forward and backward as counted; the optimizer's update is not in it.",
    "byte moved: every operator reads its inputs and writes its outputs once, weights included, nothing fused "
    "or cached.",
)
_BEST_NOTE = "* best of its row: the least, but for FLOPs per byte the most"
_MEMORY_NOTE = (
    "memory: a count, not a measurement; activations are torchinfo's (outputs of layers with parameters, and their "
    "gradients). `cifar profile-memory` gives what a step really takes."
)


def report(summaries: Sequence[ModelSummary], *, layers: bool, memory: bool, width: int) -> Iterator[RenderableType]:
    """Everything a person sees.

    layers: show each model's layer table. memory: add the bytes of training. width: of the console, in characters.
    """
    if layers:
        for summary in summaries:
            yield _title(summary, "layers")
            yield layer_table(summary, width=width)
    fitting = max(1, (width - LABEL_WIDTH) // MODEL_WIDTH)
    yield _title(summaries[0], "counts", many=len(summaries) > 1)
    for first in range(0, len(summaries), fitting):
        yield answer_table(summaries, memory=memory, part=slice(first, first + fitting))
    if len(summaries) > 1:
        yield Text(_BEST_NOTE + "\n", style="dim")
    for summary in summaries:
        yield _title(summary, "largest layers")
        yield largest_table(summary)
        yield from _unused(summary)
    yield notes(summaries, memory=memory)


def layer_table(summary: ModelSummary, *, width: int) -> Table:
    """torchinfo's rows as a tree, down to the depth asked for; a class name that doesn't fit is cut."""
    cells = [
        (
            "×".join(map(str, row.input_shape)),
            "×".join(map(str, row.output_shape)),
            "again" if row.recurs and row.trainable else _or_blank(row.params),
            row.trainable,
            _or_blank(row.macs),
        )
        for row in summary.layers
    ]
    headings = ("input", "output", "params", "train", "mult-adds")
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    room = width - sum(widths) - 2 * len(widths) - 3  # two spaces after each column, and the table's edges
    table.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=max(room, SHORTEST_NAME))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("params", "mult-adds") else "left", overflow="fold")
    for row, branch, numbers in zip(summary.layers, _branches(summary.layers), cells, strict=True):
        name = Text.assemble((branch, "dim"), row.name if row.depth else summary.label, (f" {row.kind}", "dim"))
        table.add_row(name, *numbers)
    return table


def answer_table(summaries: Sequence[ModelSummary], *, memory: bool, part: slice) -> Table:
    """The counts of some of the models side by side; the best of a row among all models is marked."""
    shown = summaries[part]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True, min_width=LABEL_WIDTH - 2)
    for summary in shown:
        table.add_column(summary.label, justify="right", overflow="fold")
    for line in _COUNTS + (_MEMORY if memory else ()):
        values = [line.value(summary) for summary in summaries]
        best = max(values) if line.more_is_better else min(values)
        differ = len(set(values)) > 1
        table.add_row(
            line.label, *(_cell(line.shown(s), best=differ and line.value(s) == best, marked=differ) for s in shown)
        )
    return table


def largest_table(summary: ModelSummary) -> Table:
    """The layers that hold most of the parameters."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    table.add_column("what", overflow="fold")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for layer in summary.largest_layers:
        what = f"{layer.kind} (unused)" if layer.unused else layer.kind
        table.add_row(layer.path, what, f"{layer.params:,}", f"{layer.share_of_params:.1%}")
    return table


def notes(summaries: Sequence[ModelSummary], *, memory: bool) -> Text:
    """What each counter counts, one line each, and what none of them does."""
    lines = [*_NOTES, *([_MEMORY_NOTE] if memory else []), *_uncounted(summaries)]
    return Text("\n".join(lines), style="dim")


def document(summaries: Sequence[ModelSummary]) -> dict[str, Any]:
    """The JSON document: every count exactly, with its unit in the key."""
    return {"models": [_entry(summary) for summary in summaries]}


def _entry(summary: ModelSummary) -> dict[str, Any]:
    fields = asdict(summary)
    config = fields.pop("config")
    layers = fields.pop("layers")
    return {
        "name": config["name"],
        "label": fields.pop("label"),
        "classes": config["classes"],
        "img_size_pixels": config["img_size"],
        **({"backbone": config["backbone"]} if config["name"] == "cnn" else {}),
        **(
            {"patch_size": config["patch_size"], "trim_backbone": config["trim_backbone"]}
            if config["name"] == "hybrid"
            else {}
        ),
        **fields,
        "weight_bytes": summary.weight_bytes,
        "forward_flops_per_byte": summary.forward_flops_per_byte,
        "layers": layers,
    }


def _unused(summary: ModelSummary) -> Iterator[Text]:
    if not summary.unused_params:
        return
    parts = ", ".join(f"{part.path} ({part.params:,})" for part in summary.unused_parts)
    share = summary.unused_params / summary.total_params
    text = f"{summary.unused_params:,} of {summary.label}'s parameters ({share:.1%}) never reach the logits: {parts}."
    if summary.unused_remedy:
        text += f" Pass {summary.unused_remedy} to leave them out; the function stays the same."
    yield Text(text + "\n", style="yellow")


def _uncounted(summaries: Sequence[ModelSummary]) -> Iterator[str]:
    """Operators that add nothing to the FLOPs: known kinds in short, unknown ones all by name."""
    operators = {(op.group, _plain(op.name)) for s in summaries for op in s.uncounted_operators}
    groups = {
        group: [name for _, name in found] for group, found in groupby(sorted(operators), key=lambda pair: pair[0])
    }
    unknown = groups.pop("unknown", [])
    if groups:
        kinds = "; ".join(f"{group} ({_some(names)})" for group, names in groups.items())
        yield f"in no FLOP count, a few operations per number: {kinds}."
    if unknown:
        yield f"in no FLOP count, and perhaps more than a few operations per number: {', '.join(unknown)}."


def _plain(operator: str) -> str:
    """An operator's name without the marks of torch's variants: in place, native, backward."""
    return operator.strip("_").removesuffix("_data").removesuffix("_backward").removeprefix("native_")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:OPERATORS_NAMED]) + (", …" if len(names) > OPERATORS_NAMED else "")


def _title(summary: ModelSummary, what: str, *, many: bool = False) -> Text:
    side = summary.config.img_size
    who = "several models: " if many else f"{summary.label}: "
    return Text(
        f"{who}{what} (batch {summary.batch}, {side}×{side} pixels, {summary.config.classes} classes)", style="bold"
    )


def _cell(shown: str, *, best: bool, marked: bool) -> Text:
    """Numbers of a row line up whether or not they carry the mark."""
    if not marked:
        return Text(shown)
    return Text(shown + BEST, style="bold green") if best else Text(shown + " " * len(BEST))


def _or_blank(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _branches(rows: Sequence[LayerRow]) -> Iterator[str]:
    """The lines to the left of each name: ├ for a layer with a sibling below it, └ for the last."""
    for index, row in enumerate(rows):
        if row.depth == 0:
            yield ""
            continue
        guides = ["│ " if _goes_on(rows, index, level) else "  " for level in range(1, row.depth)]
        yield "".join(guides) + ("├ " if _goes_on(rows, index, row.depth) else "└ ")


def _goes_on(rows: Sequence[LayerRow], index: int, depth: int) -> bool:
    """Whether another row of this depth comes before the branch above it ends."""
    for row in rows[index + 1 :]:
        if row.depth <= depth:
            return row.depth == depth
    return False
