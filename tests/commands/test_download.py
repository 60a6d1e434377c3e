"""`cifar download`: tables, JSON documents, messages and exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """An image folder of two classes, three training and one test image each."""
    for side, images in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / side / name
            folder.mkdir(parents=True)
            for number in range(images):
                Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
    return tmp_path / "pets"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def imported(cifar, pets, data):
    result = cifar("download", "--dataset", "pets", "--from", pets, "--data-dir", data)
    assert result.exit_code == 0, result.output
    return result


def test_an_import_shows_content_and_provenance(imported, pets, data):
    text = imported.stdout
    assert "6 train, 2 test, 32×32 RGB" in text
    assert "2: cat, dog" in text
    assert re.search(r"SHA256 +[0-9a-f]{64}\b", text)
    flat = re.sub(r"\s+", "", text)
    assert str(pets) in flat
    assert str(data / "pets.safetensors") in flat


def test_json_is_one_document_with_stable_keys(cifar, pets, data):
    result = cifar("download", "--dataset", "pets", "--from", pets, "--data-dir", data, "--json")
    document = json.loads(result.stdout)
    assert sorted(document) == [
        "already_there", "classes", "content", "dataset", "encoded", "img_size", "left_out", "left_out_csv", "mean",
        "path", "provenance", "size_bytes", "std", "synthetic", "test_images", "train_images", "val_images",
    ]  # fmt: skip
    assert (document["dataset"], document["train_images"], document["already_there"]) == ("pets", 6, False)
    assert document["path"] == str(data / "pets.safetensors")


def test_an_existing_dataset_is_reported_and_kept(cifar, imported, pets, data):
    before = (data / "pets.safetensors").stat().st_mtime_ns
    again = cifar("download", "--dataset", "pets", "--from", pets, "--data-dir", data)
    assert again.exit_code == 0
    assert "already exists" in again.stderr
    assert (data / "pets.safetensors").stat().st_mtime_ns == before
    document = json.loads(cifar("download", "--dataset", "pets", "--data-dir", data, "--json").stdout)
    assert document["already_there"] is True


@pytest.mark.parametrize("source", ["https://example.org/pets.tar.gz", "elsewhere"])
def test_an_existing_dataset_of_another_source_is_not_taken_for_this_one(cifar, imported, data, source):
    again = cifar("download", "--dataset", "pets", "--from", source, "--data-dir", data)
    assert again.exit_code == 1
    said = " ".join(again.stderr.split())
    assert "was imported from" in said
    assert f"not from {source}" in said
    assert "--force" in said


def test_reporting_an_existing_dataset_loads_neither_torch_nor_httpx(imported, data):
    script = (
        "import sys\n"
        f"sys.argv = ['cifar', 'download', '--dataset', 'pets', '--data-dir', {str(data)!r}]\n"
        "from cifar_cli.start import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "heavy = 'torch numpy httpx safetensors PIL cv2 lightning timm albumentations matplotlib'.split()\n"
        "print('loaded:', [name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "loaded: []" in result.stdout, result.stdout + result.stderr
    assert "already exists" in result.stderr


def test_check_counts_every_class_and_shows_the_sums(cifar, imported, data):
    result = cifar("download", "--dataset", "pets", "--data-dir", data, "--check")
    assert result.exit_code == 0
    assert "yes, every byte was read" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["cat", "3", "1"] in rows
    assert ["dog", "3", "1"] in rows
    assert ["2", "classes", "6", "2"] in rows


def test_check_as_json_has_the_outcome_and_the_counts(cifar, imported, data):
    document = json.loads(cifar("download", "--dataset", "pets", "--data-dir", data, "--check", "--json").stdout)
    assert document["intact"] is document["whole"] is True
    assert document["problems"] == []
    assert document["archive"] is None
    assert document["per_class"] == [
        {"class": "cat", "train_images": 3, "test_images": 1},
        {"class": "dog", "train_images": 3, "test_images": 1},
    ]


def test_the_documented_json_keys_are_those_of_the_documents(cifar, imported, data):
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    table = page.partition("| key | content |")[2].partition("\n\n")[0]
    rows = [row.strip("| ").partition(" | ") for row in table.splitlines()[2:]]
    documented = {key for keys, _, _ in rows for key in re.findall(r"`(\w+)`", keys)}
    words = ("download", "--dataset", "pets", "--data-dir", data, "--json")
    documents = [json.loads(cifar(*words, *more).stdout) for more in ((), ("--check",))]
    assert documented == {key for document in documents for key in document}
    provenance = next(content for keys, _, content in rows if keys == "`provenance`")
    assert set(re.findall(r"`(\w+)`", provenance)) == set(documents[0]["provenance"])


@pytest.mark.parametrize("as_json", [False, True])
def test_check_exits_1_with_the_reason_when_a_byte_is_wrong(as_json, cifar, imported, data):
    path = data / "pets.safetensors"
    content = bytearray(path.read_bytes())
    content[-500] ^= 1
    path.write_bytes(content)
    result = cifar("download", "--dataset", "pets", "--data-dir", data, "--check", *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert "is not intact: images and labels hash to sha256:" in result.stderr
    command = f"cifar download --dataset pets --from {data.parent / 'pets'} --data-dir {data} --force"
    assert f"`{command}`" in result.stderr
    if as_json:
        assert json.loads(result.stdout)["intact"] is False
    else:
        assert re.search(r"intact +no", result.stdout)


def test_twins_are_counted_listed_and_drawn(cifar, imported, data, tmp_path):
    """The cats and the dogs of the fixture are identical, and so are image 0 of train and of test."""
    result = cifar("download", "--dataset", "pets", "--data-dir", data, "--duplicates", "--out", tmp_path / "found")
    assert result.exit_code == 0, result.output
    assert "yes, every byte was read" in result.stdout
    assert re.search(r"inside train +3 +0", result.stdout)
    assert re.search(r"across train and test +2 +0", result.stdout)
    assert "pairs whose images have different labels: 4" in result.stdout
    assert "2 test images have a twin among the training images" in result.stderr
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["duplicates.csv", "duplicates.png"]


def test_twins_are_a_part_of_the_one_document(cifar, imported, data):
    words = ("download", "--dataset", "pets", "--data-dir", data, "--duplicates", "--json")
    document = json.loads(cifar(*words).stdout)
    assert document["intact"] is True
    found = document["duplicates"]
    assert (found["images"], found["test_images_with_a_twin_in_train"], found["differently_labelled"]) == (8, 2, 4)
    assert found["table"] == str(data / "pets-duplicates.csv")
    pair = found["pairs"][0]
    assert (pair["similarity"], pair["identical"]) == (1.0, True)
    assert [pair[which][key] for which in ("first", "second") for key in ("split", "index", "label")] == [
        "train", 0, "cat", "train", 3, "dog",
    ]  # fmt: skip


def test_a_damaged_dataset_is_not_searched(cifar, imported, data):
    path = data / "pets.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    result = cifar("download", "--dataset", "pets", "--data-dir", data, "--duplicates")
    assert result.exit_code == 1
    assert "is not intact" in result.stderr
    assert not (data / "pets-duplicates.csv").exists()


def test_check_of_a_truncated_store_exits_1(cifar, imported, data):
    path = data / "pets.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    result = cifar("download", "--dataset", "pets", "--data-dir", data, "--check")
    assert result.exit_code == 1
    assert "is damaged: it has" in result.stderr


def test_check_of_a_missing_dataset_exits_1_with_the_command_to_run(cifar, data):
    result = cifar("download", "--data-dir", data, "--check")
    assert result.exit_code == 1
    assert f"there is no dataset at {data / 'cifar10.safetensors'}" in result.stderr
    assert "try: download it with `cifar download`" in result.stderr
    assert not data.exists()


def test_skipped_and_resized_images_are_reported(cifar, pets, data):
    (pets / "train/cat/1.png").write_bytes(b"no image")
    Image.new("RGB", (40, 50)).save(pets / "test/dog/large.jpg")
    result = cifar("download", "--dataset", "pets", "--from", pets, "--data-dir", data, "--skip-bad")
    assert result.exit_code == 0, result.stderr
    assert "note: 1 image of another size scaled and cropped to 32×32 pixels" in result.stderr
    listed = data / "pets.left-out.csv"
    assert f"left out: train/cat/1.png (not an image of a known kind); {listed} lists all" in result.stderr
    assert listed.read_text().splitlines() == ["file,reason", "train/cat/1.png,not an image of a known kind"]
    assert "5 train, 3 test" in result.stdout
    document = json.loads(cifar("download", "--dataset", "pets", "--data-dir", data, "--json").stdout)
    assert document["provenance"]["resized_images"] == 1
    assert document["provenance"]["skipped_images"] == 1


def test_images_are_stored_in_the_requested_size(cifar, pets, data):
    result = cifar("download", "--dataset", "pets", "--from", pets, "--data-dir", data, "--img-size", 16, "--json")
    assert json.loads(result.stdout)["img_size"] == 16


def seven_zip(pets: Path) -> Path:
    path = pets.parent / "pets.7z"
    path.write_bytes(b"7z\xbc\xaf\x27\x1c" + b"\0" * 600)
    return path


def truncated(pets: Path) -> Path:
    path = pets.parent / "pets.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(pets, arcname="pets")
    path.write_bytes(path.read_bytes()[:-200])
    return path


def linked(pets: Path) -> Path:
    path = pets.parent / "pets.tar"
    (pets / "train/cat/link.png").symlink_to("/etc/passwd")
    with tarfile.open(path, "w") as archive:
        archive.add(pets, arcname="pets")
    return path


def climbing(pets: Path) -> Path:
    path = pets.parent / "pets.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(pets / "train/cat/0.png", arcname="../train/cat/0.png")
    return path


def text(pets: Path) -> Path:
    path = pets.parent / "notes.txt"
    path.write_text("pets")
    return path


def bad_image(pets: Path) -> Path:
    (pets / "test/dog/0.png").write_bytes(b"")
    return pets


def empty_folder(pets: Path) -> Path:
    folder = pets.parent / "empty"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("source", "message", "remedy"),
    [
        (lambda pets: pets.parent / "nowhere", "nowhere does not exist", "check the spelling"),
        (text, "notes.txt is neither a tar nor a zip archive", "a .zip or .tar.gz of them"),
        (seven_zip, "pets.7z is a 7z archive, which is not read", "extract it and pass the folder"),
        (truncated, "pets.tar.gz is damaged or truncated", "download or pack the archive again"),
        (linked, "pets/train/cat/link.png is a link inside an archive", "--skip-bad"),
        (climbing, "../train/cat/0.png is a path that leads outside the archive", "pack plain files only"),
        (empty_folder, "empty holds no images", "lay the images out as CLASS/IMAGE"),
        (bad_image, "pets/test/dog/0.png is not a readable image", "--skip-bad"),
    ],
)
def test_each_bad_source_is_one_error_with_a_remedy_and_leaves_no_file(source, message, remedy, cifar, pets, data):
    result = cifar("download", "--dataset", "pets", "--from", source(pets), "--data-dir", data)
    assert result.exit_code == 1
    first, second = [line for line in result.stderr.splitlines() if line.startswith(("error:", "  try:"))]
    assert message in first
    assert remedy in second
    assert "Traceback" not in result.output
    assert not list(data.glob("*.safetensors*"))


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (("--dataset", "flowers"), "there is no dataset named 'flowers'", "--dataset flowers --from PATH"),
        (("--dataset", "cifar1"), "there is no dataset named 'cifar1'", "did you mean cifar10 or cifar100?"),
        (("--dataset", "a/b"), "--dataset 'a/b' is neither a name nor the path", "--dataset NAME --from PATH"),
        (("--dataset", "shapes", "--from", "x"), "shapes is drawn by cifar, not imported", "another --dataset NAME"),
        (("--dataset", "x.safetensors"), "x.safetensors is a store file, not a name", "pass --dataset NAME"),
        (("--img-size", "0"), "--img-size must be at least 1, not 0", "--img-size 32"),
        (("--from", "a", "--from", "b"), "--from takes one path, or several URLs of the same archive", "pass one path"),
    ],
)
def test_each_bad_value_is_one_error_with_a_remedy(words, message, remedy, cifar, data):
    result = cifar("download", *words, "--data-dir", data)
    assert result.exit_code == 1
    assert message in result.stderr
    assert remedy in result.stderr


def test_a_data_dir_that_is_a_file_is_an_error(cifar, pets, tmp_path):
    (tmp_path / "file").write_text("")
    result = cifar("download", "--dataset", "pets", "--from", pets, "--data-dir", tmp_path / "file")
    assert result.exit_code == 1
    assert f"--data-dir {tmp_path / 'file'} is a file, not a folder" in result.stderr


def test_an_unknown_name_is_an_error_that_suggests_an_imported_dataset(cifar, imported, data):
    result = cifar("download", "--dataset", "pet", "--data-dir", data)
    assert result.exit_code == 1
    assert "did you mean pets?" in result.stderr


def test_force_without_a_source_is_an_error_that_asks_for_one(cifar, imported, data):
    before = (data / "pets.safetensors").read_bytes()
    result = cifar("download", "--dataset", "pets", "--data-dir", data, "--force")
    assert result.exit_code == 1
    assert "pets.safetensors can only be imported again from its source" in result.stderr
    assert "`cifar download --dataset pets --from PATH --force`" in result.stderr
    assert (data / "pets.safetensors").read_bytes() == before


def test_help_names_every_option(cifar):
    output = cifar("download", "--help").output
    for option in ("--dataset", "--from", "--data-dir", "--img-size", "--skip-bad", "--check", "--force", "--json"):
        assert option in output
