"""Pictures of a terminal: no font from another server, and the bad installation as the table shows it now."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from types import ModuleType

import pytest

from cifar_cli.core.doctor.diagnose import diagnose
from cifar_cli.render import doctor_table
from tests.core.doctor.installations import BAD
from tests.golden import Golden, rendered

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "terminal_picture.py"
PICTURES = [path for path in sorted((ROOT / "docs").glob("*.svg")) if 'class="terminal-' in path.read_text("utf-8")]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("terminal_picture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["terminal_picture"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["terminal_picture"]


def lines_of(svg: str) -> list[str]:
    """The lines of text in a picture."""
    parts = re.findall(r'<text class="terminal-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    lines: dict[float, str] = {}
    for _, y, text in sorted(parts, key=lambda part: (float(part[1]), float(part[0]))):
        lines[float(y)] = lines.get(float(y), "") + unescape(text).replace("\xa0", " ")
    return [line.rstrip() for line in lines.values()]


def test_the_bad_installation_in_the_page_is_what_doctor_says_of_it(benchmark: ModuleType, golden: Golden) -> None:
    table = doctor_table.report(diagnose(BAD))
    svg = benchmark.picture(benchmark.prompt("cifar doctor"), table, title="cifar doctor")
    path = ROOT / "docs" / "doctor-bad.svg"
    if golden.update:
        path.write_text(svg, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == svg
    said = "".join(lines_of(svg)).replace(" ", "")
    for line in rendered(table, width=80).splitlines():
        assert line.replace(" ", "") in said


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_asks_no_other_server_and_is_small(path: Path) -> None:
    svg = path.read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"\s]+", svg) == ["http://www.w3.org/2000/svg"]
    assert len(svg) < 40_000
    assert lines_of(svg)[0].startswith("$ cifar ")


def test_a_command_is_run_and_its_colours_are_kept(benchmark: ModuleType) -> None:
    text = benchmark.printed(f"{sys.executable} -c \"print('\\x1b[31mred\\x1b[0m')\"")
    assert (text.plain, [str(span.style) for span in text.spans]) == ("red", ["color(1)"])
