from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def test_the_table_shows_every_class_and_the_picture_is_written(cifar, trained_run: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", trained_run)
    assert result.exit_code == 0, result.stderr
    assert "null on shapes (synthetic)" in result.stdout
    for expected in ("circle", "hourglass", "precision", "recall", "F1", "mean of classes", "100"):
        assert expected in result.stdout
    assert (trained_run / "evaluation/best-shapes-test/confusion-shapes-test.png").is_file()


def test_json_has_the_documented_keys(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", trained_run / "checkpoints/last.ckpt", "--json", "--out", tmp_path)
    document = json.loads(result.stdout)
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    documented = page.partition("`cifar evaluate RUN_DIR --json` prints")[2].partition("\n\n")[0]
    assert set(document) == set(re.findall(r"`(\w+)`", documented))
    assert len(document["per_class"]) == 10
    assert document["mean_recall"] == pytest.approx(sum(score["recall"] for score in document["per_class"]) / 10)


@pytest.mark.slow
def test_views_are_scored_where_asked_for(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", trained_run, "--views", "--json", "--out", tmp_path)
    trained = json.loads((trained_run / "summary.json").read_text(encoding="utf-8"))
    views = json.loads(result.stdout)["views"]
    assert views["mirror_averaged"] == trained["test_accuracy_flip_averaged"]
    assert 0 < views["views_averaged"] <= 1


def test_several_runs_are_compared_in_one_table_and_one_document(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("evaluate", trained_run, trained_run / "checkpoints/last.ckpt", "--out", tmp_path, "--split", "val")
    assert "null and null-last do not differ significantly" in " ".join(cifar(*words).stdout.split())
    document = json.loads(cifar(*words, "--json").stdout)
    assert [each["name"] for each in document["evaluations"]] == ["null", "null-last"]
    assert document["tests"][0]["p_value"] == 1


def test_files_that_can_not_be_written_are_an_error_after_the_scores(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "predictions.csv").mkdir()
    result = cifar("evaluate", trained_run, "--out", tmp_path, "--json")
    assert result.exit_code == 1
    assert "can't be written" in result.stderr
    assert json.loads(result.stdout)["images"] == 100


@pytest.mark.parametrize("spelling", ["SHAPES", "Shapes"])
def test_a_built_in_dataset_may_be_spelled_otherwise(cifar, trained_run: Path, data_dir: Path, spelling: str) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", trained_run, "--dataset", spelling, "--data-dir", data_dir)
    assert result.exit_code == 0, result.stderr
    assert "null on shapes (synthetic)" in result.stdout


@pytest.mark.parametrize("content", ["nothing", "text", "tensor", "dict without our keys"])
def test_a_file_that_is_not_a_checkpoint_is_refused_with_a_remedy(cifar, tmp_path: Path, content: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "wrong.ckpt"
    if content == "text":
        path.write_text("not a checkpoint")
    elif content == "tensor":
        torch.save(torch.zeros(1), path)
    elif content == "dict without our keys":
        torch.save({"state_dict": {}}, path)
    result = cifar("evaluate", path)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "wrong.ckpt" in result.stderr
    assert "cifar train" in result.stderr


def test_a_wrong_folder_is_refused_before_torch_loads(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom cifar_cli.app import app\n"
        "result = CliRunner().invoke(app, ['evaluate', 'run', '--out', 'x.png'])\n"
        "print(result.exit_code, '--out' in result.stderr, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", "False"]


def test_the_error_for_a_missing_dataset_names_the_download_command(cifar, trained_run: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", trained_run, "--dataset", "absent", "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert "cifar download" in result.stderr
