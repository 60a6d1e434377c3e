from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate, evaluate_only, evaluate_several
from cifar_cli.core.training.checkpoint import load_checkpoint
from cifar_cli.errors import CheckpointError, ConfigError


def test_evaluation_agrees_with_a_plain_loop_over_the_test_images(trained_run: Path, data_dir: Path) -> None:
    result = evaluate(EvaluateConfig(checkpoint=trained_run, batch=33, device="cpu"))
    store = open_store(data_dir / "shapes.safetensors")
    model = load_checkpoint(trained_run).model.eval()
    pixels = store.train.images_NHWC.flatten(0, 2) / 255
    mean, std = pixels.mean(dim=0), pixels.std(dim=0)
    with torch.no_grad():
        logits = model(((store.test.images_NHWC / 255 - mean) / std).permute(0, 3, 1, 2))
    labels = store.test.labels_N
    assert result.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4)
    assert result.images == 100
    assert sum(map(sum, result.confusion)) == 100
    assert result.synthetic
    assert result.figure == trained_run / "evaluation/best-shapes-test/confusion-shapes-test.png"
    assert result.figure.read_bytes().startswith(b"\x89PNG")


def test_a_dataset_of_other_classes_is_refused(trained_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    classes = tuple(f"class{number}" for number in range(10))
    write_store(path, name="other", images=replace(draw_shapes(train_images=10, test_images=10), classes=classes))
    with pytest.raises(CheckpointError, match=r"was trained on 10 classes \(circle, …\), but other has 10 \(class0, …"):
        evaluate(EvaluateConfig(checkpoint=trained_run, dataset=str(path), device="cpu"))


def test_files_that_can_not_be_written_cost_no_scores(trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "reliability.png").mkdir()
    result = evaluate(EvaluateConfig(checkpoint=trained_run, out=tmp_path, device="cpu"))
    assert result.images == 100
    assert result.files_problem is not None
    assert re.search(r"the picture .*reliability\.png can't be written \(Is a directory", result.files_problem)


def test_the_files_hold_what_the_result_says(trained_run: Path, data_dir: Path, tmp_path: Path) -> None:
    result = evaluate(EvaluateConfig(checkpoint=trained_run, split="val", out=tmp_path / "new/folder", device="cpu"))
    assert result.folder == tmp_path / "new/folder"
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "confusion-shapes-val.png", "mistakes.png", "predictions.csv", "reliability.png", "suspects.csv", "suspects.png"
    ]  # fmt: skip
    with (result.folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    store = open_store(data_dir / "shapes.safetensors")
    split = stratified_split(store.train.labels_N)
    assert [int(row["index"]) for row in rows] == split.val_indices.tolist()
    assert [row["true"] for row in rows] == [store.classes[label] for label in store.train.labels_N[split.val_indices]]
    assert sum(row["true"] == row["predicted"] for row in rows) == round(result.accuracy * result.images)
    for row in rows:
        shares = {name: float(row[f"p({name})"]) for name in store.classes}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
        assert max(shares, key=lambda name: shares[name]) == row["predicted"]
    with (result.folder / "suspects.csv").open(encoding="utf-8") as file:
        suspects = list(csv.DictReader(file))
    assert len(suspects) == result.images
    assert [int(row["index"]) for row in suspects[: len(result.suspects)]] == [each.index for each in result.suspects]


@pytest.mark.slow
def test_no_evaluation_overwrites_another(trained_run: Path, data_dir: Path, tmp_path: Path) -> None:
    """Another dataset, split or checkpoint of one run has its own files."""
    other = tmp_path / "other.safetensors"
    write_store(other, name="../other", images=draw_shapes(train_images=40, test_images=20))
    best, last = trained_run / "checkpoints/best.ckpt", trained_run / "checkpoints/last.ckpt"
    configs = [
        EvaluateConfig(checkpoint=trained_run, device="cpu"),
        EvaluateConfig(checkpoint=last, device="cpu"),
        EvaluateConfig(checkpoint=best, split="train", device="cpu"),
        EvaluateConfig(checkpoint=best, dataset=str(other), device="cpu"),
    ]
    figures = [evaluate(config).figure for config in configs]
    assert len(set(figures)) == len(figures)
    assert all(figure.is_file() and figure.is_relative_to(trained_run / "evaluation") for figure in figures if figure)


def test_train_and_validation_images_together_are_the_published_training_images(trained_run: Path) -> None:
    parts = [
        evaluate_only(EvaluateConfig(checkpoint=trained_run, split=split, device="cpu")).predictions
        for split in ("train", "val")
    ]
    assert sorted(torch.cat([part.index_N for part in parts]).tolist()) == list(range(400))


@pytest.mark.slow
def test_several_checkpoints_are_compared_and_have_their_own_folders(trained_run: Path, tmp_path: Path) -> None:
    last = trained_run / "checkpoints/last.ckpt"
    configs = [EvaluateConfig(checkpoint=path, out=tmp_path, device="cpu") for path in (trained_run, last, trained_run)]
    report = evaluate_several(configs)
    assert report.names == ("null", "null-last", "null~2")
    assert [each.folder for each in report.evaluations] == [tmp_path / name for name in report.names]
    assert [(test.first, test.second) for test in report.tests] == [
        ("null", "null-last"), ("null", "null~2"), ("null-last", "null~2")
    ]  # fmt: skip
    assert report.tests[1].p_value == 1
    assert set(report.to_dict()) == {"evaluations", "tests"}


def test_a_folder_of_runs_is_no_run_and_the_message_lists_them(trained_run: Path, tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).symlink_to(trained_run)
    with pytest.raises(CheckpointError, match="is not a run, but holds 2 runs") as caught:
        evaluate(EvaluateConfig(checkpoint=tmp_path))
    assert caught.value.remedy == f"pass one or more of them: {tmp_path / 'a'} {tmp_path / 'b'}"


def test_runs_of_several_seeds_in_a_folder_are_listed_too(trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "seeded").mkdir()
    for name in ("alone", "seeded/seed-0"):
        (tmp_path / name).symlink_to(trained_run)
    with pytest.raises(CheckpointError, match="is not a run, but holds 2 runs") as caught:
        evaluate(EvaluateConfig(checkpoint=tmp_path))
    assert caught.value.remedy == f"pass one or more of them: {tmp_path / 'alone'} {tmp_path / 'seeded/seed-0'}"


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="run holds no checkpoint yet"):
        evaluate(EvaluateConfig(checkpoint=tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no checkpoints"):
        evaluate(EvaluateConfig(checkpoint=tmp_path / "empty"))


@pytest.mark.slow
def test_an_unfinished_run_is_scored_and_marked(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(trained_run / "checkpoints/last.ckpt", run / "checkpoints")
    result = evaluate(EvaluateConfig(checkpoint=run, device="cpu"))
    assert result.unfinished == f"{run} is not finished; these are the weights of last.ckpt as they are now"
    assert evaluate(EvaluateConfig(checkpoint=trained_run, device="cpu")).unfinished is None


@pytest.mark.parametrize(
    ("out", "message"),
    [("x.png", "x.png names a picture, but takes the folder"), ("file", "file is a file, not a folder")],
)
def test_a_path_that_can_not_become_a_folder_is_refused_by_the_config(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(checkpoint=Path("run"), out=tmp_path / out)


def test_a_batch_of_zero_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="--batch must be at least 1, not 0"):
        EvaluateConfig(checkpoint=Path("run"), batch=0)


def test_an_unknown_device_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ConfigError, match="--device tpu is not offered") as caught:
        EvaluateConfig(checkpoint=Path("run"), device="tpu")  # type: ignore[arg-type]
    assert "cpu" in str(caught.value.remedy)
