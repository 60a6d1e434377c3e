"""`cifar train --config`, `--print-config`, `--set`, `--name`, and the variables of the environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import Cifar


def printed(cifar: Cifar, *words: object) -> dict[str, dict[str, object]]:
    result = cifar("train", *words, "--print-config", "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, dict[str, object]] = json.loads(result.stdout)
    return document


@pytest.mark.slow
def test_a_run_is_repeated_by_its_config_with_equal_weights(cifar: Cifar, data_dir: Path, tmp_path: Path) -> None:
    words = ("--model", "null", "--dataset", "shapes", "--data-dir", data_dir, "--recipe", "fast", "--max-epochs", 1)
    first = cifar("train", *words, "--batch", 64, "--seed", 3, "--run-dir", tmp_path / "first")
    assert first.exit_code == 0, first.stderr
    again = cifar("train", "--config", tmp_path / "first/config.yaml", "--run-dir", tmp_path / "again")
    assert again.exit_code == 0, again.stderr
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("first", "again")]
    configs = [yaml.safe_load((tmp_path / name / "config.yaml").read_text())["config"] for name in ("first", "again")]
    for config in configs:
        del config["run_dir"]
    assert configs[0] == configs[1]
    assert summaries[0]["test_loss"] == summaries[1]["test_loss"]


def test_what_is_printed_can_be_read_again(cifar: Cifar, tmp_path: Path) -> None:
    words = ("--model", "hybrid", "--recipe", "best", "--lr", "1e-2", "--set", "recipe.weight_decay=1e-3")
    text = cifar("train", *words, "--print-config").stdout
    (tmp_path / "mine.yaml").write_text(text)
    assert "  learning_rate: 0.01".ljust(44) + "  # --lr" in text.splitlines()
    first, again = printed(cifar, *words), printed(cifar, "--config", tmp_path / "mine.yaml")
    assert {path: each["value"] for path, each in first.items()} == {
        path: each["value"] for path, each in again.items()
    }
    assert again["recipe.weight_decay"]["from"] == str(tmp_path / "mine.yaml")


def test_the_environment_names_the_folders(cifar: Cifar, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFAR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CIFAR_RUNS_DIR", str(tmp_path / "runs"))
    settings = printed(cifar, "--name", "first")
    assert settings["data.data_dir"] == {"value": str(tmp_path / "data"), "from": "CIFAR_DATA_DIR"}
    assert settings["run_dir"] == {"value": str(tmp_path / "runs" / "first"), "from": "--name"}
    assert printed(cifar, "--data-dir", "here")["data.data_dir"] == {"value": "here", "from": "--data-dir"}


@pytest.mark.slow
def test_a_run_without_a_name_goes_to_the_folder_of_the_environment(
    cifar: Cifar, monkeypatch: pytest.MonkeyPatch, data_dir: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("CIFAR_RUNS_DIR", str(tmp_path / "new" / "runs"))
    result = cifar("train", "--dataset", "shapes", "--data-dir", data_dir, "--max-epochs", 1, "--no-report")
    assert result.exit_code == 0, result.stderr
    (run,) = (tmp_path / "new" / "runs").iterdir()
    assert run.name.endswith("-null")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "a/b"], "--name a/b is not a name"),
        (["--name", "a", "--run-dir", "b"], "contradict each other"),
        (["--resume", "runs/a", "--config", "b"], "can't change --config"),
        (["--config", "absent.yaml"], "--config absent.yaml can't be read"),
        (["--set", "sed=3"], "there is no setting sed"),
    ],
)
def test_mistakes_are_named(cifar: Cifar, words: list[str], message: str) -> None:
    result = cifar("train", *words)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
