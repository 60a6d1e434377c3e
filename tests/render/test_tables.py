"""Every table has the one style of titles."""

from __future__ import annotations

import ast
from pathlib import Path

import cifar_cli.render
from cifar_cli.render.tables import new_table, table_of
from tests.golden import rendered

MODULES = sorted(Path(cifar_cli.render.__file__).parent.glob("*.py"))


def test_titles_and_captions_stand_on_the_left() -> None:
    made = table_of({"a": ["1"], "b": ["2"]}, title="T", caption="C", min_width=30)
    lines = rendered(made, width=40).splitlines()
    assert (lines[0], lines[-1]) == ("T", "C")


def test_no_word_of_a_heading_is_broken_where_the_cells_give_way() -> None:
    columns = {"run": ["a-name-that-is-long-" * 3], "calibration error": ["2.18%"], "": [""]}
    lines = rendered(table_of(columns, words=("run",)), width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert any("calibration" in line for line in lines)


def test_only_one_function_makes_tables_so_that_all_have_its_style() -> None:
    makers = []
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Table":
                makers.append(module.stem)
    assert makers == [new_table.__module__.rpartition(".")[2]]
