"""Table of the steps of an augmentation policy."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import RenderableType
from rich.text import Text

from cifar_cli.core.augment.results import PreviewResult, StepResult
from cifar_cli.render.tables import new_table


def steps(result: PreviewResult) -> RenderableType:
    """One row for each step of the policy, in its order; one sentence for a policy without steps."""
    title = f"policy {result.policy}, {result.pipeline} pipeline"
    if not result.steps:
        return Text(f"{title}: no steps, images are only normalised")
    caption = (
        f"measured on {result.steps[0].sample_images:,} images; change: mean absolute change of a pixel level (0-255) "
        "where the step fired"
    )
    table = new_table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("step", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    table.add_column("fired", justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    for number, step in enumerate(result.steps, start=1):
        table.add_row(f"{number}", step.name, f"{step.probability:g}", parameters(step), _fired(step), _change(step))
    return table


def parameters(step: StepResult) -> str:
    """A step's parameters in one line: "padded=36"."""
    return ", ".join(f"{name}={_value(value)}" for name, value in step.parameters.items()) or "-"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_value(item) for item in value) + ")"
    return str(value)


def _fired(step: StepResult) -> str:
    return f"{step.fired:,} ({step.fired_fraction:.0%})"


def _change(step: StepResult) -> str:
    return "-" if step.mean_change_levels is None else f"{step.mean_change_levels:.1f}"
