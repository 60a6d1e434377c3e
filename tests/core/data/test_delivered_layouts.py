"""Folders as Kaggle, pandas and telephones deliver them: labels go to their own pictures, and nothing else is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import import_dataset
from cifar_cli.core.data.sources.containers import from_container
from cifar_cli.core.data.sources.reading import ImportChoices
from cifar_cli.core.limits import MAX_PIXELS
from cifar_cli.errors import DataError
from tests.conftest import Cifar
from tests.core.data.streams import photo
from tests.core.data.test_any_folder import classes_of, imported, put

NUMBERS = [7, 2, 9, 4, 0, 5, 1, 8, 3, 6]  # the picture of each row: none but the fifth has its own number


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (",image,label", "{row},{number}.png,{label}"),
        ("Unnamed: 0,image,label", "{row},{number}.png,{label}"),
        ("index,id_code,label", "{row},{number},{label}"),
        ("id,filename,label", "{row},{number}.png,{label}"),
        ("id,path,label", "{row},imgs/{number}.png,{label}"),
        ("image,label,", "{number}.png,{label},{row}"),
        ("Unnamed: 0,Unnamed: 0.1,image,label", "{row},{row},{number}.png,{label}"),
    ],
)
def test_numbers_of_rows_are_not_taken_for_names_of_images(tmp_path: Path, header: str, row: str) -> None:
    for number in NUMBERS:
        put(tmp_path, f"imgs/{number}.png", number)
    rows = [
        row.format(row=at, number=number, label="even" if number % 2 == 0 else "odd")
        for at, number in enumerate(NUMBERS)
    ]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    made = imported(tmp_path)
    assert made.classes == ("even", "odd")
    images = [
        *zip(made.train_images, made.train_labels, strict=True),
        *zip(made.test_images, made.test_labels, strict=True),
    ]
    assert len(images) == len(NUMBERS)
    for number in NUMBERS:
        (label,) = [label for image, label in images if (image == photo(number, width=24, height=24)).all()]
        assert made.classes[label] == ("even" if number % 2 == 0 else "odd")


def test_a_column_of_a_few_numbers_is_not_taken_for_names_of_images(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path, f"imgs/{number}.png", number)
    rows = [f"{number},{number % 2},{'odd' if number % 2 else 'even'}" for number in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["index,class_id,label", *rows]))
    made = imported(tmp_path)
    assert made.classes == ("even", "odd")
    assert len(made.train_images) + len(made.test_images) == 20


def test_labelled_images_keep_the_split_that_their_folder_names(tmp_path: Path) -> None:
    for number in range(10):
        put(tmp_path, f"train_images/a{number}.png", number)
        put(tmp_path, f"test_images/b{number}.png", 50 + number)
    rows = [f"{letter}{number},{'mild' if number % 2 else 'severe'}" for letter in "ab" for number in range(10)]
    (tmp_path / "labels.csv").write_text("\n".join(["id_code,diagnosis", *rows]))
    made = imported(tmp_path)
    assert (len(made.train_images), len(made.test_images)) == (10, 10)
    assert "no test images are given" not in made.notes


def test_a_folder_of_images_with_the_name_of_that_of_the_datasets_is_read(
    cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes_of(tmp_path / "pets" / "data", "cat", "dog", images=3)
    monkeypatch.chdir(tmp_path / "pets")
    made = cifar("download", "--dataset", "pets", "--from", ".", "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("title", ["diagnosis", "label"])
def test_a_table_labels_images_of_folders_that_are_named_as_splits(tmp_path: Path, title: str) -> None:
    for number in range(10):
        put(tmp_path, f"train_images/a{number}.png", number)
        put(tmp_path, f"test_images/b{number}.png", 50 + number)
    rows = [f"a{number},{'mild' if number % 2 else 'severe'}" for number in range(10)]
    (tmp_path / "train.csv").write_text("\n".join([f"id_code,{title}", *rows]))
    (tmp_path / "test.csv").write_text("\n".join(["id_code", *(f"b{number}" for number in range(10))]))
    made = imported(tmp_path)
    assert made.classes == ("mild", "severe")
    assert {each.name for each in made.left_out} == {f"test_images/b{number}.png" for number in range(10)}
    assert "10 images without a label left out" in made.notes


def test_folders_named_as_splits_beside_a_table_that_labels_nothing_are_mentioned(tmp_path: Path) -> None:
    classes_of(tmp_path, "train_images", "test_images")
    (tmp_path / "prices.csv").write_text("town,price\nBonn,3\n")
    assert "if they are splits, put class folders into them, or pass --columns" in imported(tmp_path).notes


@pytest.mark.parametrize("split", [True, False])
def test_a_class_whose_test_images_are_damaged_is_imported_and_named(tmp_path: Path, split: bool) -> None:
    places = ("train/cat", "train/dog", "test/cat", "test/dog") if split else ("cat", "dog")
    folder = classes_of(tmp_path / "pets", *places, images=5)
    if split:
        damaged = list((folder / "test/cat").iterdir())
    else:  # whichever is drawn for the test
        made = imported(folder)
        drawn = made.test_images[made.test_labels.index(0) if isinstance(made.test_labels, list) else 0]
        (number,) = [at for at in range(5) if (drawn == photo(at, width=24, height=24)).all()]
        damaged = [folder / f"cat/{number}.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:40])
    data = DataConfig(dataset="pets", data_dir=tmp_path / "data")
    with pytest.raises(DataError, match="is not a readable image"):
        import_dataset(ImportConfig(data=data, sources=(str(folder),)))
    summary = import_dataset(ImportConfig(data=data, sources=(str(folder),), skip_bad=True)).dataset
    assert "no test image of cat can be read, so that it is never measured" in summary.provenance.notes


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_class_folder_that_can_t_be_read_is_left_out_on_demand(tmp_path: Path) -> None:
    folder = classes_of(tmp_path / "pets", "cat", "dog", "emu", images=3)
    (folder / "dog").chmod(0)
    data = DataConfig(dataset="pets", data_dir=tmp_path / "data")
    with pytest.raises(DataError, match="dog"):
        import_dataset(ImportConfig(data=data, sources=(str(folder),)))
    made = import_dataset(ImportConfig(data=data, sources=(str(folder),), skip_bad=True))
    assert made.dataset.classes == ("cat", "emu")


def test_a_folder_that_can_t_be_listed_is_no_matter_of_parquet_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, before = classes_of(tmp_path / "pets", "cat", "dog"), os.scandir

    def scandir(path: str | Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return before(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert from_container(folder, ImportChoices()) is None
    (folder / "train.parquet").write_bytes(b"PAR1PAR1")
    with pytest.raises(DataError, match=r"dog can't be read \(Permission denied\)"):
        from_container(folder, ImportChoices())


def test_a_folder_that_holds_the_datasets_is_imported_without_them(
    cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = classes_of(tmp_path / "photos", "cat", "dog", images=4)
    put(folder, "stray.png", 77)
    monkeypatch.chdir(folder)
    for more in ([], ["--force"]):
        made = cifar("download", "--dataset", "photos", "--from", ".", "--skip-bad", "--json", *more)
        assert made.exit_code == 0, made.stderr
        document = json.loads(made.stdout)
        assert document["classes"] == ["cat", "dog"]
        assert [each["name"] for each in document["left_out"]] == ["stray.png"]
        assert "data" not in " ".join(document["provenance"]["notes"])
        put(folder / "data", "photos-duplicates.png", 3)


@pytest.mark.parametrize("name", ["Fotos\u00a02024", "Urlaub\u202f3", "a\u200db"])
def test_a_folder_with_an_invisible_character_in_its_name_is_known_again(
    cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    classes_of(tmp_path / name, "cat", "dog")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        made = cifar("download", "--dataset", "x", "--from", name)
        assert made.exit_code == 0, made.stderr


@pytest.mark.parametrize(
    ("names", "message", "remedy"),
    [
        (["train.7z", "test.7z", "labels.csv"], "2 .7z", "extract the .7z files in it first"),
        (["a/b.zip"], "1 .zip", "extract the .zip files in it first"),
        (["a/1.psd", "a/2.dng"], "1 .dng", "convert the images to PNG or JPEG"),
        (["a/photo"], "1 without a suffix", "convert the images to PNG or JPEG"),
    ],
)
def test_a_folder_of_other_files_says_what_it_holds(
    tmp_path: Path, names: list[str], message: str, remedy: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"image,label\n" if name.endswith(".csv") else b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(DataError, match="holds no images that are read, but") as caught:
        imported(tmp_path)
    assert message in caught.value.what
    assert remedy in (caught.value.remedy or "")


def test_pillow_does_not_warn_of_large_photographs() -> None:
    """Its own limit is 89 million pixels, fewer than a telephone's."""
    assert Image.MAX_IMAGE_PIXELS is None
    assert MAX_PIXELS > 12_240 * 16_320
