from __future__ import annotations

import os
import shlex
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_cli.core.data.first_use import dataset_of, source_of
from cifar_cli.core.data.store import open_store
from tests.conftest import Cifar

SHORT = ("--max-epochs", 1, "--batch", 4, "--no-report")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`my pets!`: 8 training and 4 test images of two classes, of noise."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            place = tmp_path / "my pets!" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "my pets!"


def test_a_folder_is_imported_on_its_first_use_and_found_on_its_second(cifar: Cifar, folder: Path) -> None:
    first = cifar("train", "--dataset", "my pets!", *SHORT, "--run-dir", "one")
    assert first.exit_code == 0, first.stderr
    store = folder.parent / "data/my-pets.safetensors"
    said = " ".join(first.stderr.split())
    assert f"imported 8 training and 4 test images from {folder} as the dataset my-pets, into data/my-pets" in said
    assert open_store(store).classes == ("cat", "dog")
    written = store.stat().st_mtime_ns
    for words in (("my pets!",), (folder,), ("my-pets",)):
        again = cifar("train", "--dataset", *words, *SHORT, "--run-dir", f"run-{len(list(folder.parent.iterdir()))}")
        assert again.exit_code == 0, again.stderr
        said = " ".join(again.stderr.split())
        assert "has changed since" not in said
        assert ("was imported before, as the dataset my-pets in data/my-pets" in said) == (words != ("my-pets",))
    assert store.stat().st_mtime_ns == written
    evaluated = cifar("evaluate", "one", "--json")
    assert evaluated.exit_code == 0, evaluated.stderr


def test_a_folder_imported_by_a_relative_path_is_found_and_its_changes_noticed(cifar: Cifar, folder: Path) -> None:
    imported = cifar("download", "--dataset", "my-pets", "--from", "my pets!")
    assert imported.exit_code == 0, imported.stderr
    later = time.time() + 10
    os.utime(folder / "test/dog/1.png", (later, later))
    trained = cifar("train", "--dataset", "my pets!", *SHORT, "--run-dir", "one")
    assert trained.exit_code == 0, trained.stderr
    said = " ".join(trained.stderr.split())
    assert f"{folder} was imported before, as the dataset my-pets in data/my-pets" in said
    assert f"{folder} has changed since my-pets was imported from it" in said


@pytest.mark.parametrize("first", ["my pets!", "../{}/my pets!", "absolute"])
def test_a_source_is_the_same_by_every_path_to_it(
    cifar: Cifar, folder: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    spelled = folder if first == "absolute" else first.format(folder.parent.name)
    assert cifar("download", "--dataset", "my-pets", "--from", spelled).exit_code == 0
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "link").symlink_to(folder.parent)
    for place, words in (
        ("elsewhere", "../my pets!"),
        ("my pets!/train", ".."),
        ("my pets!", "."),
        ("link", "my pets!/"),
    ):
        monkeypatch.chdir(folder.parent / place)
        source = source_of(words, folder.parent / "data")
        assert source is not None
        assert dataset_of(source, folder.parent / "data").dataset == "my-pets", (place, words)


def test_a_folder_that_has_changed_is_noticed_and_the_import_again_named(cifar: Cifar, folder: Path) -> None:
    assert cifar("train", "--dataset", folder, *SHORT, "--run-dir", "one").exit_code == 0
    later = time.time() + 10
    os.utime(folder / "train/cat/0.png", (later, later))
    for words in (folder, "my-pets"):
        again = cifar("train", "--dataset", words, *SHORT, "--run-dir", f"run-{len(list(folder.parent.iterdir()))}")
        assert again.exit_code == 0, again.stderr
        said = " ".join(again.stderr.split())
        assert f"{folder} has changed since my-pets was imported from it" in said
        assert f"`cifar download --dataset my-pets --from '{folder}' --force`" in said


def test_the_import_again_has_the_options_of_the_first(cifar: Cifar, folder: Path) -> None:
    words = ("--val-share", "20%", "--img-size", 16, "--skip-bad", "--seed", 3)
    imported = cifar("download", "--dataset", "my-pets", "--from", folder, *words)
    assert imported.exit_code == 0, imported.stderr
    later = time.time() + 10
    os.utime(folder / "train/cat/0.png", (later, later))
    said = " ".join(cifar("train", "--dataset", "my-pets", "--print-config").stderr.split())
    assert said == ""
    trained = cifar("train", "--dataset", "my-pets", *SHORT, "--run-dir", "one")
    assert trained.exit_code == 0, trained.stderr
    again = (
        f"cifar download --dataset my-pets --from '{folder}' --val-share 20% --seed 3 --img-size 16 --skip-bad --force"
    )
    assert f"`{again}`" in " ".join(trained.stderr.split())


