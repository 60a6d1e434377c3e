"""Names from outside in every picture: nothing fails, nothing runs off the picture, nothing is an empty box."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

import cifar_cli
from cifar_cli.core.augment.results import PreviewResult
from cifar_cli.core.evaluation.figures import corruptions_figure, explanation_figure, ranked_figure, reliability_figure
from cifar_cli.core.evaluation.report.charts import Series, bar_chart, line_chart
from cifar_cli.core.evaluation.results import (
    Calibration,
    CalibrationBin,
    CorruptionScore,
    FilePrediction,
    PredictResult,
    RankedImage,
)
from cifar_cli.core.figures import confusion_figure, pairs_figure, samples_figure
from cifar_cli.core.lettering import class_names, ems_of, families, lettered, titled
from cifar_cli.render.pictures import preview_figure

NASTY = (
    "$50_$100",
    "$\\frac{",
    "a\\$b$",
    "x^2_$y$",
    "_hidden",
    "猫",
    "日本語の名前です",
    "قطة",
    "नमस्ते",
    "🐱👨‍👩‍👧",
    "cafe\u0301",
    "a\u202fb\u200f",
    "W" * 200,
    "W" * 200 + "b",
    "%s{0} ⌚",
    "a b " * 50,
)
TITLE = "timm:$x$ on " + " ".join(NASTY)
COUNT = len(NASTY)
IMAGES = torch.zeros(COUNT, 8, 8, 3, dtype=torch.uint8)
LABELS = torch.arange(COUNT)


def _ranked() -> Figure:
    ranked = [
        RankedImage(
            index=number, file=f"{name}/{name}.png", true=name, predicted=NASTY[-number], confidence=1.0,
            true_probability=0.1,
        )
        for number, name in enumerate(NASTY)
    ]  # fmt: skip
    return ranked_figure(IMAGES, ranked, title=TITLE)


def _reliability() -> Figure:
    bins = (CalibrationBin(low=0, high=1, images=3, confidence=0.5, accuracy=0.5),)
    return reliability_figure(Calibration(error=0.1, bins=bins), title=TITLE)


def _corruptions() -> Figure:
    scores = [CorruptionScore(kind=kind, accuracies=(0.5,) * 5) for kind in "abcde"]
    return corruptions_figure(scores, clean=0.9, title=TITLE)


def _preview() -> Figure:
    result = PreviewResult(
        grid_RCHWC=torch.zeros(COUNT, 2, 8, 8, 3, dtype=torch.uint8),
        changed_RC=torch.zeros(COUNT, 2, dtype=torch.bool),
        row_names=NASTY,
        column_names=("original", "1 " + NASTY[0]),
        steps=(),
        shows_steps=True,
        pipeline="albumentations",
        policy=TITLE,
        seed=0,
    )
    return preview_figure(result)


def _many(classes: int) -> Figure:
    names = [*NASTY, *(f"class {number}" for number in range(classes - COUNT))]
    return confusion_figure(torch.eye(classes, dtype=torch.long), names, title=TITLE)


def _explanation() -> Figure:
    predictions = tuple(
        FilePrediction(file=f"{name}/{name}.png", probabilities=(1 / COUNT,) * COUNT, remarks=()) for name in NASTY
    )
    result = PredictResult(
        checkpoint=Path("best.ckpt"), model="null", classes=NASTY, predictions=predictions, images_NHWC=IMAGES,
        problems=(), unfinished=None, overlays_NHWC=IMAGES, places=("upper left",) * COUNT,
    )  # fmt: skip
    return explanation_figure(result)


FIGURES: dict[str, Callable[[], Figure]] = {
    "confusion_figure": lambda: confusion_figure(torch.eye(COUNT, dtype=torch.long), NASTY, title=TITLE),
    "confusion_figure of 100": lambda: _many(100),
    "confusion_figure of 1000": lambda: _many(1000),
    "samples_figure": lambda: samples_figure(IMAGES, LABELS, LABELS.flip(0), NASTY, title=TITLE),
    "pairs_figure": lambda: pairs_figure(IMAGES, IMAGES, list(zip(NASTY, NASTY, NASTY, strict=True)), title=TITLE),
    "ranked_figure": _ranked,
    "explanation_figure": _explanation,
    "reliability_figure": _reliability,
    "corruptions_figure": _corruptions,
    "preview_figure": _preview,
}
LINES = [Series(name=name, x=[1, 2], y=[1, 2], colour=0) for name in NASTY]
CHARTS: dict[str, Callable[[], str]] = {
    "line_chart": lambda: (
        line_chart(
            "n",
            "t",
            [Series(name=name, x=[1, 2], y=[1, 2], colour=0) for name in NASTY],
            summary="",
            x_label="",
            y_label="",
        ).svg
    ),
    "bar_chart": lambda: bar_chart("n", "t", dict.fromkeys(NASTY, 1.0), summary="", x_label="seconds").svg,
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_with_any_names_is_drawn_within_its_edges_and_without_a_warning(
    name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name]()
        figure.canvas.draw()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    texts = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text()]
    assert any("$50_$100" in each.get_text() for each in texts)
    assert not any(each.get_parse_math() for each in texts if "$" in each.get_text())
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches() + 1e-6
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_with_any_names_holds_all_of_them_and_gives_no_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = ElementTree.fromstring(CHARTS[name]())
    texts = ["".join(each.itertext()) for each in svg.iter("{http://www.w3.org/2000/svg}text")]
    for start in ("$50_$100", "$\\frac{", "a\\$b$", "_hidden", "\\u732b", "WWW"):
        assert any(text.startswith(start) for text in texts), start


def test_every_function_that_draws_is_walked_above() -> None:
    """Found in the source: what makes a figure, other than the two helpers that hand out an empty one."""
    drawing = set()
    for path in Path(cifar_cli.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name not in ("new_figure", "_figure"):
                calls = [each.func for each in ast.walk(function) if isinstance(each, ast.Call)]
                called = {each.id for each in calls if isinstance(each, ast.Name)}
                if called & {"Figure", "new_figure", "_figure"}:
                    drawing.add(function.name)
                    decorators = [each.id for each in function.decorator_list if isinstance(each, ast.Name)]
                    assert "plain_lettering" in decorators, function.name
    assert drawing == {name.split()[0] for name in FIGURES} | set(CHARTS)


def test_two_long_names_with_the_same_beginning_are_told_apart_by_their_numbers() -> None:
    names = class_names(("ok", "a" * 50 + "1", "a" * 50 + "2"))
    assert names[0] == "ok"
    assert [name[:4] for name in names[1:]] == ["1: a", "2: a"]


def test_a_character_without_a_glyph_is_an_escape_after_the_class_s_number() -> None:
    assert class_names(("dog", "\ue123")) == ["dog", "1: \\ue123"]


def test_a_font_further_down_the_list_draws_what_the_first_one_lacks() -> None:
    """The watch is in STIXGeneral, which comes with matplotlib, and not in DejaVu Sans."""
    assert {"DejaVu Sans", "STIXGeneral"} <= set(families())
    assert lettered("⌚") == "⌚"


def test_a_text_is_cut_at_its_end_or_at_its_beginning_to_the_width_asked_for() -> None:
    name = "one/" + "folder/" * 20 + "cat.png"
    assert lettered(name, 10).startswith("one/")
    assert lettered(name, 10, from_end=True).endswith("cat.png")
    for from_end in (False, True):
        assert 9 < ems_of(lettered(name, 10, from_end=from_end)) <= 10
    assert lettered("short") == "short"


def test_a_title_is_broken_between_words_and_cut_after_its_last_line() -> None:
    assert titled("one two three four", inches=0.8, points=10) == "one two\nthree four"
    assert titled("one two three four five", inches=0.8, points=10) == "one two\nthree fou…"
    assert titled("one two", inches=0.8, points=10) == "one two"
