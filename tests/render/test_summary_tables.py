"""The summary's tables at fixed widths."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.results import ModelSummary
from cifar_cli.core.counting.summary import summarize
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.render import summary_tables


@pytest.fixture(scope="module")
def null() -> ModelSummary:
    return summarize(SummaryConfig(model=ModelConfig(name="null"), batch=128))


@pytest.fixture(scope="module")
def hybrid() -> ModelSummary:
    return summarize(SummaryConfig(model=ModelConfig(name="hybrid", weights="none"), batch=128))


def printed(renderables: object, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for renderable in renderables if isinstance(renderables, list) else [renderables]:
        console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_layer_table_of_null_looks_like_this(null: ModelSummary) -> None:
    assert printed(summary_tables.layer_table(null, width=80), 80) == SNAPSHOT


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_screen_and_no_number_is_cut(hybrid: ModelSummary, width: int) -> None:
    table = printed(summary_tables.layer_table(hybrid, width=width), width)
    assert all(len(line) <= width for line in table)
    assert len(table) == len(hybrid.layers) + 4  # a row never takes two lines
    for row in hybrid.layers:
        line = table[3 + hybrid.layers.index(row)]
        assert row.macs is None or line.endswith(f"{row.macs:,}")
        assert "×".join(map(str, row.output_shape)) in line


def test_tree_branches_end_where_their_siblings_end(hybrid: ModelSummary) -> None:
    lines = printed(summary_tables.layer_table(hybrid, width=120), 120)
    assert any(line.startswith(" ├ backbone") for line in lines)
    assert any(line.startswith(" │ └ layer4") for line in lines)
    assert any(line.startswith(" │   └ 1 BasicBlock") for line in lines)
    assert any(line.startswith("   └ linear_head") for line in lines)


def test_models_that_do_not_fit_side_by_side_continue_below_with_the_best_marked_among_all(
    null: ModelSummary, hybrid: ModelSummary
) -> None:
    summaries = [hybrid, hybrid, hybrid, null]
    narrow = printed(list(summary_tables.report(summaries, layers=False, memory=False, width=80)), 80)
    rows = [line for line in narrow if line.startswith("  parameters  ")]
    assert [row.count("*") for row in rows] == [0, 1]
    assert rows[1].split() == ["parameters", "13,350,730", "545,098", "*"]


def test_each_counter_says_what_it_counts(null: ModelSummary) -> None:
    text = " ".join(printed(summary_tables.notes([null], memory=True), 200))
    for counter in ("parameters:", "multiply-adds:", "FLOPs:", "training step:", "byte moved:", "memory:", "pooling ("):
        assert counter in text


SNAPSHOT = [
    "",
    " layer                 input         output         params  train    mult-adds",
    " ──────────────────────────────────────────────────────────────────────────────",
    " null Null             128×3×32×32   128×10                 yes",
    " ├ features Sequenti…  128×3×32×32   128×64×8×8             yes",
    " │ ├ 0 Conv2d          128×3×32×32   128×32×32×32      896  yes    117,440,512",
    " │ ├ 1 ReLU            128×32×32×32  128×32×32×32",
    " │ ├ 2 MaxPool2d       128×32×32×32  128×32×16×16",
    " │ ├ 3 Conv2d          128×32×16×16  128×64×16×16   18,496  yes    606,076,928",
    " │ ├ 4 ReLU            128×64×16×16  128×64×16×16",
    " │ └ 5 MaxPool2d       128×64×16×16  128×64×8×8",
    " └ head Sequential     128×64×8×8    128×10                 yes",
    "   ├ 0 Flatten         128×64×8×8    128×4096",
    "   ├ 1 Linear          128×4096      128×128       524,416  yes     67,125,248",
    "   ├ 2 ReLU            128×128       128×128",
    "   └ 3 Linear          128×128       128×10          1,290  yes        165,120",
    "",
]
