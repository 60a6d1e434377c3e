"""The live view of a run, and the tables of its result."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.progress import Progress
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.results import EpochResult, Numerics, NumericsTrial, TimeSpent, TrainProgress, TrainResult
from cifar_cli.core.workflow.results import TrainReport, Utilization
from cifar_cli.render import training_tables, training_view
from cifar_cli.render.training_view import panel, plain_line, seconds_left, sparkline, training_shown
from tests.golden import Golden

PROGRESS = TrainProgress(
    epoch=12, epochs=30, step=176, steps=352, share_done=11.5 / 30, loss=0.8123, accuracy=0.7134,
    val_accuracies=(0.5, 0.62, 0.7012, 0.69), images_per_second=4321.0, elapsed_seconds=125.0, max_seconds=1200.0,
)  # fmt: skip
RESULT = TrainResult(
    run_dir=Path("runs/x"), checkpoint=Path("runs/x/checkpoints/best.ckpt"), model="null", dataset="cifar10",
    synthetic=False, recipe="course", seed=42, epochs=12, train_seconds=1118.0, images_per_second=2345.6,
    val_accuracy=0.7618, test_accuracy=0.7612, test_accuracy_flip_averaged=0.7712, test_loss=0.7,
    train_accuracy_plain=0.8, stopped_by="time", precision="bf16", memory_format="channels-last", processes=1,
    time=TimeSpent(
        startup_seconds=6, data_seconds=70, step_seconds=900, optimizer_seconds=40, metrics_seconds=2,
        validation_seconds=30, logging_seconds=40, test_seconds=3, other_seconds=9,
    ),
    asked_to_stop=False, config=TrainConfig(model=ModelConfig(name="null")),
)  # fmt: skip
REPORT = TrainReport(
    results=(RESULT,), utilization=Utilization(achieved_flops_per_second=1.5e11, matmul_flops_per_second=4e11)
)


def drawn(*renderables: object, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(*renderables)
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_shows_epoch_time_and_validation_in_three_lines(width: int) -> None:
    lines = drawn(panel(PROGRESS), width=width).rstrip("\n").splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    for expected, line in zip(
        (("epoch 12/30", "loss 0.812", "71.34%", "4,321 images/s"), ("2:05 of 20:00", "ends in"), ("▁", "best 70.12%")),
        lines,
        strict=True,
    ):
        assert all(words in line for words in expected), line


def test_before_the_first_validation_there_is_no_line_about_it() -> None:
    assert "validation" not in drawn(panel(replace(PROGRESS, val_accuracies=())), width=80)


def test_a_run_ends_when_its_epochs_or_its_time_are_over() -> None:
    assert seconds_left(PROGRESS) == pytest.approx(125 * (30 - 11.5) / 11.5)
    assert seconds_left(replace(PROGRESS, max_seconds=130.0)) == 5


def test_a_sparkline_reaches_from_the_lowest_to_the_highest_block() -> None:
    assert sparkline([0.1, 0.2, 0.45, 0.8]) == "▁▂▄█"
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert len(sparkline([0.1] * 500)) == training_view.SPARKLINE_WIDTH


def test_without_a_terminal_there_is_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    with training_shown(clock=lambda: now[0]) as view:
        for _ in range(12):
            view.on_step(PROGRESS)
            now[0] += 1.0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [plain_line(PROGRESS)] * 3
    assert "epoch 12/30 step 176/352: loss 0.812, accuracy 71.34%, val best 70.12%" in err


class Terminal(io.StringIO):
    """A file that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


class Screen:
    """The text that a terminal shows, as far as cursor-up and erase-line go."""

    def __init__(self, text: str) -> None:
        self.lines, self.row = [""], 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif part.endswith("A") and part.startswith("\x1b"):
                self.row = max(0, self.row - int(part[2:-1] or 1))
            elif part == "\x1b[2K":
                self.lines[self.row] = ""
            elif not part.startswith(("\x1b", "\r")):
                self.lines[self.row] += part


def test_epoch_lines_stand_below_one_heading_with_the_figures_under_their_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    epoch = EpochResult(
        epoch=1, step=352, train_loss=1.5, train_optimized_loss=1.5, train_accuracy=1.0, val_loss=1.25,
        val_accuracy=1.0, learning_rate=1e-3, elapsed_seconds=9.0, images_per_second=5000.0, best=True,
    )  # fmt: skip
    with training_shown() as view:
        view.on_epoch(epoch, fast_dev_run=False)
        view.on_epoch(replace(epoch, epoch=2), fast_dev_run=False)
    heading, first, second = capsys.readouterr().err.splitlines()
    assert (first[:9], second[:9]) == ("epoch   1", "epoch   2")
    for name, figures in (("loss", ["1.500", "1.250"]), ("accuracy", ["100.00%", "100.00%"])):
        ends = [match.end() for match in re.finditer(name, heading)]
        assert [first[: end + (name == "loss")].split()[-1] for end in ends] == figures
    assert "* highest so far" in heading
    assert "100.00%*" in first


