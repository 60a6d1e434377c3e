"""The report's page: complete, self-contained, escaped; and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cifar_cli.core.evaluation.report.charts import Series, bar_chart, line_chart
from cifar_cli.core.evaluation.report.config import ReportConfig
from cifar_cli.core.evaluation.report.facts import facts_of
from cifar_cli.core.evaluation.report.page import page as page_of
from cifar_cli.core.evaluation.report.recorded import Epoch
from cifar_cli.core.evaluation.report.report import report, report_after_training
from cifar_cli.core.training.results import TrainResult
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.errors import CheckpointError, ConfigError, ResourceError
from tests.core.evaluation.report import histories
from tests.core.evaluation.report.histories import write_run

SECTIONS = ("result", "questions", "curves", "learning-rate", "time", "confusion", "samples", "fit", "pairs",
            "mistakes", "model", "configuration")  # fmt: skip


@pytest.fixture(scope="module")
def page(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run that went well, in a folder with another run."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "earlier", histories.underfitting(), data_dir=data_dir)
    run = write_run(folder / "<b>run & co", histories.healthy(), data_dir=data_dir)
    result = report(ReportConfig(runs=(run,)))
    assert result.page == run / "report.html"
    return result.page.read_text(encoding="utf-8")


def test_the_page_has_all_sections_in_order(page: str) -> None:
    places = [page.index(f'id="run1-{name}"') for name in SECTIONS]
    assert places == sorted(places)


def test_the_page_answers_every_question_and_links_to_what_the_answer_rests_on(page: str) -> None:
    from cifar_cli.core.evaluation.report.answers import QUESTIONS

    assert len(set(re.findall(r'data-question="([\w-]+)"', page))) == len(QUESTIONS)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_page_refers_to_nothing_outside_of_itself(page: str) -> None:
    outside = re.findall(r'(?:src|href|url\()\s*=?\s*["\']?(?!data:|#)(\w[^"\')\s]*)', page)
    assert outside == []


def test_names_are_escaped_and_earlier_runs_are_listed(page: str) -> None:
    assert "<b>run" not in page
    assert "&lt;b&gt;run &amp; co" in page
    assert re.search(r'<th scope="row">earlier</th><td>null</td><td class="number">32.00%</td>', page)


def test_several_runs_are_compared_in_one_page(data_dir: Path, tmp_path: Path) -> None:
    runs = tuple(
        write_run(tmp_path / name, history(), data_dir=data_dir)
        for name, history in (("good", histories.healthy), ("bad", histories.overfitting))
    )
    result = report(ReportConfig(runs=runs))
    assert result.page == tmp_path / "report.html"
    text = result.page.read_text(encoding="utf-8")
    table = text.partition('class="compared"')[2].partition("</table>")[0]
    assert "over-fitting" in table
    assert "545,098" in table
    assert text.count("compared-val_accuracy-points-") == 2
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("epochs", "finished", "words"),
    [(3, False, "not finished: 3 epochs of 10 done"), (0, False, "not finished: no epoch of 10 done")],
)
def test_an_unfinished_run_says_so_and_shows_what_there_is(
    data_dir: Path, tmp_path: Path, epochs: int, finished: bool, words: str
) -> None:
    run = write_run(tmp_path / "run", histories.healthy()[:epochs], data_dir=data_dir, finished=finished)
    text = report(ReportConfig(runs=(run,))).page.read_text(encoding="utf-8")
    assert words in text
    assert ("No epoch is finished" in text) == (epochs == 0)


@pytest.mark.parametrize("history", [histories.broken, histories.diverging, lambda: histories.healthy()[:1]])
def test_a_run_that_broke_or_has_one_epoch_makes_a_page(
    history: Callable[[], list[Epoch]], data_dir: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", history(), data_dir=data_dir, finished=False)
    assert "Cross-entropy loss" in report(ReportConfig(runs=(run,))).page.read_text(encoding="utf-8")


def test_a_matrix_of_many_classes_is_a_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", histories.healthy(), data_dir=tmp_path, finished=False)
    told = yaml.safe_load((run / "config.yaml").read_text())
    told["classes"] = [f"class {number}" for number in range(100)]
    told["config"]["model"]["classes"] = 100
    (run / "config.yaml").write_text(yaml.safe_dump(told))
    matrix = [[0] * 100 for _ in range(100)]
    for place, row in enumerate(matrix):
        row[place], row[(place + 1) % 100] = 4, 1
    RunDir(run).write_confusion({"epoch": 1, "train": matrix, "val": matrix})
    text = report(ReportConfig(runs=(run,))).page.read_text(encoding="utf-8")
    assert 'alt="Confusion matrix of 100 classes, validation"' in text
    assert "class 0 → class 1" in text


def test_a_fast_dev_run_and_a_missing_dataset_are_named(data_dir: Path, tmp_path: Path) -> None:
    quick = write_run(tmp_path / "quick", [], data_dir=data_dir, finished=False, fast_dev_run=True)
    assert "trained one batch, and has no scores" in report(ReportConfig(runs=(quick,))).page.read_text("utf-8")
    lost = write_run(tmp_path / "lost", histories.healthy(), data_dir=tmp_path / "gone")
    assert "is not where it was, or has changed, so the report shows no images" in report(
        ReportConfig(runs=(lost,))
    ).page.read_text("utf-8")


def test_a_finished_run_without_its_dataset_shows_its_test_accuracy(data_dir: Path, tmp_path: Path) -> None:
    lost = write_run(tmp_path / "lost", histories.healthy(), data_dir=data_dir)
    whole = facts_of(lost).score
    told = yaml.safe_load((lost / "config.yaml").read_text())
    told["config"]["data"]["data_dir"] = str(tmp_path / "gone")
    (lost / "config.yaml").write_text(yaml.safe_dump(told))
    facts = facts_of(lost)
    assert facts.store is None
    assert facts.score is not None
    assert whole is not None
    assert (facts.score.split, facts.score.images) == ("test", whole.images)
    assert facts.score.accuracy == pytest.approx(facts.run.said("test_accuracy"), abs=0.5 / whole.images)
    RunDir(lost).predictions.unlink()
    only_validation = report(ReportConfig(runs=(lost,))).page.read_text("utf-8")
    assert "validation images are predicted right" in only_validation
    assert "mirror image averaged" not in only_validation


def test_a_comparison_lies_beside_the_run_however_it_is_named(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [write_run(tmp_path / name, histories.healthy(), data_dir=data_dir) for name in ("a", "b")]
    monkeypatch.chdir(runs[0])
    (runs[0] / "checkpoints").mkdir(exist_ok=True)
    assert ReportConfig(runs=(Path(), Path("../b"))).page == tmp_path / "report.html"
    assert ReportConfig(runs=(Path("checkpoints/.."), Path("../b"))).page == tmp_path / "report.html"
    assert ReportConfig(runs=(Path(),)).page == Path("report.html")


def test_runs_of_one_folder_name_are_told_apart_all_over_the_page(data_dir: Path, tmp_path: Path) -> None:
    runs = tuple(
        write_run(tmp_path / name / "seed-0", histories.healthy(), data_dir=data_dir) for name in ("one", "two")
    )
    text = report(ReportConfig(runs=runs)).page.read_text("utf-8")
    assert [text.count(f'<h2 id="run{number}-run">{name}:') for number, name in ((1, "seed-0"), (2, "seed-0~2"))] == [
        1,
        1,
    ]
    legend = text.partition("compared-val_accuracy")[2].partition("</figure>")[0]
    assert "seed-0~2" in legend


def test_the_record_of_a_run_may_have_thousands_of_class_names(data_dir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", histories.healthy(), data_dir=data_dir, finished=False)
    told = yaml.safe_load((run / "config.yaml").read_text())
    told["classes"] = [f"{number} " + "ж" * 70 for number in range(3000)]
    told["config"]["model"]["classes"] = 3000
    RunDir(run).write_config(told)
    assert (run / "config.yaml").stat().st_size > 400_000
    assert "ж" in (run / "config.yaml").read_text(encoding="utf-8")
    assert len(facts_of(run).run.classes) == 3000


def test_the_terminal_says_what_a_run_lacks(cifar, data_dir: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    quick = write_run(tmp_path / "quick", [], data_dir=data_dir, finished=False, fast_dev_run=True)
    begun = write_run(tmp_path / "begun", histories.healthy()[:2], data_dir=data_dir, finished=False)
    for run, words in ((quick, "it trained one batch, and has no scores"), (begun, "not finished: 2 epochs of 10")):
        assert words in " ".join(cifar("report", run).stdout.split())


def test_the_environment_has_each_figure_once(data_dir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", histories.healthy(), data_dir=data_dir)
    told = yaml.safe_load((run / "config.yaml").read_text())
    told |= {"content": "sha256:1a", "data": {"source": "drawn", "content_checksum": "sha256:1a"}}
    (run / "config.yaml").write_text(yaml.safe_dump(told))
    text = report(ReportConfig(runs=(run,))).page.read_text(encoding="utf-8")
    assert text.count("sha256:1a") == 1
    assert '<th scope="row">cifar version</th><td>0.1.0</td>' in text
    (run / "config.yaml").write_text(yaml.safe_dump(told | {"data": [1]}))
    assert "Environment" in report(ReportConfig(runs=(run,))).page.read_text(encoding="utf-8")


def test_a_long_file_name_breaks_at_its_folders(data_dir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", histories.healthy(), data_dir=data_dir)
    facts = facts_of(run)
    assert facts.predicted is not None
    named = replace(facts.predicted, files=("test/automobile/0509.jpg",) * len(facts.predicted))
    assert "<span>test/<wbr>automobile/<wbr>0509.jpg</span>" in page_of([replace(facts, predicted=named)], [()])


def test_what_is_no_run_is_refused_with_a_remedy(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no run at"):
        report(ReportConfig(runs=(tmp_path / "nothing",)))
    write_run(tmp_path / "runs" / "first", histories.healthy(), data_dir=data_dir)
    write_run(tmp_path / "runs" / "seeded" / "seed-0", histories.healthy(), data_dir=data_dir)
    with pytest.raises(CheckpointError, match="runs is not a run, but holds 2 runs") as caught:
        report(ReportConfig(runs=(tmp_path / "runs",)))
    listed = " ".join(str(tmp_path / "runs" / name) for name in ("first", "seeded/seed-0"))
    assert caught.value.remedy == f"pass one or more of them: {listed}"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no config.yaml"):
        report(ReportConfig(runs=(tmp_path / "empty",)))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("a: 1")
    with pytest.raises(CheckpointError, match="was not written by this version"):
        report(ReportConfig(runs=(tmp_path / "foreign",)))
    with pytest.raises(ConfigError, match="is not named as a page"):
        ReportConfig(runs=(tmp_path,), out=Path("report.pdf"))
    with pytest.raises(ConfigError, match="no run to report on"):
        ReportConfig(runs=())


def test_a_page_that_can_t_be_written_is_an_error_with_a_remedy(data_dir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", histories.healthy(), data_dir=data_dir)
    with pytest.raises(ResourceError, match="can't be written") as caught:
        report(ReportConfig(runs=(run,), out=run / "config.yaml" / "report.html"))
    assert "--out" in str(caught.value.remedy)


def test_a_report_that_fails_leaves_the_training_as_it_is() -> None:
    from tests.render.test_training_view import RESULT

    said: list[str] = []

    def fail(config: ReportConfig) -> None:
        raise RuntimeError("no font")

    report_after_training([RESULT], said.append, write=fail)  # type: ignore[arg-type]
    assert said == ["the report was not written (RuntimeError: no font); the run is complete without it"]
    assert isinstance(RESULT, TrainResult)


def test_every_point_of_a_chart_tells_its_value_and_the_table_repeats_it() -> None:
    lines = [
        Series(name="validation", x=[1, 2, 3], y=[0.1, float("nan"), 0.35], colour=0),
        Series(name="train", x=[1, 2], y=[0.2, 0.3], colour=1),
    ]
    chart = line_chart("a", "A", lines, summary="s", x_label="epoch", y_label="accuracy", percent=True)
    assert re.findall("<title>(.*?)</title>", chart.svg) == [
        "validation, epoch 1: 10.00%", "validation, epoch 3: 35.00%",
        "train, epoch 1: 20.00%", "train, epoch 2: 30.00%",
    ]  # fmt: skip
    assert chart.columns == ("epoch", "validation", "train")
    assert chart.rows[0] == ("1", "10.00%", "20.00%")
    assert chart.rows[2] == ("3", "35.00%", "")
    assert "#0" not in re.sub(r'(?:href|url\()="?#', "", chart.svg), "all colours are the page's"
    bars = bar_chart("b", "B", {"data": 1.0, "test": 2.5}, summary="s", x_label="seconds")
    assert re.findall("<title>(.*?)</title>", bars.svg) == ["data: 1.0", "test: 2.5"]
