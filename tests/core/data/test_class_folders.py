"""Which folders are splits and which are classes, and splits that are drawn."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cifar_cli.core.data.sources.layout import Shares
from cifar_cli.errors import DataError
from tests.conftest import Cifar
from tests.core.data.streams import photo
from tests.core.data.test_any_folder import classes_of, imported, packed, put


@pytest.mark.parametrize("name", ["train", "Training", "val", "valid", "dev", "test", "TESTING"])
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, name: str) -> None:
    beside = imported(classes_of(tmp_path / "one", name, "exam", images=5))
    assert set(beside.classes) == {name, "exam"}
    below = imported(classes_of(tmp_path / "two", f"train/{name}", "train/bus", f"test/{name}", "test/bus"))
    assert set(below.classes) == {name, "bus"}
    assert (len(below.train_images), len(below.test_images)) == (4, 4)


def test_a_class_below_a_split_of_its_own_name_is_the_only_one(tmp_path: Path) -> None:
    assert imported(classes_of(tmp_path, "train/train", images=5)).classes == ("train",)


@pytest.mark.parametrize("archive", [None, "a.zip", "a.tar.gz"])
def test_folders_beside_splits_are_named_and_left_out_with_skip_bad(tmp_path: Path, archive: str | None) -> None:
    folder = classes_of(tmp_path / "pets", *(f"{split}/{name}" for split in ("train", "test") for name in "ab"))
    path = classes_of(folder, "extra/a", "more")
    if archive is not None:
        path = packed(folder, tmp_path / archive)
    with pytest.raises(DataError, match="extra/, more/ lie beside test/, train/, and the images in them") as caught:
        imported(path)
    assert "--skip-bad leaves these out" in (caught.value.remedy or "")
    made = imported(path, skip_bad=True)
    assert made.classes == ("a", "b")
    assert "extra/, more/ are no splits: 4 images in them are left out" in made.notes
    assert {(each.name, each.reason) for each in made.left_out} == {
        (f"{place}/{number}.png", f"{place.split('/')[0]}/ is no split")
        for place in ("extra/a", "more")
        for number in range(2)
    }


@pytest.mark.parametrize(
    ("places", "said", "remedy"),
    [
        (("train", "test"), "test/0.png is not in a SPLIT/CLASS folder .* and 3 more", "as train/test/IMAGE"),
        (("train/2019", "bus/2019"), "bus/ lies beside train/, and the images in it belong to no split", "train/ is a"),
        (("test/cat", "val/cat"), "has no train/ folder with images, only test/, val/", "train/CLASS"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_not_guessed(
    tmp_path: Path, places: tuple[str, ...], said: str, remedy: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        imported(classes_of(tmp_path, *places))
    assert remedy in (caught.value.remedy or "")


def test_folders_that_look_like_splits_are_no_classes(tmp_path: Path) -> None:
    folder = classes_of(tmp_path / "intel", "seg_train/seg_train/sea", "seg_test/seg_test/sea", "seg_pred/x")
    with pytest.raises(DataError, match="seg_test/, seg_train/ hold folders of images and look like splits") as caught:
        imported(folder)
    assert caught.value.remedy == "rename them test, train, each with its class folders directly in it"
    stations = classes_of(tmp_path / "stations", "train_station", "test_tube", images=5)
    assert imported(stations).classes == ("test_tube", "train_station")
    one = classes_of(tmp_path / "one", "train_station/old", "bus_station/new", images=5)
    assert imported(one).classes == ("bus_station", "train_station")


def test_images_in_no_class_folder_are_listed_with_skip_bad(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "cat", "dog", images=5)
    put(folder, "x.png", 77)
    with pytest.raises(DataError, match=r"x\.png is not in a class folder"):
        imported(folder)
    made = imported(folder, skip_bad=True)
    assert [(each.name, each.reason) for each in made.left_out] == [("x.png", "in no class folder")]


def test_a_seed_draws_another_split_and_without_one_it_is_that_of_earlier_versions(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "cat", "dog", images=10)
    made = [imported(folder, shares=Shares(seed=seed)) for seed in (None, 7, 7, 8)]
    splits = [frozenset(image.tobytes() for image in each.test_images) for each in made]
    assert splits[1] == splits[2]
    assert len(set(splits)) == 3
    assert {len(each) for each in splits} == {4}
    assert "(20% of each class, chosen by their names and --seed 7) are set aside" in made[1].notes
    assert "(20% of each class, chosen by their names) are set aside" in made[0].notes
    # The two names of a class with the least SHA-256 of "test\n" and the name
    chosen = {
        (name, number)
        for name in ("cat", "dog")
        for number in sorted(range(10), key=lambda n: _digest(f"test\n{name}/{n}.png"))[:2]
    }
    expected = {made[0].classes.index(name) * 100 + number for name, number in chosen}
    assert splits[0] == {photo(number, width=24, height=24).tobytes() for number in expected}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_a_seed_without_a_split_to_draw_is_noted_and_another_one_than_stored_refused(
    tmp_path: Path, cifar: Cifar
) -> None:
    made = imported(classes_of(tmp_path / "split", "train/cat", "test/cat"), shares=Shares(seed=1))
    assert "the images have splits of their own, so --seed is not used" in made.notes
    words = ("download", "--dataset", "pets", "--data-dir", tmp_path / "data")
    folder = classes_of(tmp_path / "pets", "cat", "dog", images=5)
    told = json.loads(cifar(*words, "--from", folder, "--seed", 7, "--json").stdout)
    assert told["provenance"]["split_seed"] == 7
    assert cifar(*words, "--seed", 7).exit_code == 0
    other = cifar(*words, "--seed", 8)
    assert other.exit_code == 1
    assert "has its splits already, which --seed 8 would change" in " ".join(other.stderr.split())
