"""Results of evaluations as tables and lines."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from cifar_cli.core.evaluation.results import (
    ConfusedPair,
    CorruptionScore,
    EvaluateResult,
    EvaluationReport,
    ExportResult,
)
from cifar_cli.render.tables import dataset_name, table_of

SPLITS = {"test": "test", "val": "validation", "train": "training"}
PAIRS, LISTED = 5, 5  # confused pairs and mistakes shown; JSON and the files have more


def evaluation(result: EvaluateResult) -> Group:
    """The scores of each class, with their mean over the classes in the last row, and what else was found."""
    name = dataset_name(result.dataset, synthetic=result.synthetic)
    shown = f"{result.accuracy:.2%} of {result.images:,} {SPLITS[result.split]} images correct"
    # Separate lines: a table wraps its title and caption at its own width, which would cut the path.
    parts: list[RenderableType] = [Text(f"{result.model} on {name}: {shown}")]
    if result.unfinished:
        parts.append(Text(f"note: {result.unfinished}", style="yellow"))
    parts += [_by_class(result), *map(Text, _facts(result))]
    if result.corruptions:
        parts.append(corruptions(result.corruptions, clean=result.accuracy))
    files = result.files_problem or f"files: {result.folder}"
    return Group(*parts, Text(files, overflow="fold"))


def _by_class(result: EvaluateResult) -> RenderableType:
    scores = result.per_class
    columns: dict[str, list[str | Text]] = {
        "class": [Text(score.name) for score in scores],
        "precision": [f"{score.precision:.2%}" for score in scores],
        "recall": [f"{score.recall:.2%}" for score in scores],
        "F1": [f"{score.f1:.2%}" for score in scores],
        "images": [f"{score.images:,}" for score in scores],
    }
    means = (f"{mean:.2%}" for mean in (result.mean_precision, result.mean_recall, result.mean_f1))
    return table_of(columns, words=("class",), footer=("mean of classes", *means, f"{result.images:,}"))


def _facts(result: EvaluateResult) -> list[str]:
    low, high = result.accuracy_interval.low, result.accuracy_interval.high
    lines = [f"95 % interval of the accuracy: {low:.2%} to {high:.2%} (chance: {result.chance:.2%})"]
    if result.views is not None:
        lines.append(f"accuracy with the mirror image averaged: {result.views.mirror_averaged:.2%}")
        lines.append(f"accuracy with translations by one pixel as well: {result.views.views_averaged:.2%}")
    if result.top5_accuracy is not None:
        lines.append(f"top-5 accuracy: {result.top5_accuracy:.2%}")
    lines.append(f"mean loss: {result.loss:.4f}")
    lines.append(f"calibration error: {result.calibration.error:.2%} over {len(result.calibration.bins)} bins")
    if result.confused_pairs:
        lines.append(f"most confused: {', '.join(map(pair, result.confused_pairs[:PAIRS]))}")
    return lines


def pair(confused: ConfusedPair) -> str:
    """ "cat → dog 177": true class, predicted class, images."""
    return f"{confused.true} → {confused.predicted} {confused.images:,}"


def corruptions(scores: tuple[CorruptionScore, ...], *, clean: float) -> RenderableType:
    """The accuracy by kind and severity."""
    columns: dict[str, list[str | Text]] = {"corruption": [score.kind for score in scores]}
    for severity in range(5):
        columns[str(severity + 1)] = [f"{score.accuracies[severity]:.2%}" for score in scores]
    columns["mean"] = [f"{score.mean:.2%}" for score in scores]
    overall = sum(score.mean for score in scores) / len(scores)
    footer = (f"clean: {clean:.2%}", "", "", "", "", "", f"{overall:.2%}")
    return table_of(
        columns,
        words=("corruption",),
        footer=footer,
        title="Accuracy by severity of a corruption",
    )


def comparison(report: EvaluationReport) -> Group:
    """Several evaluations side by side, and the tests of their pairs."""
    every = report.evaluations
    columns: dict[str, list[str | Text]] = {
        "run": [Text(_named(name, each.model)) for name, each in zip(report.names, every, strict=True)],
        "accuracy": [f"{each.accuracy:.2%}" for each in every],
        "95 % interval": [f"{each.accuracy_interval.low:.1%}–{each.accuracy_interval.high:.1%}" for each in every],
        "loss": [f"{each.loss:.4f}" for each in every],
        "calibration\nerror": [f"{each.calibration.error:.2%}" for each in every],
    }
    scored = sorted(
        {f"{dataset_name(e.dataset, synthetic=e.synthetic)}, {e.images:,} {SPLITS[e.split]} images" for e in every}
    )
    parts: list[RenderableType] = [Text(f"scored on {'; '.join(scored)}"), table_of(columns, words=("run",))]
    parts += [Text(f"note: {each.unfinished}", style="yellow") for each in every if each.unfinished]
    parts += [
        Text(
            f"{name}: {each.views.mirror_averaged:.2%} with the mirror image averaged, "
            f"{each.views.views_averaged:.2%} with translations too"
        )
        for name, each in zip(report.names, every, strict=True)
        if each.views
    ]
    parts += [Text(test.sentence) for test in report.tests]
    for name, each in zip(report.names, every, strict=True):
        if each.corruptions:
            parts += [Text(name), corruptions(each.corruptions, clean=each.accuracy)]
    parts += [Text(each.files_problem or f"files: {each.folder}", overflow="fold") for each in every]
    return Group(*parts)


def _named(name: str, model: str) -> str:
    """The run's name, with the model where the name lacks it."""
    return name if model in name else f"{name} ({model})"


def exported(result: ExportResult) -> Group:
    """Where the file is, what it takes, and how far its logits are from the model's."""
    lines = [f"{result.path}: {result.size_bytes / 1e6:,.1f} MB, {result.format}", f"input: {result.input}"]
    if result.greatest_difference is None:
        lines.append("logits not compared")
    else:
        lines.append(
            f"greatest difference of a logit from the model's: {result.greatest_difference:.1e} "
            f"(accepted: {result.tolerance:g})"
        )
    return Group(*(Text(line, overflow="fold") for line in lines))
