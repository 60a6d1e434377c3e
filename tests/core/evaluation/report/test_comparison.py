"""How several runs compare: the figures, McNemar's test, and sentences that say what the figures say."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest
import yaml

from cifar_cli.core.evaluation.report.comparison import compare, table
from cifar_cli.core.evaluation.report.config import ReportConfig
from cifar_cli.core.evaluation.report.facts import facts_of
from cifar_cli.core.evaluation.report.report import report
from cifar_cli.core.evaluation.report.results import Comparison
from cifar_cli.core.memory.gpus import TABLE_GPUS
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.run_dir import RunDir
from tests.core.evaluation.report import histories
from tests.core.evaluation.report.histories import logits, write_run

AIRBENCH = ModelConfig(name="airbench", weights="none", width=0.5)


@pytest.fixture(scope="module")
def runs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of null with 80 % of 100 test images right, and one of airbench with 60 %."""
    folder = tmp_path_factory.mktemp("compared")
    null = write_run(folder / "null", histories.healthy(), data_dir=data_dir)
    airbench = write_run(folder / "airbench", histories.overfitting(), data_dir=data_dir, model=AIRBENCH)
    RunDir(null).write_predictions(logits(0.8))
    RunDir(airbench).write_predictions(logits(0.6))
    return null, airbench


def compared(*runs: Path) -> Comparison:
    return compare([facts_of(run) for run in runs])


def test_the_table_has_every_figure_of_the_course_for_every_run(runs: tuple[Path, Path]) -> None:
    comparison = compared(*runs)
    rows = dict(table(comparison))
    assert rows["dataset"] == ("shapes", "shapes")
    assert list(rows)[:5] == ["model", "dataset", "parameters", "MFLOPs per image", "batch"]
    assert [label for label in rows if label.startswith("largest batch, ")] == [
        f"largest batch, {card}" for card in TABLE_GPUS
    ]
    assert rows["parameters"][0] == "545,098"
    assert rows["test accuracy"] == ("80.00%", "60.00%")
    assert rows["validation accuracy"] == ("79.87%", "66.00%")
    assert rows["95 % interval"][0] == "71.12% to 86.66%"
    assert rows["best epoch"] == ("10 of 10", "4 of 10")
    assert rows["images/s"] == ("1,000", "1,000")
    assert rows["time"] == ("10 min 0 s",) * 2
    assert rows["over- or under-fitting"] == ("balanced", "over-fitting")
    assert all(value != "–" for label, values in rows.items() for value in values if label != "device")


def test_a_difference_is_tested_and_told(runs: tuple[Path, Path]) -> None:
    """20 of 100 images only the first gets right, none only the second: p is 2 / 2**20."""
    comparison = compared(*runs)
    (test,) = comparison.tests
    assert (test.only_first, test.only_second, test.p_value) == (20, 0, pytest.approx(2 / 2**20))
    assert comparison.sentences[0] == (
        "null has the highest test accuracy, 80.00%; airbench follows with 60.00%, and the difference is significant "
        "(p < 0.001, McNemar)."
    )


def test_a_small_difference_is_not_significant(runs: tuple[Path, Path], data_dir: Path, tmp_path: Path) -> None:
    close = write_run(tmp_path / "null-again", histories.healthy(), data_dir=data_dir)
    RunDir(close).write_predictions(logits(0.7))
    first, *others = compared(runs[0], close).sentences
    assert first.endswith("the difference is significant (p = 0.002, McNemar).")
    RunDir(close).write_predictions(logits(0.8)[:, [*range(9), 9]])
    assert compared(runs[0], close).sentences[0] == "null and null-again have the same test accuracy, 80.00%."
    assert others == [], "runs of one model don't differ in size or speed"


