"""Datasets in files of a form of their own: parquet, .npz, CIFAR's binary version, zip; and what is refused by name."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import import_dataset
from cifar_cli.core.data.store import Part, Store, open_store
from cifar_cli.errors import DataError
from tests.core.data.streams import jpeg, photo

SIDE = 16


def stored(path: Path, folder: Path, **options: Any) -> Store:
    data = DataConfig(dataset="pets", data_dir=folder / "data")
    import_dataset(ImportConfig(data=data, sources=(str(path),), **options))
    return open_store(data.store_path)


def pictures(count: int, first: int = 0) -> np.ndarray:
    return np.stack([photo(first + number, width=SIDE, height=SIDE) for number in range(count)])


def labels_by_pixels(part: Part) -> dict[bytes, int]:
    pairs = zip(part.pixels_NHWC.numpy(), part.labels_N, strict=True)
    return {image.tobytes(): int(label) for image, label in pairs}


# .npz


def save_arrays(file: Path, layout: str = "NHWC", **renamed: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = pictures(12), np.arange(12) % 2
    shown = {"NHWC": images, "NCHW": images.transpose(0, 3, 1, 2), "NHW": images[..., 0]}[layout]
    keys = {key: renamed.get(key, key) for key in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(
        file,
        **{
            keys["x_train"]: shown[:8],
            keys["y_train"]: labels[:8],
            keys["x_test"]: shown[8:],
            keys["y_test"]: labels[8:],
        },
    )
    return images, labels


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
@pytest.mark.parametrize("medmnist", [False, True])
def test_arrays_of_keras_and_medmnist_are_the_images(tmp_path: Path, layout: str, medmnist: bool) -> None:
    names = {
        f"{short}_{split}": f"{split}_{long}"
        for split in ("train", "test")
        for short, long in (("x", "images"), ("y", "labels"))
    }
    images, labels = save_arrays(tmp_path / "pets.npz", layout, **(names if medmnist else {}))
    store = stored(tmp_path / "pets.npz", tmp_path)
    expected = np.repeat(images[..., :1], 3, axis=3) if layout == "NHW" else images
    found = labels_by_pixels(store.train) | labels_by_pixels(store.test)
    assert found == {image.tobytes(): int(label) for image, label in zip(expected, labels, strict=True)}
    assert (len(store.train), len(store.test), store.classes) == (8, 4, ("0", "1"))


def test_arrays_without_a_test_split_get_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "pets.npz", images=pictures(20), labels=np.arange(20) % 2)
    store = stored(tmp_path / "pets.npz", tmp_path, test_share=0.3)
    assert (len(store.train), len(store.test)) == (14, 6)


def test_arrays_that_are_not_used_are_named(tmp_path: Path) -> None:
    arrays = {"images": pictures(8), "labels": np.arange(8) % 2, "test_images": pictures(2), "test_labels": [0, 1]}
    np.savez(tmp_path / "pets.npz", **arrays, extra_images=pictures(4), extra_labels=[0, 1, 0, 1])
    store = stored(tmp_path / "pets.npz", tmp_path)
    assert (len(store.train), len(store.test)) == (8, 2)
    (note,) = [note for note in store.provenance.notes if "not used" in note]
    assert note.startswith("extra_images, extra_labels in ")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x_train": np.zeros((2, 8, 8, 3), np.float32), "y_train": np.arange(2)}, "is float32, not uint8"),
        ({"x_train": np.zeros((2, 8, 8, 3), np.uint8), "y_train": np.arange(3)}, "has 2 images, but y_train 3 labels"),
        ({"x_train": np.zeros((2, 8, 8, 3), np.uint8), "y_train": np.eye(2)}, "neither integers nor texts"),
        ({"x_train": np.zeros((2, 8, 8, 3), np.uint8), "y_train": np.eye(2, dtype=int)}, "each image needs one label"),
        ({"x_train": np.zeros((2, 8, 8, 5), np.uint8), "y_train": np.arange(2)}, "which is not that of images"),
        ({"x_train": np.zeros((2, 8, 8, 3), np.uint8)}, "one array of images and one of labels"),
        ({"x_train": np.array([{}], object), "y_train": np.arange(1)}, "Python objects|shape"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_dataset_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "pets.npz", **arrays)
    with pytest.raises(DataError, match=said) as caught:
        stored(tmp_path / "pets.npz", tmp_path)
    assert caught.value.remedy


# parquet


def save_parquet(folder: Path, *, names: bool = True, struct: bool = True, shards: int = 2) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features if names else {}}})}
    folder.mkdir()
    for split, count in (("train", 8), ("test", 4)):
        for shard in range(shards):
            numbers = range(shard, count, shards)
            files = [jpeg(photo(1000 * (split == "test") + n, width=SIDE, height=SIDE), kind="PNG") for n in numbers]
            image = (
                [{"bytes": file, "path": f"{n}.png"} for n, file in zip(numbers, files, strict=True)]
                if struct
                else files
            )
            label = [n % 2 if names else ("cat", "dog")[n % 2] for n in numbers]
            table = pa.table({"image": image, "label": label}).replace_schema_metadata(metadata)
            pq.write_table(table, folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet")


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("names", [True, False])
def test_shards_of_parquet_are_one_dataset(tmp_path: Path, names: bool, struct: bool) -> None:
    save_parquet(tmp_path / "pets", names=names, struct=struct)
    store = stored(tmp_path / "pets", tmp_path)
    assert (len(store.train), len(store.test), store.classes) == (8, 4, ("cat", "dog"))
    assert labels_by_pixels(store.train) == {photo(n, width=SIDE, height=SIDE).tobytes(): n % 2 for n in range(8)}


def test_a_missing_shard_and_a_truncated_one_are_named(tmp_path: Path) -> None:
    save_parquet(tmp_path / "pets")
    file = tmp_path / "pets/train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is damaged"):
        stored(tmp_path / "pets", tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"lacks train-00001-of-00002\.parquet"):
        stored(tmp_path / "pets", tmp_path)


def test_without_pyarrow_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets.parquet").write_bytes(b"PAR1....PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match="by the package pyarrow") as caught:
        stored(tmp_path / "pets.parquet", tmp_path)
    assert "cifar-cli[parquet]" in (caught.value.remedy or "")


# CIFAR's binary version


@pytest.mark.parametrize("archive", [False, True])
def test_cifar_s_binary_version_has_the_images_of_its_planes(tmp_path: Path, archive: bool) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    images = np.stack([photo(number, width=32, height=32) for number in range(12)])
    labels = np.arange(12) % 2
    for at, name in enumerate(("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")):
        rows = range(4 * at, 4 * at + 4)
        content = b"".join(bytes([labels[row]]) + images[row].transpose(2, 0, 1).tobytes() for row in rows)
        (folder / name).write_bytes(content)
    (folder / "batches.meta.txt").write_text("cat\ndog\n\n")
    path = folder
    if archive:
        path = tmp_path / "cifar-10-binary.tar.gz"
        with tarfile.open(path, "w:gz") as packed:
            packed.add(folder, arcname=folder.name)
    store = stored(path, tmp_path)
    assert (store.train.pixels_NHWC.numpy() == images[:8]).all()
    assert (store.test.pixels_NHWC.numpy() == images[8:]).all()
    assert store.train.labels_N.tolist() == labels[:8].tolist()
    (folder / "data_batch_1.bin").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="it may be truncated"):
        stored(folder, tmp_path / "again")


# zip, and what is refused


@pytest.mark.parametrize(
    ("name", "said"), [("/abs/a.png", "not safe"), ("../a.png", "not safe"), ("train/cat/a.png", "twice")]
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_lead_out_of_a_zip_archive_or_occur_twice_are_refused(tmp_path: Path, name: str, said: str) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for each in ("train/cat/a.png", "test/cat/b.png", name):
            archive.writestr(each, jpeg(photo(1), kind="PNG"))
    with pytest.raises(DataError, match=said):
        stored(tmp_path / "pets.zip", tmp_path)


def test_a_zip_archive_of_zeros_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/cat/a.png", bytes(200 << 20))
    with pytest.raises(DataError, match="unpacks to more than"):
        stored(tmp_path / "pets.zip", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pets.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "is a 7z archive"),
        ("pets.rar", b"Rar!\x1a\x07\x00" + bytes(99), "is a rar archive"),
        ("pets.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(99), "packed by zstd"),
        ("cat.png", jpeg(photo(1), kind="PNG"), "is a single image"),
        ("notes.txt", b"hello", "is neither a tar nor a zip archive"),
    ],
)
def test_files_of_other_kinds_are_refused_by_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        stored(tmp_path / name, tmp_path)
    assert caught.value.remedy
