"""A store of image files from training to report: every place that looks at images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.core.evaluation.config import EvaluateConfig, PredictConfig
from cifar_cli.core.evaluation.evaluate import evaluate_only
from cifar_cli.core.evaluation.predict import predict
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training import batches
from cifar_cli.core.training.batches import INITIALISED_FROM_PIXELS, images_for_initialisation, make_loaders
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.introduction import enlarged
from cifar_cli.core.training.prepare import fitted_to
from tests.core.data.streams import jpeg, photo, photo_stream, rows_of, stream

CPU = torch.device("cpu")
COUNTS = (40, 8, 12)  # train, val, test


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of photographs of 60x45 pixels, of which the first class is dark."""
    folder = tmp_path_factory.mktemp("photos")
    rows = rows_of(*COUNTS)
    contents = [jpeg(photo(place, width=60, height=45) // (4 - 3 * row.label)) for place, row in enumerate(rows)]
    write_store(folder / "photos.safetensors", name="photos", images=stream(contents, rows, img_size=32))
    return folder


@pytest.fixture(scope="module")
def run_dir(photos: Path, cifar, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    run = tmp_path_factory.mktemp("runs") / "photos"
    words = ("--dataset", "photos", "--data-dir", photos, "--batch", 8, "--max-epochs", 2, "--run-dir", run)
    result = cifar("train", "--model", "null", "--policy", "photo", "--device", "cpu", *words)
    assert result.exit_code == 0, result.output
    assert "Error" not in result.output  # of the report, which does not end the run
    assert "adds no detail" not in result.output
    return run


def test_training_sees_every_image_and_validates_on_the_given_ones(run_dir: Path, photos: Path) -> None:
    store = open_store(photos / "photos.safetensors")
    config = fitted_to(TrainConfig(model=ModelConfig(name="null")), store)
    loaders = make_loaders(config, store, device=CPU)
    assert loaders.val_indices.tolist() == list(range(40, 48))
    assert (len(loaders.train_indices), len(loaders.test.indices)) == (40, 12)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["val_accuracy"] > 0.6  # dark and bright
    assert (run_dir / "report.html").is_file()


@pytest.mark.parametrize("split", ["val", "test"])
def test_files_are_predicted_as_their_copies_in_the_store_are_evaluated(
    run_dir: Path, photos: Path, tmp_path: Path, split: str
) -> None:
    evaluated = evaluate_only(EvaluateConfig(checkpoint=run_dir, split=split, device="cpu")).predictions  # type: ignore[arg-type]
    store = open_store(photos / "photos.safetensors")
    part = store.train if split == "val" else store.test
    for place, row in enumerate(evaluated.index_N.tolist()):
        (tmp_path / f"{place:03}.jpg").write_bytes(part.pictures.content(row))  # type: ignore[union-attr]
    found = predict(PredictConfig(images=(str(tmp_path),), checkpoint=run_dir, device="cpu"))
    probabilities = torch.tensor([each.probabilities for each in found.predictions], dtype=torch.float64)
    assert torch.equal(probabilities, evaluated.probabilities_NK)
    assert torch.equal(found.images_NHWC, evaluated.images_NHWC[evaluated.index_N])


def test_a_truncated_photograph_is_not_predicted(run_dir: Path, tmp_path: Path) -> None:
    content = jpeg(photo(1, width=60, height=45))
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "b.jpg").write_bytes(content[: len(content) // 2])
    found = predict(PredictConfig(images=(str(tmp_path),), checkpoint=run_dir, device="cpu"))
    assert len(found.predictions) == 1
    assert "b.jpg is not a readable image" in found.problems[0]


def test_the_files_of_an_evaluation_name_the_images(run_dir: Path, cifar, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", run_dir, "--device", "cpu", "--corruptions", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [row.name for row in rows_of(*COUNTS)[48:]]
    with (tmp_path / "suspects.csv").open(encoding="utf-8") as file:
        assert all(row["file"].startswith("test/") for row in csv.DictReader(file))
    assert (tmp_path / "mistakes.png").is_file()


@pytest.mark.parametrize(("stored", "asked", "seen"), [(32, None, 32), (512, None, 224), (512, 300, 300), (32, 64, 64)])
def test_training_sees_the_stored_size_up_to_that_of_photographs(
    stored: int, asked: int | None, seen: int, tmp_path: Path
) -> None:
    write_store(tmp_path / "a.safetensors", name="a", images=photo_stream(img_size=stored))
    config = fitted_to(
        TrainConfig(model=ModelConfig(name="null"), img_size=asked), open_store(tmp_path / "a.safetensors")
    )
    assert (config.model.img_size, config.encoded) == (seen, True)


def test_a_size_above_the_stored_one_is_said_to_add_no_detail(
    photos: Path, data_dir: Path, cifar, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    words = ("--dataset", "photos", "--data-dir", photos, "--img-size", 40, "--run-dir", tmp_path / "run")
    result = cifar("train", "--model", "null", "--fast-dev-run", "--device", "cpu", *words)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "--img-size 40 is more than the 32 pixels that photos was imported for" in said
    shapes = open_store(data_dir / "shapes.safetensors")
    assert enlarged(64, shapes) == "--img-size 64 enlarges the images of 32 pixels, which adds no detail"


def test_weights_are_computed_from_a_bounded_number_of_decoded_images(photos: Path) -> None:
    store = open_store(photos / "photos.safetensors")
    config = fitted_to(TrainConfig(model=ModelConfig(name="null"), img_size=1500), store)
    images = images_for_initialisation(store, make_loaders(config, store, device=CPU), config)
    assert images.shape == (INITIALISED_FROM_PIXELS // 1500**2, 3, 1500, 1500)


def test_weights_are_computed_from_images_of_every_class_of_a_sorted_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = sorted(rows_of(40, 8, 12), key=lambda row: (row.split, row.label))
    contents = [jpeg(photo(1, width=32, height=32) // (4 - 3 * row.label)) for row in rows]
    write_store(tmp_path / "sorted.safetensors", name="sorted", images=stream(contents, tuple(rows), img_size=32))
    store = open_store(tmp_path / "sorted.safetensors")
    config = fitted_to(TrainConfig(model=ModelConfig(name="null")), store)
    monkeypatch.setattr(batches, "INITIALISED_FROM", 8)
    means = images_for_initialisation(store, make_loaders(config, store, device=CPU), config).mean(dim=(1, 2, 3))
    assert (means < means.mean()).tolist() == [True] * 4 + [False] * 4  # the dark class, then the bright one
