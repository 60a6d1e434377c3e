"""The picture of README.md shows what the table in docs/performance.md says."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "accuracy_by_minutes.py"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("accuracy_by_minutes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy_by_minutes"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["accuracy_by_minutes"]


def test_the_picture_is_drawn_from_the_table_as_it_is_now(benchmark: ModuleType) -> None:
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.PICTURE.read_text(encoding="utf-8") == benchmark.drawn(benchmark.rows(page)), f"run {SCRIPT}"
    for line in benchmark.TABLE.search(page)[1].strip().splitlines()[2:]:
        _, name, minutes, accuracy, *_ = (cell.strip() for cell in line.split("|"))
        name = name.replace("`", "").replace("'", "&#x27;")
        assert f">{name}</text>" in benchmark.PICTURE.read_text(encoding="utf-8")
        assert f">{accuracy}, {minutes} min</text>" in benchmark.PICTURE.read_text(encoding="utf-8")


def test_a_longer_run_stands_further_right_and_a_better_one_higher(benchmark: ModuleType) -> None:
    row = benchmark.Row
    found = [row(name="a", minutes=at, percent=10 * at, own=True, timed=at != 4) for at in (2.0, 4.0, 9.0)]
    picture = benchmark.drawn(found)
    points = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', picture)]
    assert len(points) == len(found)
    assert all(x < next_x and y > next_y for (x, y), (next_x, next_y) in pairwise(points))
    assert picture.count('"point assumed"') == 1


def test_labels_of_crowded_points_cover_no_other_label_and_no_point(benchmark: ModuleType) -> None:
    points = [(545.0, 127.0), (566.0, 138.0), (396.0, 202.0), (497.0, 202.0), (398.0, 254.0), (690.0, 300.0)]
    row = benchmark.Row(name="airbench, recipe best", minutes=19.0, percent=90.0, own=True, timed=True)
    boxes = [box for _, box in benchmark.labels(points, [row] * len(points))]
    dots = [benchmark.Box(left=x - 7, top=y - 7, width=14, height=14) for x, y in points]
    assert all(one.shared(other) == 0 for one, other in combinations(boxes, 2))
    assert all(box.shared(dot) == 0 for box in boxes for dot in dots)
    assert all(box.left >= 0 and box.right <= benchmark.WIDTH for box in boxes)


def test_a_page_without_the_table_is_named(benchmark: ModuleType) -> None:
    with pytest.raises(ValueError, match="no table of accuracy by minutes"):
        benchmark.rows("# Performance\n")
