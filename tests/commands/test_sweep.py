"""`cifar sweep`: its grid, and one real sweep."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cifar_cli.app import app
from cifar_cli.commands.sweep import SweptOptions
from cifar_cli.core.own_code import require_trusted
from cifar_cli.errors import CifarError, ModelError

SWEEP: Any = get_command(app).commands["sweep"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "flag"),
    [
        ("lr", "--lr"),
        ("learning_rate", "--lr"),
        ("recipe.weight_decay", "--weight-decay"),
        ("recipe.max_seconds", "--max-time"),
        ("model.backbone", "--backbone"),
        ("label-smoothing", "--label-smoothing"),
        ("model.name", "--model"),
        ("recipe.name", "--recipe"),
    ],
)
def test_a_key_is_an_option_s_flag_or_the_name_of_its_setting(key: str, flag: str) -> None:
    chosen = {"--backbone": "resnet18,resnet34", "--max-time": "10,20", "--model": "null,cnn", "--recipe": "fast,best"}
    values = chosen.get(flag, "0.1,0.2")
    shared = {"--model": ["--weights", "none"], "--backbone": ["--model", "cnn"]}.get(flag, [])
    (option,) = SweptOptions(grid=[f"{key}={values}"], options=shared).config().options
    assert (option.key, option.flag, option.values) == (key, flag, tuple(values.split(",")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--grid", "lr"), "--grid lr is not KEY=A,B"),
        (("--grid", "lr=0.1,"), "--grid lr=0.1, is not KEY=A,B"),
        (("--grid", "lr=0.1,0.1"), "names a value twice"),
        (("--grid", "rate=0.1"), "cifar train has no option of that name"),
        (("--grid", "seed=1,2"), "a sweep sets --seed of its runs itself"),
        (("--grid", "compile=1"), "--compile is a switch and takes no values"),
        (("--grid", "lr=fast"), "--lr fast is not a number"),
        (("--grid", "lr=0.1,-1"), "--lr -1 is not a positive number"),
        (("--grid", "backbone=resnet18,resnet34"), "null has no --backbone"),
        (("--grid", "lr=0.1", "--", "--workers", "2"), "--workers applies to image files"),
        (("--grid", "lr=0.1", "--", "--logger", "paper"), "--logger"),
        (("--grid", "model=null,nulll"), "there is no model named 'nulll'"),
        (("--grid", "lr=0.1", "--", "--policy", "course", "--augment", "p.json"), "--policy and --augment"),
        (("--grid", "lr=0.1", "--", "--print-config"), "--print-config can't be passed to every run"),
        (("--grid", "lr=0.1", "--", "--run-dir", "x"), "--run-dir can't be passed to every run"),
        ((), "a sweep needs --grid, --search or --seeds"),
        (("--search", "lr"), "--search lr is neither KEY=LOW:HIGH nor a list"),
        (("--search", "lr=1"), "is neither KEY=LOW:HIGH nor a list"),
        (("--search", "lr=0.1:0.01"), "is neither KEY=LOW:HIGH nor a list"),
        (("--search", "lr=0.1:nan"), "is neither KEY=LOW:HIGH nor a list"),
        (("--search", "lr=0.1:1:cube"), "is neither KEY=LOW:HIGH nor a list"),
        (("--search", "patience=0.5:9:log"), "--patience takes whole numbers"),
        (("--search", "batch=32:64.5"), "--batch takes whole numbers"),
        (("--search", "lr=0:1:log"), "has no logarithm at 0"),
        (("--search", "lr=-1:1"), "--lr -1 is not a positive number"),
        (("--search", "rate=0.1:1"), "--search rate: cifar train has no option of that name"),
        (("--search", "seed=1:9"), "a sweep sets --seed of its runs itself"),
        (("--search", "lr=0.1:1", "--grid", "batch=32,64"), "--grid and --search contradict each other"),
        (("--search", "lr=0.1:1", "--trials", "0"), "--trials 0 is not between"),
        (("--grid", "lr=0.1,0.2", "--trials", "5"), "--trials has no effect without --search"),
    ],
)
def test_a_bad_sweep_is_refused_before_anything_is_trained(
    cifar: Any, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    result = cifar("sweep", "--sweep-dir", tmp_path / "new", *words)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "whole", "ends"),
    [
        ("lr=1e-3:0.1:log", False, ("0.001", "0.1")),
        ("recipe.batch=32:256", True, ("32", "256")),
        ("patience=1:9:log", True, ("1", "9")),
        ("label-smoothing=0:0.2", False, ("0", "0.2")),
        ("policy=course,crop-flip", False, ("course", "crop-flip")),
    ],
)
def test_a_range_is_searched_in_the_numbers_that_the_option_takes(
    text: str, whole: bool, ends: tuple[str, ...]
) -> None:
    config = SweptOptions(search=[text], trials=3).config()
    (option,) = config.searched
    assert (option.whole, option.ends, config.trials) == (whole, ends, 3)


@pytest.mark.slow
def test_a_search_trains_and_shows_its_choices(cifar: Any, data_dir: Path, tmp_path: Path) -> None:
    shared = ("--dataset", "shapes", "--data-dir", data_dir, "--max-epochs", 1, "--batch", 64, "--device", "cpu")
    plain = ("--precision", 32, "--memory-format", "contiguous")
    searched = ("--search", "lr=1e-3:1e-2:log", "--search", "policy=none,course", "--trials", 2)
    result = cifar("sweep", *searched, "--sweep-dir", tmp_path / "sweep", "--json", "--", *shared, *plain)
    assert result.exit_code == 0, result.stderr
    trials = json.loads(result.stdout)["results"]
    assert [trial["status"] for trial in trials] == ["done", "done"]
    assert all(1e-3 <= float(trial["settings"]["lr"]) <= 1e-2 for trial in trials)
    assert "trial 2 of 2" in result.stderr


@pytest.mark.parametrize("line", re.findall("cifar sweep.*", SWEEP.epilog))
def test_the_examples_of_the_help_page_could_be_trained(line: str) -> None:
    context = SWEEP.make_context("sweep", shlex.split(line)[2:])
    names = [field.name for field in fields(SweptOptions)]
    config = SweptOptions(**{name: context.params[name] for name in names}).config()
    assert len(config.runs()) > 1


def test_a_wrong_option_of_train_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(CifarError):
        SweptOptions(grid=["lr=0.1"], options=["--recipe", "fastest"]).config()


def test_a_sweep_knows_its_devices_and_what_a_continued_run_takes_again() -> None:
    words = ["--devices", "2", "--logger", "csv", "--logger", "csv", "--quiet", "--recipe", "fast"]
    config = SweptOptions(grid=["lr=0.1,0.2"], options=words).config()
    assert (config.device, config.devices) == ("auto", 2)
    assert config.resumed_words == ("--logger", "csv", "--logger", "csv", "--quiet")
    assert SweptOptions(grid=["devices=1,4"]).config().devices == 4
    assert SweptOptions(grid=["devices=1,auto"]).config().devices == "auto"
    assert SweptOptions(grid=["lr=0.1"], options=["--device", "cpu"]).config().device == "cpu"


def test_a_continued_run_may_execute_the_model_s_file_that_the_sweep_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIFAR_TRUSTED_FILES", raising=False)
    (tmp_path / "net.py").write_text("def build(*, classes, img_size): ...\n")
    SweptOptions(grid=["lr=0.1,0.2,0.3"], options=["--model", f"{tmp_path}/net.py:build"]).config()
    require_trusted(f"{tmp_path}/net.py:build", ModelError, wanted_by="a checkpoint")
    assert os.environ["CIFAR_TRUSTED_FILES"] == f"{tmp_path}/net.py"  # once, however many runs there are


@pytest.mark.slow
def test_a_sweep_trains_prints_a_table_and_names_what_failed(cifar: Any, data_dir: Path, tmp_path: Path) -> None:
    shared = ("--dataset", "shapes", "--data-dir", data_dir, "--max-epochs", 1, "--batch", 64, "--device", "cpu")
    plain = ("--precision", 32, "--memory-format", "contiguous")
    words = ("sweep", "--grid", "lr=0.01,1e30", "--sweep-dir", tmp_path / "sweep", "--json", "--", *shared, *plain)
    result = cifar(*words)
    assert result.exit_code == 1
    assert "1 of 2 runs failed; the first: the training diverged" in " ".join(result.stderr.split())
    done, failed = json.loads(result.stdout)["results"]
    assert (done["status"], failed["status"]) == ("done", "failed")
    assert done["settings"] == {"lr": "0.01"}
    assert 0 <= done["val_accuracy"] <= 1
