from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch


def test_the_table_shows_every_class_and_the_file_written(cifar, trained_run: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", trained_run)
    assert result.exit_code == 0, result.stderr
    assert "null on shapes (synthetic)" in result.stdout
    for expected in ("circle", "hourglass", "precision", "recall", "F1", "mean of classes", "100"):
        assert expected in result.stdout
    assert (trained_run / "confusion-best.png").is_file()


def test_json_has_the_promised_keys(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "matrix.png"
    result = cifar("evaluate", trained_run / "checkpoints/last.ckpt", "--json", "--out", out)
    document = json.loads(result.stdout)
    assert {"accuracy", "loss", "images", "per_class"} <= set(document)
    assert len(document["per_class"]) == 10
    assert out.is_file()


@pytest.mark.parametrize("content", ["nothing", "text", "tensor", "hostile-free dict"])
def test_what_is_no_checkpoint_is_refused_in_a_sentence(cifar, tmp_path: Path, content: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "wrong.ckpt"
    if content == "text":
        path.write_text("not a checkpoint")
    elif content == "tensor":
        torch.save(torch.zeros(1), path)
    elif content == "hostile-free dict":
        torch.save({"state_dict": {}}, path)
    result = cifar("evaluate", path)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "wrong.ckpt" in result.stderr
    assert "cifar train" in result.stderr


def test_a_run_without_its_dataset_says_how_to_get_it(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", trained_run, "--dataset", "absent", "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert "cifar download" in result.stderr
