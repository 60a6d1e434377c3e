"""The tables of `summarize` at 80 and 120 columns, compared in full, with their sums."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.results import COUNTS, LayerRow, ModelSummary, SummaryReport, UncountedOperator
from cifar_cli.core.counting.summary import summarize
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import MODELS, spec_of
from cifar_cli.render import summary_tables
from tests.golden import WIDTHS, Golden, rendered


@cache
def counted(model: str) -> ModelSummary:
    name, _, trim = model.partition(" ")
    return summarize(SummaryConfig(model=ModelConfig(name=name, weights="none", trim_backbone=bool(trim))))


def shown(*models: ModelSummary, width: int, layers: bool = True, memory: bool = False) -> str:
    return rendered(*summary_tables.report(models, layers=layers, memory=memory, width=width), width=width)


def column(table: str, heading: str) -> list[int]:
    """The numbers of a right-justified column of the layer table."""
    head, *lines = (line for line in table.splitlines() if line.strip())
    end = head.index(heading) + len(heading)
    numbers = [found for line in lines for found in re.finditer(r"[\d,]+", line) if found.end() == end]
    return [int(number[0].replace(",", "")) for number in numbers]


def rows_of(text: str) -> dict[str, list[float]]:
    """The rows of the counts, several tables joined: label to one number for each model."""
    rows: dict[str, list[float]] = {}
    for label, cells in re.findall(r"^ +(\w.*?) {2,}([\d,. MB*]+)$", text, re.MULTILINE):
        rows.setdefault(label, []).extend(float(number.replace(",", "")) for number in re.findall(r"[\d,.]+", cells))
    return rows


TRIMMED = "hybrid --trim-backbone"
VIEWS: dict[str, tuple[list[str], dict[str, bool]]] = {
    "null": (["null"], {}),
    "cnn": (["cnn"], {}),
    "hybrid": (["hybrid"], {}),
    "hybrid-trimmed-memory": ([TRIMMED], {"memory": True}),
    "all-memory": ([*MODELS], {"layers": False, "memory": True}),
    "six": ([*MODELS, "timm:resnet18", "timm:mobilenetv3_small_100", TRIMMED], {"layers": False}),
}


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_tables_look_like_their_golden_file(view: str, width: int, golden: Golden) -> None:
    models, options = VIEWS[view]
    text = shown(*map(counted, models), width=width, **options)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    golden(f"counting/{view}-{width}", text)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("model", [*MODELS, TRIMMED])
def test_columns_of_the_layer_table_add_up_to_the_counts(model: str, width: int) -> None:
    summary = counted(model)
    table = rendered(summary_tables.layer_table(summary, width=width), width=width)
    counts = rows_of(shown(summary, width=width, layers=False))
    assert [sum(column(table, "params"))] == counts["parameters"] == [summary.total_params]
    assert [sum(column(table, "mult-adds"))] == counts["multiply-adds per batch"] == [summary.macs_per_batch]


@pytest.mark.parametrize("width", WIDTHS)
def test_memory_rows_add_up_to_their_sum_for_every_model(width: int) -> None:
    rows = rows_of(shown(*map(counted, MODELS), width=width, layers=False, memory=True))
    parts = [numbers for label, numbers in rows.items() if label.startswith("memory: ") and label != "memory: sum"]
    assert len(parts) == 5
    sums = [sum(of_model) for of_model in zip(*parts, strict=True)]
    assert sums == pytest.approx(rows["memory: sum"], abs=5 * 0.005 + 0.005)  # each is rounded to 0.01 MB


@pytest.mark.parametrize("name", [*MODELS, "timm:resnet18"])
def test_every_registered_model_has_a_source_and_a_summary_is_counted_and_reaches_the_tables(name: str) -> None:
    spec = spec_of(name)
    assert spec.source
    assert spec.summary
    model = counted(name)
    text = shown(model, width=120)
    assert f"{model.label}: counts" in text
    for table in ("layers", "largest layers"):
        assert f"{model.label}: {table}" in text
    assert rows_of(text)["parameters"] == [model.total_params]
    assert model.total_params > 0


def test_names_that_do_not_fit_cost_columns_first_and_letters_last() -> None:
    hybrid = counted("hybrid")
    wide, narrow, tiny = (
        rendered(summary_tables.layer_table(hybrid, width=width), width=width) for width in (120, 80, 60)
    )
    assert "train    mult-adds" in wide
    assert "not shown" not in wide
    assert "not shown at this width: train, input" in narrow
    assert "to_patch_embedding Sequential" in narrow
    assert "to_patch_embedding Sequential" not in tiny
    assert column(tiny, "mult-adds") == column(wide, "mult-adds")


def test_the_column_train_stays_where_layers_differ() -> None:
    hybrid = counted("hybrid")
    frozen = replace(hybrid, layers=(*hybrid.layers[:-1], replace(hybrid.layers[-1], trainable="no")))
    table = rendered(summary_tables.layer_table(frozen, width=80), width=80)
    assert "not shown at this width: input\n" in table
    assert re.search(r"linear_head Linear .* no ", table)


def test_a_layer_that_is_called_twice_shows_its_parameters_once() -> None:
    def row(name: str, params: int | None, recurs: bool = False) -> LayerRow:
        shape = (1, 8)
        return LayerRow(
            name=name,
            kind="Linear",
            depth=int(bool(name)),
            input_shape=shape,
            output_shape=shape,
            params=params,
            trainable="yes",
            macs=64,
            recurs=recurs,
        )

    shared = replace(counted("null"), layers=(row("", None), row("fold", 72), row("fold", None, recurs=True)))
    table = rendered(summary_tables.layer_table(shared, width=80), width=80)
    assert [line.split()[-3] for line in table.splitlines() if "fold" in line] == ["72", "again"]


def test_models_below_each_other_carry_the_mark_of_the_best_of_all() -> None:
    hybrid, null = counted("hybrid"), counted("null")
    hybrids = [replace(hybrid, label=label) for label in ("one", "two", "three")]
    text = shown(*hybrids, null, width=80, layers=False)
    rows = [line for line in text.splitlines() if line.startswith(" parameters   ")]
    assert [row.count("*") for row in rows] == [0, 1]
    assert rows[1].split() == ["parameters", "545,098", "*"]


def test_equal_models_carry_no_mark() -> None:
    null = counted("null")
    text = shown(null, replace(null, label="again"), width=80, layers=False)
    assert "*" not in text.replace("* best of its row", "")


def test_operators_of_unknown_cost_are_named_apart_from_cheap_ones() -> None:
    operators = [("aten_mystery", "unknown"), ("relu_", "elementwise"), ("native_layer_norm_backward", "normalisation")]
    summary = replace(
        counted("null"),
        uncounted_operators=tuple(UncountedOperator(name=name, group=group, calls=1) for name, group in operators),
    )
    lines = rendered(summary_tables.notes([summary], memory=False), width=200).splitlines()
    assert "not in FLOPs    A few operations per value: elementwise (relu); normalisation (layer_norm)." in lines
    assert ("unknown cost    Not in FLOPs, and perhaps more than a few operations per value: aten_mystery.") in lines


NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def numbers_in(value: Any) -> Iterator[str]:
    """Every number of a JSON document, as tables may write it."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(inner)
    elif isinstance(value, str):
        yield from NUMBER.findall(value)
    elif isinstance(value, int | float):
        yield from (f"{value}", f"{value:,}", f"{value:.2f}", f"{value / 1e6:,.2f}", f"{value * 100:.1f}")


@pytest.mark.parametrize("view", VIEWS)
def test_every_number_of_the_tables_is_in_the_json(view: str) -> None:
    models, options = VIEWS[view]
    document = json.loads(json.dumps(SummaryReport(models=tuple(map(counted, models))).to_dict()))
    tables = shown(*map(counted, models), width=120, **options).split("\nparameters ")[0]  # without the notes
    assert {*NUMBER.findall(tables)} <= {*numbers_in(document)}


def test_every_compared_count_has_one_row_and_its_mark_is_in_the_json() -> None:
    assert {*summary_tables._COUNTS, *summary_tables._MEMORY} == {*COUNTS}
    report = SummaryReport(models=tuple(map(counted, MODELS)))
    assert report.best("total_params") == (0,)
    assert report.best("unused_params") == (0, 1, 3)
    assert report.best("forward_flops_per_byte") == (3,)
    document = json.loads(json.dumps(report.to_dict()))
    assert {count: tuple(places) for count, places in document["best"].items()} == {
        count: report.best(count) for count in COUNTS
    }
    assert SummaryReport(models=report.models[:1]).to_dict()["best"] == {}
