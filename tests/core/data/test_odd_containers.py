"""Containers of datasets with odd content: each is read rightly, or refused in a sentence that names what is wrong."""

from __future__ import annotations

import json
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import import_dataset
from cifar_cli.core.data.sources.cifar_pickle import load_pickle
from cifar_cli.core.data.store import Store, open_store
from cifar_cli.errors import DataError
from tests.core.data.streams import jpeg, photo

PNG = [jpeg(photo(number, width=16, height=16), kind="PNG") for number in range(8)]


def stored(path: Path, folder: Path, *, dataset: str = "pets", **options: Any) -> Store:
    data = DataConfig(dataset=dataset, data_dir=folder / "data")
    import_dataset(ImportConfig(data=data, sources=(str(path),), **options))
    return open_store(data.store_path)


# zip


def zip_of(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content, compress_type=method)
    return path


def as_written(name: str, *, system: int = 3, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename, info.create_system, info.external_attr = name, system, mode << 16
    return info


FOUR = [(f"pets/{split}/{name}/1.png", PNG[0]) for split in ("train", "test") for name in ("cat", "dog")]


def test_a_zip_archive_of_windows_has_folders(tmp_path: Path) -> None:
    names = [(as_written(name.replace("/", "\\"), system=0), content) for name, content in FOUR]
    store = stored(zip_of(tmp_path / "pets.zip", names), tmp_path)
    assert store.classes == ("cat", "dog")
    assert store.names("test") == ("test/cat/1.png", "test/dog/1.png")


def test_a_zip_archive_of_macos_has_names_in_utf_8_and_no_hidden_files(tmp_path: Path) -> None:
    members = [(name.replace("cat", "kätzchen"), content) for name, content in FOUR]
    members += [("__MACOSX/pets/train/cat/._1.png", b"resource"), ("pets/train/.ds/1.png", PNG[1])]
    path = zip_of(tmp_path / "pets.zip", members)
    content = bytearray(path.read_bytes())
    for magic, flags_at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # as if the flag for UTF-8 had never been set
        at = content.find(magic)
        while at >= 0:
            content[at + flags_at + 1] &= ~0x08
            at = content.find(magic, at + 4)
    path.write_bytes(content)
    assert stored(path, tmp_path).classes == ("dog", "kätzchen")


def test_a_zip64_archive_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name, content in FOUR:
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    assert len(stored(tmp_path / "pets.zip", tmp_path).train) == 2


LINK = as_written("pets/train/cat/link.png", mode=stat.S_IFLNK | 0o777)
DEVICE = as_written("pets/train/cat/null.png", mode=stat.S_IFCHR | 0o666)


def encrypted(path: Path) -> Path:
    content = bytearray(zip_of(path, FOUR).read_bytes())
    for magic, flags_at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(magic) + flags_at] |= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: zip_of(path, [*FOUR, (LINK, b"/etc/passwd")]), "link"),
        (lambda path: zip_of(path, [*FOUR, (DEVICE, b"")]), "null.png is a device or another special file"),
        (lambda path: zip_of(path, [*FOUR, (as_written("C:\\a.png", system=0), PNG[0])]), "leads outside the archive"),
        (
            lambda path: zip_of(path, FOUR, zipfile.ZIP_LZMA),
            r"1.png can't be read \(it is compressed with lzma, which is not read\)",
        ),
        (lambda path: zip_of(path, FOUR, zipfile.ZIP_BZIP2), r"\(it is compressed with bzip2, which is not read\)"),
        (encrypted, r"1.png can't be read \(it is encrypted\)"),
        (lambda path: zip_of(path, []), "holds no images"),
    ],
    ids=["link", "device", "drive", "lzma", "bzip2", "encrypted", "empty"],
)
def test_a_zip_archive_with_members_that_are_not_read_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        stored(make(tmp_path / "pets.zip"), tmp_path)
    assert caught.value.remedy


# parquet


