"""Results of training as tables and lines."""

from __future__ import annotations

from rich.table import Table

from cifar_cli.core.training.results import LOSS_TOLERANCE, EpochResult, Numerics, TimeSpent, TrainResult
from cifar_cli.core.workflow.results import TrainReport, Utilization
from cifar_cli.render.console import note, stderr
from cifar_cli.render.tables import dataset_name

TIME_LABELS = {
    "startup_seconds": "start-up",
    "data_seconds": "data",
    "step_seconds": "forward and backward",
    "optimizer_seconds": "optimizer",
    "metrics_seconds": "metrics",
    "validation_seconds": "validation",
    "logging_seconds": "logging, pictures, checkpoints",
    "test_seconds": "test",
    "other_seconds": "loop",
}


def training(report: TrainReport) -> list[Table]:
    """The result of a run and where its time went; with several seeds, each result and the mean."""
    last = report.results[-1]
    accuracy = facts(last) if len(report.results) == 1 else by_seed(report)
    return [accuracy, time_spent(last.time, report.utilization, last)]


def facts(result: TrainResult) -> Table:
    """One run's accuracy, length and directory."""
    table = Table(title=_title(result), title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    ended = "stopped by --max-time" if result.stopped_by == "time" else "all epochs done"
    table.add_row("test accuracy", f"[bold]{result.test_accuracy:.2%}[/bold]")
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
    table = Table(title=_title(report.results[-1]), title_justify="left", show_footer=True)
    names = {
        "test_accuracy": "test",
        "test_accuracy_flip_averaged": "test, mirror averaged",
        "val_accuracy": "validation",
    }
    table.add_column("seed", justify="right", footer="mean")
    for name, heading in names.items():
        footer = f"{report.mean(name):.2%} ± {report.deviation(name) * 100:.2f}"
        table.add_column(heading, justify="right", footer=footer)
    table.add_column("epochs", justify="right")
    table.add_column("time", justify="right")
    for result in report.results:
        accuracies = (f"{getattr(result, name):.2%}" for name in names)
        table.add_row(str(result.seed), *accuracies, str(result.epochs), duration(result.train_seconds))
    return table


def time_spent(spent: TimeSpent, utilization: Utilization | None, result: TrainResult) -> Table:
    """Seconds by part; the rows add up to the last."""
    table = Table(
        title="Time",
        title_justify="left",
        caption=None
        if utilization is None
        else f"{utilization.achieved_flops_per_second / 1e9:,.0f} GFLOP/s in training steps, {utilization.share:.0%} "
        f"of the {utilization.matmul_flops_per_second / 1e9:,.0f} of a large matrix product here ({result.precision})",
        caption_justify="left",
        show_footer=True,
    )
    total = spent.total_seconds
    table.add_column("part", footer="total")
    table.add_column("seconds", justify="right", footer=f"{total:,.1f}")
    table.add_column("share", justify="right", footer="100.0%")
    for name, label in TIME_LABELS.items():
        seconds = getattr(spent, name)
        table.add_row(label, f"{seconds:,.1f}", f"{seconds / max(total, 1e-9):.1%}")
    return table


def epoch_line(result: EpochResult) -> str:
    """One epoch in at most 80 columns; a star marks the highest validation accuracy so far."""
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
    table = Table(
        title="Precision and memory format",
        caption=f"The loss after three steps may differ from the first row's by {LOSS_TOLERANCE:.0%}.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("precision")
    table.add_column("memory format")
    for heading in ("batch", "images/s", "loss"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for trial in numerics.trials:
        chosen = (trial.precision, trial.memory_format) == (numerics.precision, numerics.memory_format)
        table.add_row(
            trial.precision,
            trial.memory_format,
            str(trial.batch),
            f"{trial.images_per_second:,.0f}",
            f"{trial.loss:.4f}",
            "chosen" if chosen else "" if trial.agrees else "loss differs",
        )
    return table


def duration(seconds: float) -> str:
    """Seconds in words: "47.3 s", "18 min 38 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _title(result: TrainResult) -> str:
    return f"{result.model} on {dataset_name(result.dataset, synthetic=result.synthetic)}"
