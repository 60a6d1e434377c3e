from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cifar_cli.core.training.remembered import cache_file, remember, remembered


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_first_value_stands_until_it_is_replaced_or_removed() -> None:
    assert remembered("plans", "key") is None
    assert remember("plans", "key", 3) == 3
    assert remember("plans", "key", 4) == 3
    assert remember("plans", "other", 5) == 5
    assert remember("plans", "key", 4, replace=True) == 4
    assert remember("plans", "key", None, replace=True) is None
    assert json.loads(cache_file("plans").read_text()) == {"other": 5}


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b"\xff", b"[" * 100_000])
def test_a_file_that_can_t_be_read_is_replaced(content: bytes) -> None:
    cache_file("plans").parent.mkdir(parents=True)
    cache_file("plans").write_bytes(content)
    assert remembered("plans", "key") is None
    assert remember("plans", "key", 3) == 3
    assert remembered("plans", "key") == 3


def test_a_pipe_in_place_of_the_file_does_not_block() -> None:
    cache_file("plans").parent.mkdir(parents=True)
    os.mkfifo(cache_file("plans"))
    assert remembered("plans", "key") is None


def test_a_user_without_a_home_directory_can_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert remembered("plans", "key") is None
    assert remember("plans", "key", 3) == 3


def test_a_cache_that_can_t_be_written_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert remember("plans", "key", 3) == 3
    assert {path.suffix for path in cache_file("plans").parent.iterdir()} <= {".lock"}
