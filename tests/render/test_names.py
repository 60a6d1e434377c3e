"""Text of users is shown as it is: brackets are no markup, colons no emoji codes."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.text import Text

import cifar_cli.render
from cifar_cli.core.evaluation.results import Calibration, ClassScore, ConfusedPair, EvaluateResult, Interval
from cifar_cli.core.progress import Progress
from cifar_cli.render import console, evaluation_tables, tables
from cifar_cli.render.progress import progress_shown
from tests.golden import rendered

NAMES = ["[other]", "[bold]x[/bold]", "run [a] 1", "[/]", ":smile:", "\\[x]"]
MODULES = sorted(Path(cifar_cli.render.__file__).parent.glob("*.py"))


def _calls(module: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2], node


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_nothing_that_is_shown_is_parsed_as_markup(module: Path) -> None:
    """Every console is made by `console_on`, which parses none; classes that parse by themselves are told not to."""
    for name, call in _calls(module):
        assert name not in ("from_markup", "render_markup", "escape"), ast.unparse(call)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("markup", "False") == "False", ast.unparse(call)
        if name == "Console":
            assert (module.stem, given["markup"], given["emoji"]) == ("console", "False", "False")
        if name == "TextColumn":
            assert given["markup"] == "False", ast.unparse(call)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are_in_tables_messages_and_progress(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    score = ClassScore(name=name, images=1, precision=1.0, recall=1.0, f1=1.0)
    result = EvaluateResult(
        checkpoint=Path(name), model=name, dataset=name, synthetic=False, split="test", images=1, accuracy=1.0,
        accuracy_interval=Interval(low=0.0, high=1.0), top5_accuracy=None, chance=1.0, loss=0.0, per_class=(score,),
        confusion=((1,),), confused_pairs=(ConfusedPair(true=name, predicted=name, images=1, share=1.0),),
        calibration=Calibration(error=0.0, bins=()), mistakes=(), suspects=(), folder=Path(name),
    )  # fmt: skip
    assert rendered(evaluation_tables.evaluation(result), width=120).count(name) == 6
    columns: dict[str, list[str | Text]] = {name: [name]}
    assert rendered(tables.table_of(columns, footer=(name,), title=name, caption=name), width=120).count(name) == 5
    console.note(name)
    console.warn(name)
    console.error(name, name)
    assert capsys.readouterr().err.count(name) == 4
    bars = io.StringIO()
    with progress_shown(console.console_on(bars, force_terminal=True, width=100)) as listen:
        shown = Progress(task=name, done=1, total=9, unit="images", detail=name)
        listen(shown)
        listen(replace(shown, done=2))
    assert name in bars.getvalue()
