"""Files beside the code say what the code says."""

from __future__ import annotations

from pathlib import Path

import yaml

from cifar_cli import __version__

ROOT = Path(__file__).parents[1]


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_every_hook_before_a_commit_runs_a_tool_of_this_environment() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text()
    for hook in local["hooks"]:
        program, word = hook["entry"].split()[:2]
        assert program == "ruff" or f"\n{word}:" in makefile
