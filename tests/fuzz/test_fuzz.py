"""Changed files are refused in a sentence, or read rightly; `benchmarks/fuzz.py` tries many more of them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, run

FILES = 200


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_changed_file_is_refused_or_read_rightly(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"])  # restored at the end
    (tmp_path / "good").mkdir()
    TARGETS[name].make(tmp_path / "good")
    if TARGETS[name].checksummed:
        TARGETS[name].read(tmp_path / "good")
    outcomes = Counter[str]()
    for seed in range(FILES):
        try:
            outcomes[run(TARGETS[name], tmp_path / "good", tmp_path / "work", seed)] += 1
        except BaseException as error:
            error.add_note(f"{name}, seed {seed}")
            raise
    assert outcomes.total() == FILES
    reads = outcomes["read"] > 0
    assert reads != TARGETS[name].checksummed, "the changes are too large to reach anything behind the first check"
