"""Folders that hold something beside the images of the classes: it is named, and changes no class and no split."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from cifar_cli.core.data.config import ImportConfig
from cifar_cli.core.data.dataset import import_dataset
from cifar_cli.core.data.first_use import dataset_of, has_changed
from cifar_cli.core.data.sources.pixels import as_pixels, upright
from cifar_cli.errors import DataError
from tests.core.data.test_any_folder import classes_of, imported, packed, put
from tests.core.data.test_containers import save_parquet, stored


@pytest.mark.parametrize("stray", ["pets/logo.png", "logo.png", "pets/cover.jpg"])
@pytest.mark.parametrize("places", [("cat", "dog"), ("train/cat", "train/dog", "test/cat", "test/dog")])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_picture_above_the_classes_of_an_archive_makes_no_class(
    tmp_path: Path, stray: str, places: tuple[str, ...], suffix: str
) -> None:
    folder = classes_of(tmp_path / "all", *(f"pets/{place}" for place in places), images=5)
    put(folder, stray, 900)
    archive = packed(folder, tmp_path / f"pets{suffix}")
    with pytest.raises(DataError, match=r"is not in a (class|SPLIT/CLASS) folder") as caught:
        imported(archive)
    assert Path(stray).name in caught.value.what
    assert "--skip-bad" in (caught.value.remedy or "")
    made = imported(archive, skip_bad=True)
    assert made.classes == ("cat", "dog")
    assert len(made.train_images) + len(made.test_images) == 5 * len(places)
    assert [each.name for each in made.left_out] == [Path(stray).name]


def test_folders_beside_the_common_one_are_no_empty_classes(tmp_path: Path) -> None:
    folder = classes_of(tmp_path / "all", "pets/cat", "pets/dog")
    (folder / "notes" / "old").mkdir(parents=True)
    made = imported(folder)
    assert made.classes == ("cat", "dog")
    assert "old" not in made.notes


def test_a_class_folder_with_folders_in_it_stays_a_class(tmp_path: Path) -> None:
    made = imported(classes_of(tmp_path / "pets", "cat", "cat/old", "cat/new", "dog"))
    assert made.classes == ("cat", "dog")


def test_the_split_of_a_parquet_file_is_any_word_of_its_name(tmp_path: Path) -> None:
    save_parquet(tmp_path / "data", shards=1)
    for file in list((tmp_path / "data").glob("*.parquet")):
        file.rename(file.with_name(f"pets_{file.name.split('-')[0]}.parquet"))
    assert "no test images are given" not in " ".join(stored(tmp_path / "data", tmp_path).provenance.notes)


def test_pictures_of_a_repository_s_page_do_not_hide_its_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    save_parquet(tmp_path / "pets" / "data")
    put(tmp_path / "pets", "assets/a.png")
    put(tmp_path / "pets", "assets/b.png", 1)
    store = stored(tmp_path / "pets", tmp_path)
    assert (store.classes, len(store.train)) == (("cat", "dog"), 8)
    assert store.provenance.left_out_kinds == {".png": 2}


def test_parquet_files_are_found_behind_links_and_far_below(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "a" / "b" / "c").mkdir(parents=True)
    save_parquet(tmp_path / "elsewhere" / "a" / "b" / "c" / "d")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    assert len(stored(tmp_path / "pets", tmp_path).train) == 8


def test_a_folder_of_parquet_files_that_can_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets" / "test").mkdir(parents=True)
    save_parquet(tmp_path / "pets" / "data")
    real = __import__("os").scandir

    def scandir(folder: object) -> object:
        if str(folder).endswith("test"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(DataError, match=r"test can't be read \(Permission denied\)"):
        stored(tmp_path / "pets", tmp_path)


def test_a_table_of_more_images_than_there_are_labels_those(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path / "pets", f"{number}.png", number)
    rows = [f"{number},{'cat' if number % 2 else 'dog'}" for number in range(5000)]
    (tmp_path / "pets" / "labels.csv").write_text("id,label\n" + "\n".join(rows[::-1]))
    made = imported(tmp_path / "pets")
    assert made.classes == ("cat", "dog")
    assert len(made.train_images) + len(made.test_images) == 20


@pytest.mark.parametrize("title", ["set", "subset", "partition", "split"])
def test_a_chosen_label_column_is_no_column_of_splits(tmp_path: Path, title: str) -> None:
    for number in range(8):
        put(tmp_path / "sets", f"{number}.png", number)
    rows = "".join(f"{number}.png,{'castle' if number % 2 else 'space'}\n" for number in range(8))
    (tmp_path / "sets" / "list.csv").write_text(f"image,{title}\n{rows}")
    assert imported(tmp_path / "sets", columns=("image", title)).classes == ("castle", "space")


@pytest.mark.parametrize("name", ["Fotos\u00a02024", "Screenshots\u202f1"])
def test_a_folder_with_an_odd_space_in_its_name_is_imported_once(tmp_path: Path, name: str) -> None:
    source = classes_of(tmp_path / name, "cat", "dog")
    data = dataset_of(source, tmp_path / "data")
    import_dataset(ImportConfig(data=data, sources=(str(source),)))
    assert dataset_of(source, tmp_path / "data") == data


def test_a_link_to_what_can_not_be_read_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    folder = classes_of(tmp_path / "pets", "cat", "dog")
    (folder / "bird").symlink_to(folder / "bird")
    with pytest.raises(DataError, match=r"bird.*Too many levels"):
        imported(folder)
    made = imported(folder, skip_bad=True)
    assert made.classes == ("cat", "dog")
    assert [each.name for each in made.left_out] == ["bird"]


def test_a_link_that_leads_back_is_no_image_that_was_left_out(tmp_path: Path) -> None:
    folder = classes_of(tmp_path / "pets", "cat", "dog")
    (folder / "cat" / "again").symlink_to(folder)
    made = imported(folder)
    assert made.provenance.skipped_images == 0


def test_runs_and_datasets_inside_a_folder_are_no_images_and_no_change(tmp_path: Path) -> None:
    source = classes_of(tmp_path / "photos", "cat", "dog")
    data = dataset_of(source, source / "data")
    import_dataset(ImportConfig(data=data, sources=(str(source),)))
    assert not has_changed(source, data)
    run = source / "runs" / "first"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("")
    put(run, "evaluation/confusion.png")
    assert not has_changed(source, data)
    made = imported(source)
    assert made.classes == ("cat", "dog")
    assert made.provenance.skipped_images == 0
    assert ("runs/first/", "a run of `cifar train`") in {(each.name, each.reason) for each in made.left_out}
    put(source, "cat/new.png", 50)
    assert has_changed(source, data)


@pytest.mark.parametrize(("bits", "brightest"), [(12, 4095), (16, 65535)])
def test_grey_values_of_a_tiff_are_scaled_by_its_bits(tmp_path: Path, bits: int, brightest: int) -> None:
    values = np.array([[0, brightest // 2], [brightest // 4, brightest]], dtype=np.uint16)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[TiffImagePlugin.BITSPERSAMPLE] = bits
    Image.fromarray(values).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as file:
        file.tag_v2[TiffImagePlugin.BITSPERSAMPLE] = (bits,)  # type: ignore[attr-defined]
        found = np.asarray(upright(file, b""))[:, :, 0]
    assert found.tolist() == [[0, 127], [63, 255]]


def test_a_tiff_of_32_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.arange(16, dtype=np.int32).reshape(4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="pixels of 32 bits"):
        as_pixels((tmp_path / "a.tif").read_bytes(), 4)


def test_both_spellings_of_a_label_in_arrays_are_one_class(tmp_path: Path) -> None:
    labels = ["Bär", "Wolf"] * 4 + [unicodedata.normalize("NFD", "Bär")] * 4
    images = np.arange(12 * 48, dtype=np.uint8).reshape(12, 4, 4, 3)
    np.savez(tmp_path / "pets.npz", images=images, labels=np.array(labels))
    assert stored(tmp_path / "pets.npz", tmp_path).classes == ("Bär", "Wolf")
