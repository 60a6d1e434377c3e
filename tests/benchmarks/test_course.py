"""`benchmarks/course.py` writes the answers of runs into the page of the course."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from cifar_cli.core.evaluation.report.answers import answers_of
from cifar_cli.core.evaluation.report.facts import facts_of
from cifar_cli.core.models.config import ModelConfig
from tests.core.evaluation.report import histories
from tests.core.evaluation.report.histories import write_run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/course.md"


@pytest.fixture(scope="module")
def course() -> ModuleType:
    spec = importlib.util.spec_from_file_location("course", ROOT / "benchmarks/course.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("course")
    hybrid = ModelConfig(name="hybrid", weights="none", trim_backbone=True)
    return (
        write_run(folder / "null", histories.healthy(), data_dir=data_dir),
        write_run(folder / "hybrid", histories.overfitting(), data_dir=data_dir, model=hybrid),
    )


def test_the_page_has_every_question_of_the_report_and_no_other(course: ModuleType, runs: tuple[Path, ...]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    answers = answers_of(facts_of(runs[0]))
    marks = [match[1] for match in course.PART.findall(page)]
    assert sorted(marks) == sorted([*(answer.key for answer in answers), "machine", "comparison"])
    for answer in answers:
        assert f"\n### {answer.question}\n" in page


def test_the_answers_of_the_runs_are_written_and_the_missing_model_is_named(
    course: ModuleType, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    course.main([*map(str, runs), "--page", str(page)])
    text = page.read_text(encoding="utf-8")
    for run in runs:
        for answer in answers_of(facts_of(run)):
            assert f"- **{run.name}**: {answer.sentence}\n" in text
    assert "\n| parameters | 545,098 | 2,331,722 |\n" in text
    assert "\n- null has the highest test accuracy, 80.00%; hybrid follows with 70.00%, and the difference is " in text
    assert text.count("- **cnn**: not measured yet") == len(course.PART.findall(text)) - 1, "all but the comparison"
    outside = [course.PART.sub("", each) for each in (text, PAGE.read_text(encoding="utf-8"))]
    assert outside[0] == outside[1]
    course.main([*map(str, runs), "--page", str(page)])
    assert page.read_text(encoding="utf-8") == text, "writing again changes nothing"


def test_without_a_run_nothing_is_claimed(course: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    course.main(["--page", str(page)])
    for part in course.PART.finditer(page.read_text(encoding="utf-8")):
        lines = [line for line in part[0].splitlines()[1:-1] if line]
        assert lines
        assert all(line.endswith(("not measured yet", "not measured yet.")) for line in lines)
    assert not re.search(r"\d%", page.read_text(encoding="utf-8"))