def test_one_batch_has_no_scores_and_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    epoch = EpochResult(
        epoch=1, step=1, train_loss=1.0, train_optimized_loss=1.0, train_accuracy=0.0, val_loss=1.0, val_accuracy=0.0,
        learning_rate=1e-3, elapsed_seconds=1.0, images_per_second=1.0, best=True,
    )  # fmt: skip
    with training_shown() as view:
        view.on_epoch(epoch, fast_dev_run=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "no scores" in line


def test_in_a_terminal_notes_stay_and_the_live_part_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Terminal()
    monkeypatch.setattr(sys, "stderr", text)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with training_shown() as view:
        view.on_progress(Progress(task="drawing", done=1, total=2))
        view.on_note("first")
        for epoch in range(1, 4):
            view.on_step(replace(PROGRESS, epoch=epoch))
            assert f"epoch {epoch}/30" in "\n".join(Screen(text.getvalue()).lines)
            view.on_note(f"epoch {epoch} is over")
        view.on_progress(Progress(task="scoring", done=1, total=2))
    shown = [line.strip() for line in Screen(text.getvalue()).lines if line.strip()]
    assert shown == ["first", "epoch 1 is over", "epoch 2 is over", "epoch 3 is over"]


def test_a_utilization_that_could_not_be_measured_is_left_out() -> None:
    report = replace(REPORT, utilization=None)
    assert "GFLOP" not in drawn(*training_tables.training(report), width=80)
    assert report.to_dict()["achieved_flops_per_second"] is None


def test_the_tables_of_a_run(golden: Golden) -> None:
    golden.tables("training/run", *training_tables.training(REPORT))


def test_the_rows_of_the_time_table_add_up() -> None:
    text = drawn(training_tables.time_spent(RESULT.time, REPORT.utilization, RESULT), width=80)
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    seconds = [float(row[2].replace(",", "")) for row in rows]
    assert sum(seconds[:-1]) == pytest.approx(seconds[-1])


def seeds() -> TrainReport:
    results = tuple(
        replace(
            RESULT,
            seed=seed,
            test_accuracy=0.76 + 0.01 * seed,
            test_loss=0.7 + 0.1 * seed,
            train_seconds=1000.0 + 60 * seed,
            time=replace(RESULT.time, step_seconds=900.0 + 30 * seed),
        )
        for seed in range(3)
    )
    return replace(REPORT, results=results)


def test_the_tables_of_several_seeds(golden: Golden) -> None:
    golden.tables("training/seeds", *training_tables.training(seeds()))


def test_several_seeds_are_reported_with_mean_and_deviation() -> None:
    document = seeds().to_dict()
    assert document["test_accuracy"] == pytest.approx(0.77)
    assert document["test_accuracy_standard_deviation"] == pytest.approx(0.01)
    assert document["test_loss"] == pytest.approx(0.8)
    assert document["test_loss_standard_deviation"] == pytest.approx(0.1)
    assert document["train_seconds"] == pytest.approx(1060)
    assert document["time"]["step_seconds"] == pytest.approx(930)
    assert [run["seed"] for run in document["runs"]] == [0, 1, 2]
    assert [run["test_loss"] for run in document["runs"]] == pytest.approx([0.7, 0.8, 0.9])


def test_no_figure_of_the_last_seed_stands_beside_means() -> None:
    figures = [name for name, value in RESULT.to_dict().items() if isinstance(value, float)]
    assert "train_accuracy_plain" in figures
    results = tuple(replace(RESULT, **dict.fromkeys(figures, float(seed))) for seed in range(3))
    document = replace(REPORT, results=results).to_dict()
    assert {name: document[name] for name in figures} == dict.fromkeys(figures, 1.0)
    assert {name: document[f"{name}_standard_deviation"] for name in figures} == dict.fromkeys(figures, 1.0)


NUMERICS = Numerics(
    precision="bf16",
    memory_format="channels-last",
    trials=(
        NumericsTrial(precision="32", memory_format="channels-last", batch=128, images_per_second=1e3, loss=2.3,
                      agrees=True),
        NumericsTrial(precision="bf16", memory_format="channels-last", batch=128, images_per_second=4e3, loss=2.31,
                      agrees=True),
        NumericsTrial(precision="16", memory_format="onednn", batch=128, images_per_second=9e3, loss=3.0, agrees=False),
    ),
    remembered_in=Path("numerics.json"),
)  # fmt: skip


def test_the_table_of_trials(golden: Golden) -> None:
    golden.tables("training/trials", training_tables.trials(NUMERICS))


def test_trials_are_shown_with_verbose_only(capsys: pytest.CaptureFixture[str]) -> None:
    training_tables.say_numerics(NUMERICS, verbose=False)
    assert capsys.readouterr().err == ""
    training_tables.say_numerics(NUMERICS, verbose=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "chosen" in err
    assert "delete numerics.json to try again" in err
