"""`cifar train`: what its flags change, what it prints, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cifar_cli.core.training.results import EpochResult
from cifar_cli.render import training_tables


@pytest.fixture
def small(data_dir: Path, tmp_path: Path) -> list[object]:
    return ["--dataset", "shapes", "--data-dir", data_dir, "--fast-dev-run", "--run-dir", tmp_path / "run"]


@pytest.fixture
def one_epoch(small: list[object]) -> list[object]:
    return ["--max-epochs", 1, "--batch", 64, *(word for word in small if word != "--fast-dev-run")]


@pytest.mark.slow
def test_json_is_one_document_with_the_documented_keys(cifar, one_epoch: list[object]) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--model", "null", "--lr", "1e-3", "--json", *one_epoch)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    documented = {
        "run_dir", "checkpoint", "images_per_second", "train_seconds", "epochs",
        "val_accuracy", "test_accuracy", "dataset", "synthetic",
    }  # fmt: skip
    assert documented <= set(document)
    assert 0 <= document["test_accuracy"] <= 1
    assert document["synthetic"] is True
    assert Path(document["checkpoint"]).is_file()


@pytest.mark.slow
def test_flags_reach_the_config_under_both_spellings(cifar, small: list[object], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--learning-rate", "2e-3", "--batch-size", 16, "--seed", 7, "--max-time", "1:30", "--max-epochs", 3)
    result = cifar("train", "--model", "null", *words, *small)
    assert result.exit_code == 0, result.stderr
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["config"]
    recipe = config["recipe"]
    assert (recipe["learning_rate"], recipe["batch"], recipe["max_seconds"], recipe["max_epochs"]) == (2e-3, 16, 90, 3)
    assert config["seed"] == 7
    assert "shapes (synthetic)" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn", "hybrid"])
def test_the_other_models_train_too(cifar, small: list[object], model: str) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--model", model, "--weights", "none", "--batch", 8, *small)
    assert result.exit_code == 0, result.stderr


@pytest.mark.slow
def test_the_albumentations_pipeline_trains(cifar, small: list[object]) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--pipeline", "albumentations", "--workers", 1, *small)
    assert result.exit_code == 0, result.stderr


@pytest.mark.slow
def test_another_image_size_is_resized_to(cifar, small: list[object]) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--img-size", 40, *small)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (["--warmup", "1.5"], "--warmup 1.5 is not between 0 and 1", "less than 1"),
        (["--label-smoothing", "-0.1"], "--label-smoothing -0.1 is not between 0 and 1", "0 or more"),
        (["--ema-decay", "1"], "--ema-decay 1 is not between 0 and 1", "less than 1"),
        (["--weight-decay", "-1"], "--weight-decay -1 is negative or not finite", "0 or more"),
        (["--clip-norm", "-1"], "--clip-norm -1 is negative or not finite", "0 or more"),
        (["--precision", "16", "--device", "cpu"], "--precision 16 needs a CUDA GPU", "bf16"),
        (["--batch", "0"], "--batch must be at least 1, not 0", "--batch 128"),
        (["--seed", "-1"], "--seed must be at least 0, not -1", "--seed 42"),
        (["--pipeline", "albumentations", "--workers", "-1"], "--workers must be at least 0, not -1", "--workers 2"),
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


def test_a_directory_without_a_run_can_not_be_resumed(cifar, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--resume", tmp_path / "absent")
    assert result.exit_code == 1
    assert "absent contains no run to resume" in result.stderr
    assert "last.ckpt" in result.stderr


@pytest.mark.slow
def test_a_resumed_run_takes_a_moved_dataset_and_more_epochs(  # type: ignore[no-untyped-def]
    cifar, trained_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    run_dir, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(trained_run, run_dir)
    shutil.copytree(data_dir, moved)
    result = cifar(
        "train", "--resume", run_dir, "--data-dir", moved, "--max-epochs", 3, "--max-time", "10:00", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["epochs"] == 3
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["config"]["recipe"]["batch"] == 64


def test_an_epoch_line_fits_80_columns() -> None:
    result = EpochResult(
        epoch=100,
        step=60,
        train_loss=10.1234,
        train_optimized_loss=10.1234,
        train_accuracy=1.0,
        val_loss=10.1,
        val_accuracy=1.0,
        learning_rate=1e-3,
        elapsed_seconds=1e4,
        images_per_second=123_456.0,
        best=True,
    )
    line = training_tables.epoch_line(result)
    assert len(line) <= 80
    assert "100.00%*" in line


@pytest.mark.slow
def test_several_seeds_train_several_runs(cifar, one_epoch: list[object], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--seeds", "3,4", "--json", *one_epoch)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [run["seed"] for run in document["runs"]] == [3, 4]
    assert document["test_accuracy"] == pytest.approx(sum(run["test_accuracy"] for run in document["runs"]) / 2)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"seed-3", "seed-4", "seeds.json", "report.html"}
    written = json.loads((tmp_path / "run/seeds.json").read_text())
    assert written["test_accuracy"] == document["test_accuracy"]
    assert written["test_accuracy_standard_deviation"] == document["test_accuracy_standard_deviation"]
    assert written["runs"] == document["runs"]


@pytest.mark.slow
def test_a_profile_is_a_trace_that_names_the_operators_of_a_step(cifar, small: list[object], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--profile", *small)
    assert result.exit_code == 0, result.stderr
    (trace,) = (tmp_path / "run/profile").glob("*.pt.trace.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "aten::convolution_backward" in names


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fast", "best"])
def test_the_other_recipes_train_too(cifar, small: list[object], recipe: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("train", "--recipe", recipe, "--batch", 16, *small)
    assert result.exit_code == 0, result.stderr
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["config"]["recipe"]["name"] == recipe


@pytest.mark.slow
def test_flags_replace_the_fields_of_a_recipe(cifar, small: list[object], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--optimizer", "muon", "--schedule", "triangular", "--warmup", 0.4, "--weight-decay", 0.02)
    more = (
        "--clip-norm",
        0,
        "--label-smoothing",
        0.2,
        "--ema-decay",
        0.5,
        "--precision",
        "32",
        "--memory-format",
        "contiguous",
    )
    result = cifar("train", *words, *more, *small)
    assert result.exit_code == 0, result.stderr
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["config"]
    recipe = config["recipe"]
    assert (recipe["optimizer"], recipe["schedule"], recipe["warmup"]) == ("muon", "triangular", 0.4)
    assert (recipe["weight_decay"], recipe["label_smoothing"], recipe["ema_decay"]) == (0.02, 0.2, 0.5)
    assert recipe["clip_norm"] is None
    assert (config["precision"], config["memory_format"]) == ("32", "contiguous")


@pytest.mark.slow
def test_hybrid_is_trained_without_unused_layers_by_default(cifar, small: list[object], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("train", "--model", "hybrid", "--weights", "none", "--batch", 8)
    trimmed = cifar(*words, *small)
    assert "2,331,722 parameters" in trimmed.stderr
    assert "never reach the logits: backbone.layer2, backbone.layer3, backbone.layer4" in trimmed.stderr
    whole = cifar(*words, "--full-backbone", *small[:-1], tmp_path / "whole")
    assert "13,350,730 parameters" in whole.stderr
    assert "never reach" not in whole.stderr


@pytest.mark.slow
def test_a_fast_dev_run_reports_no_scores_and_stays_out_of_runs(  # type: ignore[no-untyped-def]
    cifar, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    words = ("train", "--dataset", "shapes", "--data-dir", data_dir, "--fast-dev-run")
    result = cifar(*words, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["fast_dev_run"] is True
    scores = ("val_accuracy", "test_accuracy", "test_accuracy_flip_averaged", "test_loss")
    assert [document[name] for name in scores] == [None] * 4
    run_dir = Path(document["run_dir"])
    assert run_dir.parent == tmp_path / "scratch"
    assert not (tmp_path / "runs").exists()
    assert not (run_dir / "metrics.csv").exists()
    assert json.loads((run_dir / "summary.json").read_text())["test_accuracy"] is None
    shown = cifar(*words)
    assert "not measured: --fast-dev-run" in shown.stdout
    assert "%" not in shown.stdout.partition("Time")[0]
    assert "no scores" in shown.stderr
    assert "next:" not in shown.stderr
    image = tmp_path / "image.png"
    Image.new("RGB", (32, 32)).save(image)
    told = "was trained on one batch (--fast-dev-run): its predictions say nothing about the model"
    assert told in " ".join(cifar("evaluate", run_dir).stdout.split())
    assert json.loads(cifar("evaluate", run_dir, "--json").stdout)["unfinished"].endswith(told)
    assert told in " ".join(cifar("predict", image, "--checkpoint", run_dir).stderr.split())
