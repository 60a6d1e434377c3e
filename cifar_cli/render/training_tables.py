"""Results of training as tables and lines."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from cifar_cli.core.training.results import LOSS_TOLERANCE, EpochResult, Numerics, TimeSpent, TrainResult
from cifar_cli.core.workflow.results import TrainReport, Utilization
from cifar_cli.render.console import note, stderr
from cifar_cli.render.tables import dataset_name, new_table, table_of

TIME_LABELS = {
    "startup_seconds": "start-up",
    "data_seconds": "data",
    "step_seconds": "forward and backward",
    "optimizer_seconds": "optimizer",
    "metrics_seconds": "metrics",
    "validation_seconds": "validation",
    "logging_seconds": "logging, pictures, checkpoints",
    "test_seconds": "test",
    "other_seconds": "other",
}

DTYPES = {"32": "float32", "bf16": "bfloat16", "16": "float16"}


STOPPED_BY = {"time": "--max-time", "patience": "--patience"}


def training(report: TrainReport) -> list[Table]:
    """The result of a run and where its time went; with several seeds, each result and the mean."""
    last = report.results[-1]
    accuracy = facts(last) if len(report.results) == 1 or last.fast_dev_run else by_seed(report)
    title = "Time" if len(report.results) == 1 else f"Time, mean of {len(report.results)} seeds"
    return [accuracy, time_spent(report.time, report.utilization, last, title=title)]


def facts(result: TrainResult) -> Table:
    """One run's accuracy, length and directory."""
    table = new_table(title=_title(result), show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    ended = "all epochs done" if result.stopped_by == "epochs" else f"stopped by {STOPPED_BY[result.stopped_by]}"
    if result.fast_dev_run:
        table.add_row("accuracy", "not measured: --fast-dev-run trained and tested one batch")
    else:
        table.add_row("test accuracy", Text(f"{result.test_accuracy:.2%}", "bold"))
        table.add_row("  with mirror image averaged", f"{result.test_accuracy_flip_averaged:.2%}")
        table.add_row("validation accuracy", f"{result.val_accuracy:.2%}")
        table.add_row("epochs", f"{result.epochs} ({ended})")
    table.add_row("training time", duration(result.train_seconds))
    table.add_row("speed", f"{result.images_per_second:,.0f} images/s")
    table.add_row("run directory", str(result.run_dir))
    table.add_row("best weights", str(result.checkpoint.relative_to(result.run_dir)))
    return table


def by_seed(report: TrainReport) -> Table:
    """A row per seed, with mean and standard deviation below."""
    results = report.results
    accuracies = {
        "test": "test_accuracy",
        "test, mirror averaged": "test_accuracy_flip_averaged",
        "validation": "val_accuracy",
    }
    columns = {
        "seed": [str(result.seed) for result in results],
        **{heading: [f"{getattr(each, name):.2%}" for each in results] for heading, name in accuracies.items()},
        "epochs": [str(result.epochs) for result in results],
        "time": [duration(result.train_seconds) for result in results],
    }
    means = [f"{report.mean(name):.2%} ± {report.deviation(name) * 100:.2f}" for name in accuracies.values()]
    footer = ("mean", *means, "", duration(report.mean("train_seconds")))
    return table_of(columns, footer=footer, title=_title(results[-1]))


def time_spent(spent: TimeSpent, utilization: Utilization | None, result: TrainResult, *, title: str = "Time") -> Table:
    """Seconds by part; the rows add up to the last."""
    caption = None
    if utilization is not None:
        caption = (
            f"training: {utilization.achieved_flops_per_second / 1e9:,.0f} GFLOP/s, {utilization.share:.0%} of a large "
            f"matrix product's {utilization.matmul_flops_per_second / 1e9:,.0f} GFLOP/s ({DTYPES[result.precision]})"
        )
    total = spent.total_seconds
    parts = [getattr(spent, name) for name in TIME_LABELS]
    columns = {
        "part": list(TIME_LABELS.values()),
        "seconds": [f"{seconds:,.1f}" for seconds in parts],
        "share": [f"{seconds / max(total, 1e-9):.1%}" for seconds in parts],
    }
    footer = ("total", f"{total:,.1f}", "100.0%")
    return table_of(
        columns, words=("part",), footer=footer, title=title, caption=caption, 
    )  # fmt: skip


EPOCH_HEADING = f"{'':17}loss accuracy{'':6}loss accuracy  * highest so far"
"""Above the first of the lines that `epoch_line` makes."""


def epoch_line(result: EpochResult, *, fast_dev_run: bool = False) -> str:
    """One epoch in at most 80 columns; a star marks the highest validation accuracy so far."""
    if fast_dev_run:
        return f"epoch {result.epoch:>3}  one batch trained and validated (--fast-dev-run): no scores"
    mark = "*" if result.best else " "
    return (
        f"epoch {result.epoch:>3}  train {result.train_loss:.3f} {result.train_accuracy:7.2%}  "
        f"val {result.val_loss:.3f} {result.val_accuracy:7.2%}{mark}  {result.images_per_second:,.0f} images/s"
    )


def say_numerics(numerics: Numerics, *, verbose: bool) -> None:
    """With `verbose`, show the trials that precision and memory format were chosen from."""
    if verbose and numerics.trials:
        stderr().print(trials(numerics))
        if numerics.remembered_in:
            note(f"remembered from an earlier run; delete {numerics.remembered_in} to try again")


def trials(numerics: Numerics) -> Table:
    """A row per combination that was tried; the chosen one is marked."""
    chosen = (numerics.precision, numerics.memory_format)
    columns: dict[str, list[str]] = {
        "precision": [trial.precision for trial in numerics.trials],
        "memory format": [trial.memory_format for trial in numerics.trials],
        "batch": [str(trial.batch) for trial in numerics.trials],
        "images/s": [f"{trial.images_per_second:,.0f}" for trial in numerics.trials],
        "loss": [f"{trial.loss:.4f}" for trial in numerics.trials],
        "": [
            "chosen" if (trial.precision, trial.memory_format) == chosen else "" if trial.agrees else "loss differs"
            for trial in numerics.trials
        ],
    }
    return table_of(
        columns,
        words=("precision", "memory format", ""),
        title="Precision and memory format",
        caption=f"The loss after three steps may differ from the first row's by {LOSS_TOLERANCE:.0%}.",
    )


def duration(seconds: float) -> str:
    """Format seconds as "47.3 s" or "18 min 38 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _title(result: TrainResult) -> str:
    return f"{result.model} on {dataset_name(result.dataset, synthetic=result.synthetic)}"