def parquet_of(path: Path, columns: dict[str, Any], names: tuple[str, ...] | None = None) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {} if names is None else {"label": {"names": list(names), "_type": "ClassLabel"}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


LABELS = [0, 1] * 4


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": PNG, "label": [*LABELS[:-1], -1]}, "has no label"),
        ({"image": PNG, "label": [*LABELS[:-1], None]}, "has no label"),
        ({"image": PNG, "label": [*(f"class {label}" for label in LABELS[:-1]), " "]}, "has no label"),
        ({"image": PNG, "label": [*LABELS[:-1], 2]}, "has the label 2, but 2 classes are named"),
        ({"image": PNG, "label": [[0], [1]] * 4}, "several labels for each image"),
        ({"left": PNG, "right": PNG, "label": LABELS}, "several columns that may be the images: left, right"),
        ({"image": PNG, "age": LABELS, "size": LABELS}, "several columns that may be the labels: age, size"),
        ({"image": PNG}, "has no column of labels"),
        ({"text": ["a"] * 8, "label": LABELS}, "has no column of images"),
        ({"image": [{"bytes": None, "path": "a.png"}] * 8, "label": LABELS}, "only the path of an image, a.png"),
        ({"image": [*PNG[:-1], b"not an image"], "label": LABELS}, "is not a readable image"),
        ({"image": [*PNG[:-1], None], "label": LABELS}, "is not a readable image"),
        ({"image": [b"x"] * 8, "label": LABELS}, "no image in .* can be read"),
    ],
)  # fmt: skip
def test_parquet_files_that_are_no_dataset_are_refused(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = parquet_of(tmp_path / "pets.parquet", columns, ("cat", "dog"))
    with pytest.raises(DataError, match=said) as caught:
        stored(path, tmp_path)
    assert caught.value.remedy


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    with pytest.raises(DataError, match="has no rows"):
        stored(parquet_of(tmp_path / "pets.parquet", columns), tmp_path)


def test_a_damaged_image_in_a_parquet_file_is_left_out_and_named(tmp_path: Path) -> None:
    columns = {"image": [PNG[0][:60], *PNG[1:], *PNG], "label": LABELS * 2}
    data = DataConfig(dataset="pets", data_dir=tmp_path / "data")
    path = parquet_of(tmp_path / "train.parquet", columns, ("cat", "dog"))
    result = import_dataset(ImportConfig(data=data, sources=(str(path),), skip_bad=True))
    assert [each.name for each in result.left_out] == ["train/#0000000"]
    assert result.dataset.provenance.skipped_images == 1
    assert result.dataset.train_images + result.dataset.test_images == 15


@pytest.mark.parametrize("missing", [-1, None])
def test_rows_of_a_parquet_file_without_a_label_are_left_out_with_skip_bad(tmp_path: Path, missing: object) -> None:
    columns = {"image": [*PNG, PNG[0]], "label": [*LABELS, missing]}
    path = parquet_of(tmp_path / "pets.parquet", columns, ("cat", "dog"))
    with pytest.raises(DataError, match="the image images/#0000008 has no label") as caught:
        stored(path, tmp_path)
    assert "--skip-bad" in (caught.value.remedy or "")
    data = DataConfig(dataset="pets", data_dir=tmp_path / "data")
    result = import_dataset(ImportConfig(data=data, sources=(str(path),), skip_bad=True))
    assert [(each.name, each.reason) for each in result.left_out] == [("images/#0000008", "without a label")]
    assert result.dataset.train_images + result.dataset.test_images == 8


@pytest.mark.parametrize("named", [("left", "size"), ("Left", " SIZE"), ("1", "4")])
def test_columns_of_a_parquet_file_can_be_named(tmp_path: Path, named: tuple[str, str]) -> None:
    columns = {"left": PNG, "right": PNG[::-1], "age": LABELS, "size": [0, 0, 1, 1] * 2}
    path = parquet_of(tmp_path / "pets.parquet", columns)
    with pytest.raises(DataError, match="several columns that may be the images: left, right") as caught:
        stored(path, tmp_path)
    assert "--columns IMAGE,LABEL" in (caught.value.remedy or "")
    store = stored(path, tmp_path, columns=named)
    assert (store.classes, store.provenance.columns) == (("0", "1"), named)
    ones = {photo(number, width=16, height=16).tobytes() for number in (2, 3, 6, 7)}
    images = zip(store.train.pixels_NHWC.numpy(), store.train.labels_N, strict=True)
    assert all((image.tobytes() in ones) == bool(label) for image, label in images)
    with pytest.raises(DataError, match="has no column weight, but left, right, age, size"):
        stored(path, tmp_path / "other", columns=("left", "weight"))


def test_a_validation_split_of_parquet_files_is_kept_and_a_test_split_drawn(tmp_path: Path) -> None:
    columns = {"image": PNG, "label": LABELS}
    for split in ("train", "validation"):
        parquet_of(tmp_path / f"pets/data/{split}-00000-of-00001.parquet", columns, ("cat", "dog"))
    store = stored(tmp_path / "pets", tmp_path)
    assert (len(store.train), store.given_val, len(store.test)) == (14, 8, 2)
    assert any("no test images are given" in note for note in store.provenance.notes)


def test_folders_of_several_datasets_are_named(tmp_path: Path) -> None:
    for name in ("large", "small"):
        parquet_of(tmp_path / f"pets/{name}/train/0000.parquet", {"image": PNG, "label": LABELS}, ("cat", "dog"))
    with pytest.raises(DataError, match="holds several data sets, in the folders large, small") as caught:
        stored(tmp_path / "pets", tmp_path)
    assert "pets/large" in (caught.value.remedy or "")


def test_files_beside_parquet_files_are_counted(tmp_path: Path) -> None:
    parquet_of(tmp_path / "pets/data/train-00000-of-00001.parquet", {"image": PNG, "label": LABELS}, ("cat", "dog"))
    for name in ("README.md", "data/notes.txt", "LICENSE", ".gitattributes"):
        (tmp_path / "pets" / name).write_text("x")
    provenance = stored(tmp_path / "pets", tmp_path).provenance
    assert provenance.left_out_kinds == {".md": 1, ".txt": 1, "without a suffix": 1}
    assert "3 files of kinds that are not read left out: " in " ".join(provenance.notes)


def test_one_of_several_shards_is_not_taken_for_the_dataset(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "train-00000-of-00002.parquet", {"image": PNG, "label": LABELS}, ("cat", "dog"))
    with pytest.raises(DataError, match="is one of 2 shards"):
        stored(path, tmp_path)


@pytest.mark.parametrize("names", [("", "dog"), ("dog", "dog"), ("c\nat", "dog"), ("c" * 300, "dog"), (1, "dog")])
def test_names_that_no_class_can_have_are_refused(tmp_path: Path, names: tuple[Any, ...]) -> None:
    path = parquet_of(tmp_path / "pets.parquet", {"image": PNG, "label": LABELS}, names)
    with pytest.raises(DataError, match=r"class name that can't be used|two classes named dog"):
        stored(path, tmp_path)


def test_a_class_without_images_is_left_out_and_named(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "pets.parquet", {"image": PNG, "label": LABELS}, ("dog", "cat", "eel"))
    store = stored(path, tmp_path)
    assert store.classes == ("dog", "cat")  # in the order of their labels
    assert any("eel" in note for note in store.provenance.notes)


def test_photographs_in_a_parquet_file_stay_files(tmp_path: Path) -> None:
    files = [jpeg(photo(number, width=300, height=240)) for number in range(8)]
    path = parquet_of(tmp_path / "pets.parquet", {"image": files, "label": LABELS}, ("cat", "dog"))
    store = stored(path, tmp_path)
    assert (store.encoded, store.img_size) == (True, 224)
    assert sum(len(part.pictures) for part in (store.train, store.test) if part.pictures) == 8


# .npz


def test_large_arrays_are_kept_without_loss(tmp_path: Path) -> None:
    images = np.stack([photo(number, width=160, height=160) for number in range(8)])
    np.savez_compressed(tmp_path / "pets.npz", images=images, labels=np.array(LABELS)[:, None])
    store = stored(tmp_path / "pets.npz", tmp_path)
    assert (store.encoded, store.img_size) == (True, 160)
    kept = {store.train.images_NHWC[[row]].numpy().tobytes() for row in range(len(store.train))}
    assert kept <= {image.tobytes() for image in images}
    assert len(kept) == len(store.train)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((0, 8, 8, 3), np.uint8), "labels": np.zeros(0, int)}, "images is empty"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.array([0, -1])}, "has the label -1"),
        ({"images": np.asfortranarray(np.zeros((2, 8, 8, 3), np.uint8)), "labels": np.arange(2)}, "Fortran's order"),
        ({"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros(4, "m8[s]")}, "neither integers nor texts"),
    ],
)
def test_odd_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "pets.npz", **arrays)
    with pytest.raises(DataError, match=said) as caught:
        stored(tmp_path / "pets.npz", tmp_path)
    assert caught.value.remedy


