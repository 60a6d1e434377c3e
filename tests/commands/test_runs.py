"""`cifar runs`: what it lists, what it removes, what it refuses to remove."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from cifar_cli.core.training.run_lock import LOCK
from cifar_cli.core.training.runs import RunList, list_runs
from cifar_cli.render import run_tables
from tests.conftest import Cifar
from tests.golden import rendered


@pytest.fixture
def runs(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run, one of two seeds that was not finished, and a folder that is no run."""
    folder = tmp_path / "runs"
    shutil.copytree(trained_run, folder / "good")
    shutil.copytree(trained_run, folder / "several" / "seed-0")
    (folder / "several" / "seed-0" / "summary.json").unlink()
    (folder / "photos").mkdir()
    (folder / "photos" / "config.yaml").write_text("album: summer\n")
    monkeypatch.setenv("CIFAR_RUNS_DIR", str(folder))
    return folder


def test_runs_are_listed_with_accuracy_time_and_state(cifar: Cifar, runs: Path) -> None:
    document = json.loads(cifar("runs", "--json").stdout)
    found = {run["name"]: run for run in document["runs"]}
    assert set(found) == {"good", "several/seed-0"}
    assert (found["good"]["model"], found["good"]["dataset"], found["good"]["state"]) == ("null", "shapes", "finished")
    assert 0 <= found["good"]["test_accuracy"] <= 1
    assert (found["several/seed-0"]["state"], found["several/seed-0"]["test_accuracy"]) == ("unfinished", None)
    table = rendered(*run_tables.runs(list_runs(runs), width=80), width=80)
    assert "several/seed-0" in table
    assert "photos" not in table


def test_a_run_that_is_trained_now_is_running_and_stays(cifar: Cifar, runs: Path) -> None:
    with FileLock(runs / "good" / LOCK):
        assert {run.name: run.state for run in list_runs(runs).runs}["good"] == "running"
        result = cifar("runs", "rm", "good", "--yes")
    assert result.exit_code == 1
    assert "is being trained and stays" in result.stderr
    assert (runs / "good").is_dir()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_stay_whole_in_a_narrow_terminal(runs: Path, width: int) -> None:
    names = ["20261125-165433-airbench", "20261125-165433-airbench/seed-0"]
    run = replace(list_runs(runs).runs[0], model="airbench", dataset="cifar10", train_seconds=999.0)
    table = rendered(
        *run_tables.runs(RunList(folder=runs, runs=tuple(replace(run, name=name) for name in names)), width=width),
        width=width,
    )
    assert all(any(f" {name} " in line for line in table.splitlines()) for name in names), table
    assert max(map(len, table.splitlines())) <= width


@pytest.mark.parametrize("content", ["null", "[1]", '{"test_accuracy": "x"}', "{", '{"test_accuracy": null}'])
def test_a_run_with_another_summary_is_unfinished(cifar: Cifar, runs: Path, content: str) -> None:
    (runs / "good" / "summary.json").write_text(content)
    assert cifar("runs").exit_code == 0
    assert {run.name: run.state for run in list_runs(runs).runs}["good"] == "unfinished"


def test_a_folder_that_can_not_be_read_hides_no_other(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path.is_file
    (runs / "a-colleague").mkdir()

    def is_file(path: Path) -> bool:
        if path.parent.name == "a-colleague":
            raise PermissionError(13, "Permission denied")
        return before(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert "good" in {run.name for run in list_runs(runs).runs}


def test_the_runs_of_several_seeds_are_removed_by_one_name(cifar: Cifar, runs: Path) -> None:
    (runs / "several" / "seeds.json").write_text("{}")
    with FileLock(runs / "several" / "seed-0" / LOCK):
        assert "is being trained" in cifar("runs", "rm", "several", "--yes").stderr
    removed = cifar("runs", "rm", "several", "--yes", "--json")
    assert json.loads(removed.stdout) == {"removed": [str(runs / "several")]}
    assert not (runs / "several").exists()


def test_what_is_left_of_several_seeds_is_no_run(cifar: Cifar, runs: Path) -> None:
    shutil.rmtree(runs / "several" / "seed-0")
    (runs / "several" / "seeds.json").write_text("{}")
    result = cifar("runs", "rm", "several", "--yes")
    assert result.exit_code == 1
    assert "is no run of `cifar train` and stays" in result.stderr


def test_several_seeds_with_something_else_stay(cifar: Cifar, runs: Path) -> None:
    (runs / "several" / "thesis.pdf").write_text("")
    assert "holds a run and stays" in cifar("runs", "rm", "several", "--yes").stderr
    assert (runs / "several" / "thesis.pdf").exists()


def test_a_run_is_removed_by_name_or_path(cifar: Cifar, runs: Path) -> None:
    assert cifar("runs", "rm", "good", runs / "several" / "seed-0", "--yes").exit_code == 0
    assert list_runs(runs).runs == ()
    assert (runs / "photos").is_dir()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["rm", "photos", "--yes"], 1, "is no run of `cifar train` and stays"),
        (["rm", "god", "--yes"], 1, "did you mean good?"),
        (["rm", "good"], 2, "pass --yes"),
        (["rm"], 2, "needs the name of a run"),
        (["list", "good"], 2, "cifar runs rm RUN"),
    ],
)
def test_nothing_is_removed_that_was_not_asked_for(
    cifar: Cifar, runs: Path, words: list[str], status: int, message: str
) -> None:
    result = cifar("runs", *words)
    assert result.exit_code == status
    assert message in result.stderr
    assert len(list_runs(runs).runs) == 2


@pytest.mark.parametrize("word", ["", ".", "RUNS", "several/.."])
@pytest.mark.parametrize("nested", [False, True])
def test_the_folder_of_the_runs_is_never_removed(cifar: Cifar, runs: Path, word: str, nested: bool) -> None:
    shutil.rmtree(runs / "photos")
    if nested:  # a run whose directory is that of other runs
        shutil.copytree(runs / "good", runs, dirs_exist_ok=True)
    result = cifar("runs", "rm", word.replace("RUNS", str(runs)), "--yes")
    assert result.exit_code in (1, 2)
    assert "is empty" in result.stderr if word == "" else "holds" in result.stderr
    assert (runs / "good" / "summary.json").is_file()


def test_a_folder_of_runs_that_are_no_seeds_stays(cifar: Cifar, runs: Path) -> None:
    shutil.copytree(runs / "good", runs / "march" / "first")
    result = cifar("runs", "rm", "march", "--yes")
    assert "holds a run and stays" in result.stderr
    assert f"such as {runs / 'march' / 'first'}" in result.stderr
    assert (runs / "march" / "first").is_dir()


def test_a_run_that_is_named_twice_is_removed_once(cifar: Cifar, runs: Path) -> None:
    result = cifar("runs", "rm", "good", runs / "good", "--yes", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"removed": [str(runs / "good")]})


def test_a_linked_run_stays(cifar: Cifar, runs: Path) -> None:
    (runs / "link").symlink_to(runs / "good")
    assert cifar("runs", "rm", "link", "--yes").exit_code == 1
    assert (runs / "good").is_dir()


def test_no_runs_are_no_error(cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_RUNS_DIR", str(tmp_path / "absent"))
    assert cifar("runs").stdout == f"no runs in {tmp_path / 'absent'}\n"
