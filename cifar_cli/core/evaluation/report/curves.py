"""Which charts a report shows."""

from __future__ import annotations

from collections.abc import Sequence

from cifar_cli.core.evaluation.report.answers import share
from cifar_cli.core.evaluation.report.charts import SERIES, Chart, Series, bar_chart, line_chart
from cifar_cli.core.evaluation.report.facts import Facts

TIMES = {
    "startup_seconds": "start-up",
    "data_seconds": "data",
    "step_seconds": "forward and backward",
    "optimizer_seconds": "optimizer",
    "metrics_seconds": "metrics",
    "validation_seconds": "validation",
    "logging_seconds": "logging, checkpoints",
    "test_seconds": "test",
    "other_seconds": "other",
}


def run_charts(facts: Facts, *, prefix: str) -> list[Chart]:
    """The charts of one run that its record allows. prefix: of their names, which are ids in the page."""
    run = facts.run
    charts = []
    if run.best is not None:
        charts += [_accuracy(facts, f"{prefix}-accuracy"), _loss(facts, f"{prefix}-loss")]
    if run.rates:
        steps, rates = zip(*run.rates, strict=True)
        line = Series(name="learning rate", x=steps, y=rates, colour=0, marked=False)
        summary = (
            f"The learning rate by training step: from {rates[0]:.2g}, at most {max(rates):.2g}, to {rates[-1]:.2g}."
        )
        charts.append(
            line_chart(
                f"{prefix}-rate",
                "Learning rate",
                [line],
                summary=summary,
                x_label="step",
                y_label="learning rate",
                from_zero=True,
            )
        )
    if isinstance(run.said("time"), dict):
        spent = {label: float(run.said("time")[name]) for name, label in TIMES.items() if name in run.said("time")}
        longest = max(spent, key=spent.__getitem__)
        summary = f"Seconds of the run by part; most, {spent[longest]:,.1f} s, went to {longest}."
        charts.append(bar_chart(f"{prefix}-time", "Time", spent, summary=summary, x_label="seconds"))
    return charts


def _accuracy(facts: Facts, name: str) -> Chart:
    run = facts.run
    assert run.best is not None
    x, last = [epoch.epoch for epoch in run.epochs], run.epochs[-1]
    lines = [
        Series(name="train, augmented", x=x, y=[epoch.train_accuracy for epoch in run.epochs], colour=0, dashed=True),
        Series(name="validation", x=x, y=[epoch.val_accuracy for epoch in run.epochs], colour=1),
    ]
    plain = run.said("train_accuracy_plain")
    if plain is not None:
        lines.append(Series(name="train, not augmented", x=[run.best.epoch], y=[plain], colour=2))
    return line_chart(
        name,
        "Accuracy",
        lines,
        summary=f"Validation accuracy goes from {share(run.epochs[0].val_accuracy)} to {share(last.val_accuracy)} and "
        f"is highest, {share(run.best.val_accuracy)}, in epoch {run.best.epoch}.",
        x_label="epoch",
        y_label="accuracy",
        percent=True,
        marks={"best epoch": run.best.epoch},
        level=("chance", facts.chance),
    )


def _loss(facts: Facts, name: str) -> Chart:
    run = facts.run
    assert run.best is not None
    x = [epoch.epoch for epoch in run.epochs]
    first, last = run.epochs[0], run.epochs[-1]
    return line_chart(
        name,
        "Cross-entropy loss",
        [
            Series(name="train, augmented", x=x, y=[epoch.train_loss for epoch in run.epochs], colour=0, dashed=True),
            Series(name="validation", x=x, y=[epoch.val_loss for epoch in run.epochs], colour=1),
        ],
        summary=f"The training loss goes from {first.train_loss:.3f} to {last.train_loss:.3f}, the validation loss "
        f"from {first.val_loss:.3f} to {last.val_loss:.3f}.",
        x_label="epoch",
        y_label="cross-entropy",
        marks={"best epoch": run.best.epoch},
    )


def comparison_charts(runs: Sequence[Facts], names: Sequence[str]) -> list[Chart]:
    """Validation accuracy and loss of several runs, one over the other. names: of the runs, all different."""
    charts = []
    for name, title, percent in (("val_accuracy", "Validation accuracy", True), ("val_loss", "Validation loss", False)):
        lines = [
            Series(
                name=run_name,
                x=[epoch.epoch for epoch in facts.run.epochs],
                y=[getattr(epoch, name) for epoch in facts.run.epochs],
                colour=number % SERIES,
                dashed=number >= SERIES,
            )
            for number, (facts, run_name) in enumerate(zip(runs, names, strict=True))
            if facts.run.epochs
        ]
        if lines:
            summary = f"{title} by epoch of {len(lines)} runs."
            charts.append(
                line_chart(
                    f"compared-{name}",
                    title,
                    lines,
                    summary=summary,
                    x_label="epoch",
                    y_label=title.lower(),
                    percent=percent,
                )
            )
    return charts
