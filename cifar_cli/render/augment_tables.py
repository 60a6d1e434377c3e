"""The steps of an augmentation as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from cifar_cli.core.augment.config import StepResult
from cifar_cli.core.augment.preview import PreviewResult


def steps(result: PreviewResult) -> Table:
    """One row for each step of the policy, in its order."""
    sample = result.steps[0].sample_images if result.steps else 0
    table = Table(
        title=f"policy {result.policy}, carried out by the {result.pipeline} pipeline",
        caption=f"counted on {sample:,} images; change: mean of the pixel levels (0-255) where the step fired"
        if result.steps
        else "the policy has no steps: images are normalised only",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("step", overflow="fold", min_width=14)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    table.add_column("fired", justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    for number, step in enumerate(result.steps, start=1):
        table.add_row(f"{number}", step.name, f"{step.probability:g}", parameters(step), _fired(step), _change(step))
    return table


def document(result: PreviewResult, picture: Path, dataset: str) -> dict[str, Any]:
    """The same as one JSON document, with the picture's labels."""
    return {
        "dataset": dataset,
        "policy": result.policy,
        "pipeline": result.pipeline,
        "seed": result.seed,
        "picture": str(picture),
        "rows": list(result.row_names),
        "columns": list(result.column_names),
        "steps": [step.to_dict() for step in result.steps],
    }


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
    return f"{step.fired:,} ({step.fired / step.sample_images:.0%})"


def _change(step: StepResult) -> str:
    return "-" if step.mean_change_levels is None else f"{step.mean_change_levels:.1f}"
