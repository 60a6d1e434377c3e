from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cifar_cli.core.data.sources import kinds
from cifar_cli.core.data.splits import stratified_split
from cifar_cli.core.data.store import open_store
from cifar_cli.core.evaluation import predict as predicting
from cifar_cli.core.evaluation.config import MOST_EXPLAINED, EvaluateConfig, PredictConfig
from cifar_cli.core.evaluation.evaluate import evaluate_only
from cifar_cli.core.evaluation.predict import predict
from cifar_cli.errors import CheckpointError, ConfigError, DataError


@pytest.fixture(scope="module")
def validation_pngs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation images as PNG files, in their order."""
    folder = tmp_path_factory.mktemp("pngs")
    train = open_store(data_dir / "shapes.safetensors").train
    for place, row in enumerate(stratified_split(train.labels_N).val_indices.tolist()):
        Image.fromarray(train.images_NHWC[row].numpy()).save(folder / f"{place:04}.png")
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (50, 40), (200, 30, 30)).save(path)
    return path


def ask(trained_run: Path, *words: object, batch: int = 512) -> PredictConfig:
    return PredictConfig(images=tuple(map(str, words)), checkpoint=trained_run, batch=batch, device="cpu")


@pytest.mark.parametrize("batch", [512, 7])
def test_predictions_for_the_validation_images_equal_the_evaluation_to_the_bit(
    trained_run: Path, validation_pngs: Path, batch: int
) -> None:
    found = predict(ask(trained_run, validation_pngs, batch=batch))
    config = EvaluateConfig(checkpoint=trained_run, split="val", batch=batch, device="cpu")
    expected = evaluate_only(config).predictions
    probabilities = torch.tensor([each.probabilities for each in found.predictions], dtype=torch.float64)
    assert torch.equal(probabilities, expected.probabilities_NK)
    first = expected.images_NHWC[expected.index_N[:MOST_EXPLAINED]]
    assert torch.equal(found.images_NHWC, first)
    assert not any(each.remarks for each in found.predictions)


@pytest.mark.slow
def test_a_run_with_another_image_size_predicts_as_it_validates(
    cifar,
    data_dir: Path,
    validation_pngs: Path,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    words = ("--dataset", "shapes", "--data-dir", data_dir, "--max-epochs", 1, "--img-size", 24, "--batch", 64)
    assert cifar("train", "--model", "null", *words, "--run-dir", tmp_path / "run").exit_code == 0
    found = predict(ask(tmp_path / "run", validation_pngs))
    expected = evaluate_only(EvaluateConfig(checkpoint=tmp_path / "run", split="val", device="cpu")).predictions
    probabilities = torch.tensor([each.probabilities for each in found.predictions], dtype=torch.float64)
    assert torch.equal(probabilities, expected.probabilities_NK)


def test_files_folders_patterns_and_stdin_are_images(trained_run: Path, validation_pngs: Path, photo: Path) -> None:
    words = (photo, f"{validation_pngs}/000[01].png", photo.parent, "-")
    found = predict(ask(trained_run, *words), stdin=io.BytesIO(photo.read_bytes()))
    names = [Path(each.file).name for each in found.predictions]
    assert names == ["photo.png", "0000.png", "0001.png", "photo.png", "stdin"]
    assert found.predictions[0].probabilities == pytest.approx(found.predictions[4].probabilities, abs=1e-6)


def write(kind: str, path: Path) -> None:
    """One file of each kind of image that is not a plain RGB photo of the model's size."""
    if kind == "text":
        path.write_text("not an image")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        whole = io.BytesIO()
        Image.effect_noise((64, 64), 50).convert("RGB").save(whole, "PNG")
        path.write_bytes(whole.getvalue()[:2000])
    elif kind == "one pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "alpha":
        Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(path)
    elif kind == "CMYK":
        Image.new("CMYK", (32, 32)).save(path, "JPEG")
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (40, 32)).save(path, "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "is not a readable image (not an image of a known kind)"),
        ("empty", "is not a readable image (not an image of a known kind)"),
        ("truncated", "is not a readable image (image file is truncated"),
        ("absent", "there is no file"),
    ],
)
def test_a_file_that_is_no_image_is_named_with_the_reason(
    trained_run: Path, photo: Path, tmp_path: Path, kind: str, message: str
) -> None:
    path = tmp_path / f"{kind}.png"
    write(kind, path)
    with pytest.raises(DataError) as caught:
        predict(ask(trained_run, path))
    assert message in caught.value.what
    assert path.name in caught.value.what
    beside = predict(ask(trained_run, path, photo))
    assert [Path(each.file).name for each in beside.predictions] == ["photo.png"]
    assert beside.problems == (caught.value.what,)


