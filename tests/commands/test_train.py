from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cifar_cli.core.training.config import EpochResult, TrainResult
from cifar_cli.options import parse_duration
from cifar_cli.render import tables


@pytest.fixture
def small(data_dir: Path, tmp_path: Path) -> list[object]:
    return ["--dataset", "shapes", "--data-dir", data_dir, "--fast-dev-run", "--run-dir", tmp_path / "run"]


def test_json_is_one_document_with_the_promised_keys(cifar, small: list[object]) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--model", "null", "--lr", "1e-3", "--json", *small)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    promised = {
        "run_dir", "checkpoint", "images_per_second", "train_seconds", "epochs",
        "val_accuracy", "test_accuracy", "dataset", "synthetic",
    }  # fmt: skip
    assert promised <= set(document)
    assert 0 <= document["test_accuracy"] <= 1
    assert document["synthetic"] is True
    assert Path(document["checkpoint"]).is_file()


def test_flags_reach_the_config_under_both_spellings(cifar, small: list[object], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--learning-rate", "2e-3", "--batch-size", 16, "--seed", 7, "--max-time", "1:30", "--max-epochs", 3)
    result = cifar("train", "--model", "null", *words, *small)
    assert result.exit_code == 0, result.stderr
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["config"]
    recipe = config["recipe"]
    assert (recipe["learning_rate"], recipe["batch"], recipe["max_seconds"], recipe["max_epochs"]) == (2e-3, 16, 90, 3)
    assert config["seed"] == 7
    assert "shapes (synthetic)" in result.stdout


@pytest.mark.parametrize("model", ["cnn", "hybrid"])
def test_the_other_models_train_too(cifar, small: list[object], model: str) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--model", model, "--weights", "none", "--batch", 8, *small)
    assert result.exit_code == 0, result.stderr


def test_the_albumentations_pipeline_trains(cifar, small: list[object]) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--pipeline", "albumentations", "--workers", 1, *small)
    assert result.exit_code == 0, result.stderr


def test_another_image_size_is_resized_to(cifar, small: list[object]) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--img-size", 40, *small)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (["--max-time", "soon"], "--max-time soon is not a duration", "00:20:00"),
        (["--accelerator", "tpu"], "--accelerator tpu is not offered", "gpu or cpu"),
        (["--pipeline", "batch"], "--pipeline batch is not offered", "batched"),
        (
            ["--pipeline", "batched", "--augment", "p.yaml"],
            "which the batched pipeline can't carry out",
            "albumentations",
        ),
        (["--policy", "curse"], "no augmentation policy named 'curse'", "course"),
        (["--seed", "-1"], "--seed -1 is negative", "0 or more"),
        (["--workers", "-1"], "--workers -1 is negative", "0 or more"),
        (["--recipe", "curse"], "no recipe named 'curse'", "course"),
        (["--resume", "absent"], "absent holds no run that can be continued", "last.ckpt"),
        (["--weights", "absent.pt"], "--weights absent.pt is neither a file", "--weights none"),
    ],
)
def test_wrong_values_exit_1_with_a_remedy_and_write_nothing(  # type: ignore[no-untyped-def]
    cifar, data_dir: Path, tmp_path: Path, words: list[str], message: str, remedy: str
) -> None:
    run_dir = tmp_path / "run"
    result = cifar("train", "--dataset", "shapes", "--data-dir", data_dir, "--run-dir", run_dir, *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert remedy in result.stderr
    assert "Traceback" not in result.stderr
    assert not run_dir.exists()


@pytest.mark.parametrize(("text", "seconds"), [("00:20:00", 1200), ("1:30", 90), ("45", 45)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration("--max-time", text) == seconds


def test_an_epoch_line_fits_80_columns() -> None:
    result = EpochResult(
        epoch=100,
        train_loss=10.1234,
        train_accuracy=1.0,
        val_loss=10.1,
        val_accuracy=1.0,
        learning_rate=1e-3,
        elapsed_seconds=1e4,
        images_per_second=123_456.0,
        best=True,
    )
    line = tables.epoch_line(result)
    assert len(line) <= 80
    assert "100.00%*" in line


def test_the_result_names_the_run_and_says_why_it_ended() -> None:
    from io import StringIO

    from rich.console import Console

    result = TrainResult(
        run_dir=Path("runs/x"), checkpoint=Path("runs/x/checkpoints/best.ckpt"), model="null", dataset="cifar10",
        synthetic=False, epochs=12, train_seconds=1118.0, images_per_second=2345.6, val_accuracy=0.7618,
        test_accuracy=0.7612, test_loss=0.7, stopped_by="time",
    )  # fmt: skip
    text = StringIO()
    Console(file=text, width=80).print(tables.training(result))
    for expected in ("null on cifar10", "76.12%", "76.18%", "12 (the time was up)", "18 min 38 s", "2,346 images/s"):
        assert expected in text.getvalue()
