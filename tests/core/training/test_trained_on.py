from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate
from cifar_cli.core.training.config import ResumeConfig
from cifar_cli.core.training.train import resume
from cifar_cli.errors import CheckpointError, CifarError, DataError
from tests.conftest import Cifar


@pytest.fixture
def project(tmp_path: Path, data_dir: Path, cifar: Cifar, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data/shapes.safetensors and runs/one, trained from there with a relative --data-dir."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    shutil.copy(data_dir / "shapes.safetensors", folder / "data")
    monkeypatch.chdir(folder)
    words = ("--dataset", "shapes", "--max-epochs", 1, "--batch", 64, "--run-dir", "runs/one", "--no-report")
    assert cifar("train", *words).exit_code == 0
    return folder


def replaced(project: Path) -> str:
    """Put other images under the dataset's name. Returns their hash."""
    path = project / "data/shapes.safetensors"
    path.unlink()
    return write_store(path, name="shapes", images=draw_shapes(train_images=300, test_images=50)).content


def test_a_run_keeps_the_hash_and_the_absolute_folder_of_its_dataset(project: Path) -> None:
    told = yaml.safe_load((project / "runs/one/config.yaml").read_text())
    assert told["content"] == open_store(project / "data/shapes.safetensors").content
    assert told["config"]["data"]["data_dir"] == str(project / "data")


def test_a_dataset_that_was_replaced_under_its_name_is_neither_evaluated_nor_resumed(
    project: Path, cifar: Cifar
) -> None:
    trained = open_store(project / "data/shapes.safetensors").content
    now = replaced(project)
    calls = (
        lambda: evaluate(EvaluateConfig(checkpoint=Path("runs/one"))),
        lambda: evaluate(EvaluateConfig(checkpoint=Path("runs/one"), data_dir=project / "data")),
        lambda: evaluate(EvaluateConfig(checkpoint=Path("runs/one/checkpoints/last.ckpt"))),
        lambda: resume(ResumeConfig(run_dir=Path("runs/one"), max_epochs=2)),
        lambda: resume(ResumeConfig(run_dir=Path("runs/one"), max_epochs=2, data_dir=project / "data")),
    )
    for call in calls:
        with pytest.raises(CheckpointError) as raised:
            call()
        assert now[:19] in raised.value.what
        assert trained[:19] in raised.value.what
        assert "put that dataset back" in (raised.value.remedy or "")
    told = cifar("evaluate", "runs/one", "--dataset", "shapes", "--json")
    assert told.exit_code == 0, told.output
    assert '"images": 50' in told.stdout


def test_a_dataset_replaced_by_one_of_other_classes_is_not_its_own_remedy(project: Path) -> None:
    path = project / "data/shapes.safetensors"
    path.unlink()
    shapes = draw_shapes(train_images=30, test_images=10)
    write_store(path, name="shapes", images=replace(shapes, classes=tuple(f"class{number}" for number in range(10))))
    with pytest.raises(CheckpointError, match="was trained on 10 classes") as raised:
        evaluate(EvaluateConfig(checkpoint=Path("runs/one"), dataset="shapes"))
    assert (
        raised.value.remedy == "put the dataset shapes back that it was trained on, or pass --data-dir for its folder"
    )


def test_the_dataset_is_found_from_another_folder_and_beside_a_run_that_moved(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    first = evaluate(EvaluateConfig(checkpoint=project / "runs/one"))
    moved = tmp_path / "moved"
    project.rename(moved)
    for run in (moved / "runs/one", moved / "runs/one/checkpoints/best.ckpt"):
        assert evaluate(EvaluateConfig(checkpoint=run)).accuracy == first.accuracy
    assert resume(ResumeConfig(run_dir=moved / "runs/one", max_epochs=2)).epochs == 2


def test_a_dataset_of_the_right_content_is_taken_before_another_of_its_name(project: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.move(project / "data/shapes.safetensors", tmp_path / "data")
    (project / "runs/data").mkdir()
    write_store(
        project / "runs/data/shapes.safetensors", name="shapes", images=draw_shapes(train_images=300, test_images=50)
    )
    assert evaluate(EvaluateConfig(checkpoint=project / "runs/one")).images == 100


def test_a_checkpoint_chooses_no_folder_to_download_into(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / "data")
    content = torch.load("runs/one/checkpoints/best.ckpt", weights_only=True)
    chosen = tmp_path / "chosen"
    content["cifar"]["config"]["data"]["data_dir"] = str(chosen)
    torch.save(content, "runs/one/checkpoints/best.ckpt")
    torch.save(content, tmp_path / "alone.ckpt")
    before = sorted(tmp_path.rglob("*"))
    for checkpoint in (Path("runs/one"), tmp_path / "alone.ckpt"):
        with pytest.raises(DataError, match=r"is neither in .*chosen nor beside the run") as raised:
            evaluate(EvaluateConfig(checkpoint=checkpoint))
        assert raised.value.remedy == (
            "pass --data-dir for the folder that it is in now, or get it again: `cifar download --dataset shapes`"
        )
    with pytest.raises(CifarError, match="nor beside the run"):
        resume(ResumeConfig(run_dir=Path("runs/one"), max_epochs=2))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_of_an_earlier_version_is_scored_on_what_has_its_name(project: Path) -> None:
    content = torch.load("runs/one/checkpoints/best.ckpt", weights_only=True)
    del content["cifar"]["content"]
    content["cifar"]["config"]["data"]["data_dir"] = "data"
    torch.save(content, "runs/one/checkpoints/best.ckpt")
    replaced(project)
    assert evaluate(EvaluateConfig(checkpoint=Path("runs/one"))).images == 50


def test_the_preview_of_a_run_downloads_nothing_into_the_folder_that_the_run_names(project: Path, cifar: Cifar) -> None:
    assert cifar("augment-preview", "--run", "runs/one").exit_code == 0
    shutil.rmtree(project / "data")
    refused = cifar("augment-preview", "--run", "runs/one")
    assert refused.exit_code == 1
    assert "nor beside the run" in " ".join(refused.stderr.split())
    assert not (project / "data").exists()