def test_an_archive_is_named_without_its_suffixes_and_another_source_gets_another_name(
    cifar: Cifar, folder: Path, tmp_path: Path
) -> None:
    with tarfile.open("pets.tar.gz", "w:gz") as tar:
        tar.add(folder, "pets")
    assert cifar("train", "--dataset", "pets.tar.gz", *SHORT, "--run-dir", "one").exit_code == 0
    assert (tmp_path / "data/pets.safetensors").is_file()
    folder.rename(tmp_path / "pets")
    other = dataset_of(tmp_path / "pets", Path("data"))
    assert other.dataset.startswith("pets-")
    assert other == dataset_of(tmp_path / "pets", Path("data"))
    assert dataset_of((tmp_path / "pets.tar.gz"), Path("data")).dataset == "pets"


def test_the_names_of_datasets_come_before_folders_of_that_name(cifar: Cifar, folder: Path, tmp_path: Path) -> None:
    for name in ("cifar10", "CIFAR-10", "shapes"):
        (tmp_path / name).mkdir()
        assert source_of(name, Path("data")) is None
    assert dataset_of(tmp_path / "cifar10", Path("data")).dataset == "cifar10-folder"
    (tmp_path / "猫").mkdir()
    assert dataset_of(tmp_path / "猫", Path("data")).dataset == "images"
    assert source_of("absent", Path("data")) is None
    assert source_of("my pets!", Path("data")) == folder
    (tmp_path / "x.safetensors").touch()
    assert source_of("x.safetensors", Path("data")) is None


def test_printing_the_settings_imports_nothing(cifar: Cifar, folder: Path, tmp_path: Path) -> None:
    shown = cifar("train", "--dataset", folder, "--print-config")
    assert shown.exit_code == 0, shown.stderr
    assert "my-pets" in shown.stdout
    assert not (tmp_path / "data").exists()


def damaged_image(folder: Path) -> None:
    (folder / "train/cat/0.png").write_bytes(b"no image")


def broken_link(folder: Path) -> None:
    (folder / "train/cat/0.png").unlink()
    (folder / "train/cat/0.png").symlink_to("nowhere")


def stray(folder: Path) -> None:
    (folder / "train/cat/0.png").rename(folder / "train/0.png")


def folder_beside_splits(folder: Path) -> None:
    (folder / "extra").mkdir()
    (folder / "train/cat/0.png").rename(folder / "extra/0.png")


def empty_label(folder: Path) -> None:
    stray(folder)
    (folder / "labels.csv").write_text("image,label\n0.png,\n")


@pytest.mark.parametrize("change", [damaged_image, broken_link, stray, folder_beside_splits, empty_label])
@pytest.mark.parametrize("packed", [False, True])
def test_the_remedy_of_a_first_use_that_fails_is_a_command_that_works(
    change: Callable[[Path], None], packed: bool, cifar: Cifar, folder: Path
) -> None:
    change(folder)
    source = folder
    if packed:
        source = folder.parent / "it's.tar.gz"
        with tarfile.open(source, "w:gz") as tar:
            tar.add(folder, "pets")
    failed = cifar("train", "--dataset", source, *SHORT, "--run-dir", "one")
    assert failed.exit_code == 1
    remedy = " ".join(failed.stderr.partition("  try: ")[2].split())
    before, command, _ = remedy.split("`")
    assert before.rstrip(" :").endswith(("leaves these out", "leave out what can't be read", "leave the image out"))
    program, *words = shlex.split(command)
    assert (program, words[-1]) == ("cifar", "--skip-bad")
    done = cifar(*words)
    assert done.exit_code == 0, done.stderr
    assert "7 train" in done.stdout
    assert source_of(str(source), Path("data")) is not None
    found = dataset_of(source, Path("data"))
    assert found.store_path.is_file()


@pytest.mark.parametrize(
    ("header", "options"), [("id,age,dx,sex", "--columns IMAGE,LABEL"), ("id,label", "--test-share, --img-size")]
)
def test_options_that_train_lacks_are_named_with_their_command(
    cifar: Cifar, folder: Path, header: str, options: str
) -> None:
    numbered = folder.parent / "numbered"
    numbered.mkdir()
    for number in range(8):
        Image.new("RGB", (300, 240 + number), (number, 0, 0)).save(numbered / f"{number}.png")
    rows = [f"{number},{number % 2}" + ",x" * (header.count(",") - 1) for number in range(8)]
    (numbered / "labels.csv").write_text("\n".join([header, *rows]))
    said = " ".join(cifar("train", "--dataset", numbered, *SHORT, "--max-time", "0:01").stderr.split())
    command = f"cifar download --dataset numbered --data-dir data --from {numbered}"
    if "dx" in header:
        assert f"`{command} {options}`" in said
    else:
        assert f"to import it otherwise, pass {options} to `{command} --force`" in said
