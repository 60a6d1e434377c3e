"""The keys that scripts may rely on, against what each command prints with --json."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

DOCUMENTED = {
    "train": {
        "run_dir": str,
        "checkpoint": str,
        "images_per_second": float,
        "train_seconds": float,
        "epochs": int,
        "val_accuracy": float,
        "test_accuracy": float,
        "dataset": str,
        "synthetic": bool,
    },
    "evaluate": {"accuracy": float, "loss": float, "images": int, "per_class": list},
    "summarize": {
        "total_params": int,
        "trainable_params": int,
        "unused_params": int,
        "macs_per_image": int,
        "macs_per_batch": int,
        "forward_flops_per_image": int,
        "forward_flops_per_batch": int,
        "largest_layers": list,
    },
    "profile-memory": {
        "batch": int,
        "peak_allocated_bytes": int,
        "peak_reserved_bytes": int,
        "max_batch": int,
        "method": str,
        "memory_bytes": int,
        "terms": dict,
    },
}


@pytest.fixture
def document(cifar):  # type: ignore[no-untyped-def]
    """The JSON document that a command prints on stdout, all of it."""

    def run(*words: object) -> dict[str, Any]:
        result = cifar(*words, "--json")
        assert result.exit_code == 0, result.stderr
        parsed: dict[str, Any] = json.loads(result.stdout)
        return parsed

    return run


def require(found: dict[str, Any], command: str) -> None:
    """Every documented key of a command is there, with a value of its type."""
    for key, kind in DOCUMENTED[command].items():
        assert isinstance(found[key], kind), f"{command}: {key} is {found.get(key)!r}"


@pytest.mark.slow
def test_train(document, data_dir: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--dataset", "shapes", "--data-dir", data_dir, "--max-epochs", 1, "--batch", 16)
    found = document("train", "--model", "null", *words, "--run-dir", tmp_path / "run")
    require(found, "train")
    assert 0 <= found["val_accuracy"] <= 1
    assert 0 <= found["test_accuracy"] <= 1
    assert (found["epochs"], found["dataset"], found["synthetic"]) == (1, "shapes", True)
    assert Path(found["checkpoint"]).is_file()
    assert Path(found["run_dir"]) == tmp_path / "run"


def test_evaluate(document, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = document("evaluate", trained_run, "--out", tmp_path)
    require(found, "evaluate")
    assert 0 <= found["accuracy"] <= 1
    assert sum(score["images"] for score in found["per_class"]) == found["images"] == 100


def test_summarize(document) -> None:  # type: ignore[no-untyped-def]
    found = document("summarize", "--model", "null", "--batch", 4)
    (model,) = found["models"]
    require(model, "summarize")
    assert model["macs_per_batch"] == 4 * model["macs_per_image"]
    assert model["forward_flops_per_batch"] == 4 * model["forward_flops_per_image"]


def test_profile_memory(document) -> None:  # type: ignore[no-untyped-def]
    found = document("profile-memory", "-m", "null", "--estimate", "--find-max-batch", "--memory", "1GiB")
    (model,) = found["models"]
    require(model, "profile-memory")
    assert model["method"] == "estimate"
    assert model["batch"] == model["max_batch"] > 0
    assert model["peak_allocated_bytes"] <= model["peak_reserved_bytes"] <= model["memory_bytes"] == 1 << 30


@pytest.mark.slow
def test_a_measurement_has_the_keys_of_a_prediction(document) -> None:  # type: ignore[no-untyped-def]
    words = ("profile-memory", "-m", "null", "--batch", 8)
    (predicted,) = document(*words, "--estimate")["models"]
    (measured,) = document(*words, "--measure", "--device", "cpu")["models"]
    assert set(measured) == set(predicted) >= set(DOCUMENTED["profile-memory"])
    assert (predicted["method"], measured["method"]) == ("estimate", "measure")


def test_without_a_search_there_is_no_largest_batch(document) -> None:  # type: ignore[no-untyped-def]
    found = document("profile-memory", "-m", "null", "--batch", 8, "--estimate")
    (model,) = found["models"]
    assert (model["batch"], model["max_batch"], model["memory_bytes"]) == (8, None, None)
    assert sum(model["terms"].values()) > 0


def test_a_loss_that_is_nan_is_null(document, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    content = torch.load(trained_run / "checkpoints/best.ckpt", weights_only=True)
    content["state_dict"]["model.head.1.bias"][:] = float("nan")
    torch.save(content, tmp_path / "nan.ckpt")
    found = document("evaluate", tmp_path / "nan.ckpt", "--out", tmp_path / "scores")
    assert found["loss"] is None
    assert found["accuracy"] == 0.1


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a document that isn't whole by type, with its key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item, name)
    elif isinstance(value, float):
        yield name, value


def single_precision(document: dict[str, Any]) -> set[str]:
    """The keys of numbers that were rounded to 32 bits and are written with the digits of 64."""
    return {name for name, value in numbers(document) if round(value, 9) != value and float(np.float32(value)) == value}


def test_fractions_have_the_digits_of_their_counts(document, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """And not those of a 32-bit float, such as 0.32100000977516174."""
    found = document("evaluate", trained_run, "--out", tmp_path / "scores")
    assert single_precision(found) <= {"loss"}, "a mean of the model's own numbers, which have no shorter form"
    summary = json.loads((trained_run / "summary.json").read_text())
    for name in ("val_accuracy", "test_accuracy", "test_accuracy_flip_averaged"):
        assert len(repr(summary[name])) <= 6, (name, summary[name])
    rows = csv.DictReader((trained_run / "metrics.csv").open(newline=""))
    for row in rows:
        assert row["val_accuracy"] == repr(round(float(row["val_accuracy"]) * 40) / 40)
        assert row["train_accuracy"] == repr(round(float(row["train_accuracy"]) * 360) / 360)
