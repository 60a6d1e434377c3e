"""Puts a report together: one HTML file without references to others."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from cifar_cli import __version__
from cifar_cli.core.evaluation.explain import METHOD, overlay, place_of
from cifar_cli.core.evaluation.ranking import mistakes, suspects
from cifar_cli.core.evaluation.report.answers import SPLITS, duration, pairs_of, share
from cifar_cli.core.evaluation.report.comparison import table
from cifar_cli.core.evaluation.report.curves import comparison_charts, run_charts
from cifar_cli.core.evaluation.report.facts import SHOWN, Facts
from cifar_cli.core.evaluation.report.recorded import Matrix
from cifar_cli.core.evaluation.report.results import Answer, Comparison
from cifar_cli.core.evaluation.results import RankedImage
from cifar_cli.core.figures import confusion_figure

PAIRS, IMAGES_OF_PAIR = 5, 4
MOST_CLASSES = 20  # a table of more is too large to read; a picture shows them
MOST_PIXELS = 96  # images are embedded with at most this side


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An embedded image with its caption."""

    data: str
    alt: str
    caption: tuple[str, ...]
    heat: str | None = None
    """The same image with its heat map over it."""
    heat_alt: str = ""


def page(runs: Sequence[Facts], answers: Sequence[tuple[Answer, ...]], comparison: Comparison | None = None) -> str:
    """The HTML of a report over one run, or over several with their comparison."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "duration": duration}
    title = runs[0].run.label if len(runs) == 1 else f"{len(runs)} runs"
    names = [each.name for each in comparison.runs] if comparison else [runs[0].run.label]
    return environment.get_template("page.html.jinja").render(
        title=f"Report on {title}",
        version=__version__,
        comparison=comparison,
        compared=table(comparison) if comparison else (),
        comparison_charts=comparison_charts(runs, names) if comparison else (),
        runs=[
            _run_context(facts, each, number, name)
            for number, (facts, each, name) in enumerate(zip(runs, answers, names, strict=True))
        ],
    )


def _run_context(facts: Facts, answers: tuple[Answer, ...], number: int, name: str) -> dict[str, Any]:
    """What the template shows of a run. Ids of several runs differ by their prefix."""
    run = facts.run
    return {
        "id": f"run{number + 1}-",
        "name": name,
        "facts": facts,
        "run": run,
        "answers": answers,
        "charts": {chart.name.partition("-")[2]: chart for chart in run_charts(facts, prefix=f"run{number + 1}")},
        "matrices": _matrices(facts),
        "samples": _samples(facts),
        "pairs": _pairs(facts),
        "mistakes": _pictures(facts, mistakes),
        "suspects": _pictures(facts, suspects),
        "method": METHOD if facts.heat else None,
        "config": yaml.safe_dump(run.config.to_dict(), sort_keys=False),
        "environment": _environment(run.told),
        "command": run.told.get("command"),
    }


def _environment(told: Mapping[str, Any]) -> list[tuple[str, str | int | float]]:
    """Versions, device and data as rows of a table."""
    kept = told.get("data")
    data: dict[str, Any] = kept if isinstance(kept, dict) else {}
    rows = {"cifar version" if name == "version" else name: value for name, value in told.items()} | data
    passed_over = {"command"} | ({"content"} if "content_checksum" in data else set())
    return [
        (name, value)
        for name, value in rows.items()
        if name not in passed_over and isinstance(value, (str, int, float))
    ]


def _matrices(facts: Facts) -> list[dict[str, Any]]:
    classes = facts.run.classes
    return [
        {
            "name": name,
            "rows": _rows(matrix, classes) if len(classes) <= MOST_CLASSES else None,
            "picture": None if len(classes) <= MOST_CLASSES else _drawn(matrix, classes, title=name),
        }
        for split, name in SPLITS.items()
        if (matrix := facts.matrices.get(split))
    ]


def _rows(matrix: Matrix, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": classes[row],
            "cells": [
                {"count": count, "share": count / max(sum(counts), 1), "diagonal": row == column}
                for column, count in enumerate(counts)
            ],
        }
        for row, counts in enumerate(matrix)
    ]


def _drawn(matrix: Matrix, classes: tuple[str, ...], *, title: str) -> str:
    """A large matrix as a picture."""
    import torch

    file = io.BytesIO()
    confusion_figure(torch.tensor(matrix), classes, title=title).savefig(file, format="png")
    return _as_data(file.getvalue())


def _as_data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _embedded(image_HWC: Tensor) -> str:
    """uint8 [H, W, 3] as a PNG; the browser enlarges small ones."""
    image = Image.fromarray(image_HWC.numpy())
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return _as_data(file.getvalue())


def _samples(facts: Facts) -> list[dict[str, Any]]:
    samples, classes = facts.samples, facts.run.classes
    if samples is None:
        return []
    shown = zip(samples.rows, samples.original_NHWC, samples.augmented_NHWC, samples.labels_N.tolist(), strict=True)
    return [
        {
            "name": classes[label],
            "original": _embedded(original),
            "augmented": _embedded(augmented),
            "alt": f"training image {row}, {classes[label]}",
        }
        for row, original, augmented, label in shown
    ]


def _test_picture(facts: Facts, ranked: RankedImage, *, with_heat: bool) -> Picture:
    """A test image with its given and its predicted class. with_heat: beside its heat map, if there is one."""
    assert facts.store is not None
    image_HWC = facts.store.test.images_NHWC[ranked.index]
    heat_HW = facts.heat.get(ranked.index) if with_heat else None
    return Picture(
        data=_embedded(image_HWC),
        heat=None if heat_HW is None else _embedded(overlay(image_HWC, heat_HW)),
        heat_alt=""
        if heat_HW is None
        else f"heat map of test image {ranked.index}; {ranked.predicted} rests most on: {place_of(heat_HW)}",
        alt=f"test image {ranked.index}",
        caption=(
            ranked.file or f"test image {ranked.index}",
            f"label: {ranked.true} ({ranked.true_probability:.0%})",
            f"predicted: {ranked.predicted} ({ranked.confidence:.0%})",
        ),
    )


def _pairs(facts: Facts) -> list[dict[str, Any]]:
    wrong = () if facts.predicted is None else mistakes(facts.predicted)
    return [
        {
            "name": f"{pair.true} → {pair.predicted}",
            "images": pair.images,
            "share": pair.share,
            "pictures": [
                _test_picture(facts, each, with_heat=False)
                for each in [each for each in wrong if (each.true, each.predicted) == (pair.true, pair.predicted)][
                    :IMAGES_OF_PAIR
                ]
            ],
        }
        for pair in pairs_of(facts, most=PAIRS)
    ]


def _pictures(facts: Facts, rank: Callable[..., tuple[RankedImage, ...]]) -> list[Picture]:
    """The first test images of a ranking."""
    if facts.predicted is None:
        return []
    return [_test_picture(facts, each, with_heat=True) for each in rank(facts.predicted, most=SHOWN)]