@pytest.mark.parametrize(
    ("kind", "remark"),
    [
        ("one pixel", "enlarged from 1×1 pixels to 32×32"),
        ("alpha", "transparent pixels became white"),
        ("CMYK", "converted from CMYK to RGB"),
        ("turned", "turned as its EXIF data says"),
    ],
)
def test_what_is_done_to_an_unusual_image_is_remarked(
    trained_run: Path, tmp_path: Path, kind: str, remark: str
) -> None:
    path = tmp_path / "image.png"
    write(kind, path)
    (found,) = predict(ask(trained_run, path)).predictions
    assert found.remarks == (remark,)


@pytest.mark.parametrize(
    ("word", "message"),
    [("{}/none*.png", "no file matches .*none"), ("{}", "the folder .* contains no image file")],
)
def test_words_that_mean_no_image_are_named(trained_run: Path, tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predict(ask(trained_run, word.format(tmp_path)))


def test_empty_stdin_and_stdin_twice_are_refused(trained_run: Path) -> None:
    with pytest.raises(DataError, match="stdin is not a readable image"):
        predict(ask(trained_run, "-"), stdin=io.BytesIO())
    with pytest.raises(ConfigError, match="- is given twice"):
        ask(trained_run, "-", "-")


def test_a_checkpoint_of_another_program_is_refused(trained_run: Path, photo: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"epoch": 3, "state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"other\.ckpt was not written by `cifar train`: cifar"):
        predict(ask(path, photo))


def test_the_command_prints_json_a_table_and_a_csv_file(
    cifar,
    trained_run: Path,
    photo: Path,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    words = ("predict", photo, "--checkpoint", trained_run)
    document = json.loads(cifar(*words, "--json", "--top", 3, "--csv", tmp_path / "all.csv").stdout)
    (prediction,) = document["predictions"]
    assert len(prediction["top"]) == 3
    assert prediction["top"][0]["class"] == prediction["predicted"]
    with (tmp_path / "all.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["predicted"] == prediction["predicted"]
    assert float(row["confidence"]) == pytest.approx(prediction["top"][0]["probability"])
    assert prediction["predicted"] in cifar(*words).stdout
    result = cifar(*words, tmp_path / "absent.png")
    assert result.exit_code == 1
    assert prediction["predicted"] in result.stdout
    assert "there is no file" in result.stderr
    assert "leave out what is named; the other images were classified" in " ".join(result.stderr.split())


def test_a_folder_is_read_by_the_rules_of_an_import(trained_run: Path, photo: Path, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for below in (folder / "b", folder / ".ipynb_checkpoints", elsewhere):
        below.mkdir(parents=True)
    for path in (folder / "a.png", folder / "b/c.png", folder / ".ipynb_checkpoints/x.png", elsewhere / "y.png"):
        path.write_bytes(photo.read_bytes())
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (folder / "broken.png").symlink_to(tmp_path / "nothing.png")
    (folder / "notes.txt").write_text("no image")
    found = predict(ask(trained_run, folder))
    named = [Path(each.file).relative_to(folder).as_posix() for each in found.predictions]
    assert named == ["a.png", "b/c.png", "linked/y.png"]
    assert found.problems == (f"{folder}/broken.png is left out: it is a link to nothing",)


def test_a_format_that_is_not_decoded_here_is_named(
    trained_run: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photo.parent / "b.heic").write_bytes(b"heic")
    monkeypatch.setattr(kinds, "readable_formats", lambda: ("PNG",))
    found = predict(ask(trained_run, photo.parent))
    assert [Path(each.file).name for each in found.predictions] == ["photo.png"]
    assert found.problems == (f"{photo.parent}/b.heic is left out: {kinds.HEIF_REMEDY}",)


def test_many_images_are_classified_a_few_batches_at_a_time(
    trained_run: Path, validation_pngs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []
    original = predicting.predict_batches

    def counted(model, loader, **options):  # type: ignore[no-untyped-def]
        at_once.append(len(loader))
        return original(model, loader, **options)

    monkeypatch.setattr(predicting, "predict_batches", counted)
    images = len(predict(ask(trained_run, validation_pngs, batch=2)).predictions)
    assert max(at_once) <= predicting.BATCHES_AT_ONCE
    assert sum(at_once) == -(-images // 2)