def test_sizes_and_batches_are_told_as_the_table_has_them(runs: tuple[Path, Path]) -> None:
    comparison = compared(*runs)
    null, airbench = comparison.runs
    assert null.parameters == 545_098
    assert airbench.parameters is not None
    assert airbench.parameters < null.parameters
    fewest = f"airbench has the fewest parameters, {airbench.parameters:,}; null the most, 545,098."
    assert fewest in comparison.sentences
    batches = [run.largest_batch["RTX 3090"] for run in (null, airbench)]
    told = next(sentence for sentence in comparison.sentences if "RTX 3090" in sentence)
    assert f"about {min(batches):,} images" in told
    assert f"the largest, about {max(batches):,}" in told


def test_runs_that_can_not_be_compared_say_why(runs: tuple[Path, Path], data_dir: Path, tmp_path: Path) -> None:
    unfinished = write_run(tmp_path / "unfinished", histories.healthy()[:3], data_dir=data_dir, finished=False)
    comparison = compared(runs[0], unfinished)
    assert comparison.tests == ()
    assert "Fewer than two of the runs have been tested" in comparison.sentences[0]
    assert dict(table(comparison))["test accuracy"] == ("80.00%", "not tested")

    lost = write_run(tmp_path / "lost", histories.overfitting(), data_dir=tmp_path / "gone")
    comparison = compared(runs[0], lost)
    assert comparison.sentences[0].endswith("without kept predictions, so the difference is not tested.")
    assert dict(table(comparison))["test accuracy"] == ("80.00%", "66.00%")

    told = yaml.safe_load(RunDir(lost).config.read_text())
    told["config"]["data"]["dataset"] = "other"
    RunDir(lost).config.write_text(yaml.safe_dump(told))
    assert compared(runs[0], lost).sentences[0] == (
        "The runs used different datasets (other, shapes), so accuracies can't be compared."
    )


def test_speeds_are_compared_on_one_device_only(data_dir: Path, tmp_path: Path) -> None:
    """Two processors of one architecture, or other numbers of threads, are different devices."""
    one, other = (write_run(tmp_path / name, histories.healthy(), data_dir=data_dir) for name in ("one", "other"))
    told = yaml.safe_load(RunDir(one).config.read_text()) | {"device": "cpu", "device_name": "Xeon", "threads": 2}
    for changes, same in (({}, True), ({"device_name": "EPYC"}, False), ({"threads": 16}, False)):
        RunDir(one).config.write_text(yaml.safe_dump(told))
        RunDir(other).config.write_text(yaml.safe_dump(told | changes))
        comparison = compared(one, other)
        assert comparison.runs[0].device == "Xeon, 2 threads"
        assert ("The runs used different devices" in " ".join(comparison.sentences)) != same
    RunDir(other).config.write_text(yaml.safe_dump(told | {"device": "cuda:0", "device_name": "H100"}))
    assert compared(one, other).runs[1].device == "H100"


def test_folders_of_one_name_have_different_names(runs: tuple[Path, Path], data_dir: Path, tmp_path: Path) -> None:
    again = write_run(tmp_path / "null", histories.healthy(), data_dir=data_dir)
    assert [run.name for run in compared(runs[0], again).runs] == ["null", "null~2"]


def test_page_terminal_and_json_have_the_comparison(cifar, runs: tuple[Path, Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("report", *runs, "--out", tmp_path / "page.html")
    page = report(ReportConfig(runs=runs, out=tmp_path / "page.html")).page.read_text(encoding="utf-8")
    printed = " ".join(cifar(*words).stdout.split())
    comparison = compared(*runs)
    for sentence in comparison.sentences:
        assert sentence in unescape(page)
        assert sentence in printed
    assert comparison.tests[0].sentence in unescape(page)
    document = json.loads(cifar(*words, "--json").stdout)["comparison"]
    assert document["runs"][0]["largest_batch"] == comparison.runs[0].largest_batch
    assert document["tests"][0]["only_first"] == 20
    assert json.loads(cifar("report", runs[0], "--json").stdout)["comparison"] is None