# CIFAR's binary version


@pytest.mark.parametrize("hundred", [False, True])
def test_the_binary_version_and_the_python_version_have_the_same_images(tmp_path: Path, hundred: bool) -> None:
    random = np.random.default_rng(0)
    rows, labels = random.integers(0, 256, (6, 3072), dtype=np.uint8), np.array([0, 1] * 3)
    batch = load_pickle(pickle.dumps({"data": rows, "labels": labels.tolist()}, protocol=2), "batch")
    expected = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    folder = tmp_path / ("cifar-100-binary" if hundred else "cifar-10-batches-bin")
    folder.mkdir()
    train, test, names = ("data_batch_1.bin", "test_batch.bin", "batches.meta.txt")
    if hundred:
        train, test, names = ("train.bin", "test.bin", "fine_label_names.txt")
    for name, part in ((train, slice(0, 4)), (test, slice(4, 6))):
        heads = np.stack([np.full(6, 19), labels] if hundred else [labels], axis=1).astype(np.uint8)
        (folder / name).write_bytes(np.concatenate([heads[part], rows[part]], axis=1).tobytes())
    (folder / names).write_text("cat\ndog\n")
    store = stored(folder, tmp_path)
    assert (store.train.pixels_NHWC.numpy() == expected[:4]).all()
    assert (store.test.pixels_NHWC.numpy() == expected[4:]).all()
    assert store.train.labels_N.tolist() + store.test.labels_N.tolist() == batch["labels"]
    with pytest.raises(DataError, match="stored in that size"):
        stored(folder, tmp_path, dataset="other", img_size=64)
    for own in ({"val_share": 0.1}, {"seed": 1}):
        with pytest.raises(DataError, match="a test split of its own, which are kept"):
            stored(folder, tmp_path, dataset="other", **own)
    with pytest.raises(DataError, match="has no CSV or parquet file whose columns --columns could name"):
        stored(folder, tmp_path, dataset="other", columns=("image", "label"))
    with pytest.raises(DataError, match="does not have this dataset's 10 classes"):
        stored(folder, tmp_path, dataset="cifar10")
    (folder / test).unlink()
    with pytest.raises(DataError, match=f"lacks {test}"):
        stored(folder, tmp_path, dataset="other")
