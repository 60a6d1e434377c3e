"""Files beside the code say what the code says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cifar_cli import __version__
from tests.test_docs import parse

ROOT = Path(__file__).parents[1]


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_the_pages_name_the_wheel_of_this_version() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    assert set(re.findall(r"cifar_cli-([\d.]+)-py3", pages)) == {__version__}


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md")), ids=lambda path: path.name)
def test_an_issue_template_has_a_name_and_asks_for_commands_that_exist(path: Path) -> None:
    _, front, body = path.read_text(encoding="utf-8").split("---\n", maxsplit=2)
    assert set(yaml.safe_load(front)) == {"name", "about"}
    asked = [shlex.split(command)[1:] for command in re.findall(r"`(cifar [^`]+)`", body)]
    assert asked or path.name != "bug.md"
    for words in asked:
        parse(words)


def test_the_variables_that_the_security_page_names_are_read() -> None:
    named = set(re.findall(r"`(CIFAR_\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "cifar_cli").rglob("*.py"))
    assert named
    assert {name for name in named if name not in code} == set()


def test_every_hook_before_a_commit_runs_a_tool_of_this_environment() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text()
    for hook in local["hooks"]:
        program, word = hook["entry"].split()[:2]
        assert program == "ruff" or f"\n{word}:" in makefile
