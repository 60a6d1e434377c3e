"""Results of training and evaluation as tables."""

from __future__ import annotations

from rich.table import Table

from cifar_cli.core.evaluation.config import EvaluateResult
from cifar_cli.core.training.config import EpochResult, TrainResult


def dataset_name(name: str, *, synthetic: bool) -> str:
    """A dataset's name, with a word where its images are not real."""
    return f"{name} (synthetic)" if synthetic else name


def training(result: TrainResult) -> Table:
    """What a training gave."""
    table = _facts(f"{result.model} on {dataset_name(result.dataset, synthetic=result.synthetic)}")
    ended = "the time was up" if result.stopped_by == "time" else "all epochs done"
    table.add_row("test accuracy", f"[bold]{result.test_accuracy:.2%}[/bold]")
    table.add_row("validation accuracy", f"{result.val_accuracy:.2%}")
    table.add_row("epochs", f"{result.epochs} ({ended})")
    table.add_row("training time", duration(result.train_seconds))
    table.add_row("speed", f"{result.images_per_second:,.0f} images/s")
    table.add_row("run directory", str(result.run_dir))
    table.add_row("best weights", str(result.checkpoint.relative_to(result.run_dir)))
    return table


def epoch_line(result: EpochResult) -> str:
    """One epoch in a line of at most 80 columns: loss and accuracy, a star where validation is the best so far."""
    mark = "*" if result.best else " "
    return (
        f"epoch {result.epoch:>3}  train {result.train_loss:.3f} {result.train_accuracy:7.2%}  "
        f"val {result.val_loss:.3f} {result.val_accuracy:7.2%}{mark}  {result.images_per_second:,.0f} images/s"
    )


def evaluation(result: EvaluateResult) -> Table:
    """Scores by class, and over all of them in the last row."""
    name = dataset_name(result.dataset, synthetic=result.synthetic)
    table = Table(
        title=f"{result.model} on {name}: {result.accuracy:.2%} of {result.images:,} test images right",
        caption=f"mean loss {result.loss:.4f}; confusion matrix in {result.figure}",
        title_justify="left",
        caption_justify="left",
        show_footer=True,
    )
    scores = result.per_class
    count = len(scores)
    table.add_column("class", footer="mean of classes")
    table.add_column("precision", justify="right", footer=f"{sum(score.precision for score in scores) / count:.2%}")
    table.add_column("recall", justify="right", footer=f"{sum(score.recall for score in scores) / count:.2%}")
    table.add_column("F1", justify="right", footer=f"{sum(score.f1 for score in scores) / count:.2%}")
    table.add_column("images", justify="right", footer=f"{sum(score.images for score in scores):,}")
    for score in scores:
        table.add_row(
            score.name, f"{score.precision:.2%}", f"{score.recall:.2%}", f"{score.f1:.2%}", f"{score.images:,}"
        )
    return table


def duration(seconds: float) -> str:
    """Seconds as a person says them: "47.3 s", "18 min 38 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _facts(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    return table
