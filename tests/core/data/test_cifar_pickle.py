"""CIFAR's pickles: read correctly, and their functions are not run."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_cli.core.data.sources.archive import checksum_of
from cifar_cli.core.data.sources.cifar_pickle import import_archive, import_folder, load_pickle
from cifar_cli.core.data.sources.mirrors import ARCHIVES
from cifar_cli.errors import DataError


def extract(tiny: Any, folder: Path) -> Path:
    with tarfile.open(tiny.path) as tar:
        tar.extractall(folder, filter="data")
    return folder / tiny.archive.folder


def test_an_archive_is_read_with_pixels_labels_and_classes_in_order(tiny_cifar10):
    images = import_archive(tiny_cifar10.path, tiny_cifar10.archive)
    assert np.array_equal(images.train_images, tiny_cifar10.train_images)
    assert images.train_labels.tolist() == tiny_cifar10.train_labels
    assert images.test_images.shape == (20, 32, 32, 3)
    assert images.classes == ARCHIVES["cifar10"].classes


def test_an_extracted_folder_gives_the_same_images_as_its_archive(tiny_cifar10, tmp_path):
    images = import_folder(extract(tiny_cifar10, tmp_path), tiny_cifar10.archive)
    assert np.array_equal(images.train_images, tiny_cifar10.train_images)
    assert images.train_labels.tolist() == tiny_cifar10.train_labels


def test_a_changed_file_in_an_extracted_folder_is_rejected_before_it_is_unpickled(tiny_cifar10, tmp_path):
    folder = extract(tiny_cifar10, tmp_path)
    (folder / "data_batch_1").write_bytes(pickle.dumps(Bomb(tmp_path / "harm")))
    with pytest.raises(DataError, match=r"data_batch_1 differs from the official file: its MD5 is [0-9a-f]{32}"):
        import_folder(folder, tiny_cifar10.archive)
    assert not (tmp_path / "harm").exists()


def test_a_missing_file_in_an_extracted_folder_is_named(tiny_cifar10, tmp_path):
    folder = extract(tiny_cifar10, tmp_path)
    (folder / "test_batch").unlink()
    with pytest.raises(DataError, match=r"test_batch can't be read \(No such file"):
        import_folder(folder, tiny_cifar10.archive)


def test_cifar100_uses_its_fine_labels_and_a_hundred_classes(tmp_path):
    official = ARCHIVES["cifar100"]
    rows = np.arange(3 * 3072).reshape(3, 3072).astype(np.uint8)
    batch = {"data": rows, "fine_labels": [99, 0, 50], "coarse_labels": [1, 1, 1]}
    files = {
        "train": pickle.dumps(batch, protocol=2),
        "test": pickle.dumps(batch, protocol=2),
        "meta": pickle.dumps({"fine_label_names": list(official.classes), "coarse_label_names": []}, protocol=2),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    archive = replace(official, train={"train": md5["train"]}, test={"test": md5["test"]}, meta={"meta": md5["meta"]})
    images = import_folder(tmp_path, archive)
    assert len(images.classes) == 100
    assert images.train_labels.tolist() == [99, 0, 50]
    # A row is 1024 red values, then green, then blue.
    assert images.train_images[1, 0, 1].tolist() == [rows[1, 1], rows[1, 1025], rows[1, 2049]]


def test_the_registered_archives_are_the_published_ones():
    cifar10, cifar100 = ARCHIVES["cifar10"], ARCHIVES["cifar100"]
    assert (cifar10.size_bytes, cifar10.md5) == (170_498_071, "c58f30108f718f92721af3b95e74349a")
    assert (cifar100.size_bytes, cifar100.md5) == (169_001_437, "eb9058c3a382ffc7106e4002c42a8d85")
    assert len(cifar10.mirrors) == 4
    assert all(url.startswith("https://") and url.endswith(cifar10.filename) for url in cifar10.mirrors)
    assert len(cifar100.mirrors) == 1
    assert len(set(cifar100.classes)) == 100
    assert all(len(md5) == 32 for archive in ARCHIVES.values() for md5 in archive.batches.values())


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


HOSTILE = {
    "os.system": b"cos\nsystem\n(S'touch harm'\ntR.",
    "builtins.eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "builtins.getattr": b"cbuiltins\ngetattr\n.",
    "numpy.load": b"cnumpy\nload\n(S'x'\ntR.",
    "numpy.testing.measure": b"cnumpy.testing\nmeasure\n.",
    "numpy.dtype.__class__": b"\x80\x04cnumpy\ndtype.__class__\n.",
    "_codecs.lookup": b"c_codecs\nlookup\n(S'latin1'\ntR.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_rejected_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"batch: the pickle calls {name}, which no CIFAR batch needs; it was not run"):
        load_pickle(HOSTILE[name], "batch")
    assert not list(tmp_path.iterdir())


def test_a_pickle_that_would_create_a_folder_creates_none(tmp_path):
    with pytest.raises(DataError, match=r"calls posix\.mkdir|calls nt\.mkdir"):
        load_pickle(pickle.dumps(Bomb(tmp_path / "harm")), "batch")
    assert not (tmp_path / "harm").exists()


def test_only_the_codec_of_old_pickles_is_allowed():
    zipped = b"c_codecs\nencode\n(S'abc'\nS'rot13'\ntR."
    with pytest.raises(DataError, match=r"can't be read as a CIFAR batch \(codec 'rot13'\)"):
        load_pickle(zipped, "batch")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_batches_of_any_protocol_are_read(protocol):
    rows = np.arange(3072, dtype=np.uint8).reshape(1, 3072)
    if protocol == 5:  # numpy calls another function there, which CIFAR's files do not use
        with pytest.raises(DataError, match=r"calls numpy\._core\.numeric\._frombuffer"):
            load_pickle(pickle.dumps({"data": rows}, protocol=protocol), "batch")
        return
    loaded = load_pickle(pickle.dumps({"data": rows, "labels": [3]}, protocol=protocol), "batch")
    assert np.array_equal(loaded["data"], rows)
    assert loaded["labels"] == [3]


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2],
        {"labels": [1]},
        {"data": np.zeros((1, 3072), dtype=np.uint8)},
        {"data": np.zeros((1, 3072), dtype=np.float32), "labels": [1]},
        {"data": np.zeros((1, 3071), dtype=np.uint8), "labels": [1]},
        {"data": np.zeros((2, 3072), dtype=np.uint8), "labels": [1]},
        {"data": np.zeros((1, 3072), dtype=np.uint8), "labels": [10]},
        {"data": np.zeros((1, 3072), dtype=np.uint8), "labels": [-1]},
        {"data": np.zeros((1, 3072), dtype=np.uint8), "labels": [True]},
        {"data": np.zeros((1, 3072), dtype=np.uint8), "labels": ["1"]},
    ],
)
def test_a_batch_with_a_wrong_shape_dtype_or_label_is_rejected(batch, tiny_cifar10, tmp_path):
    path = repack(tiny_cifar10, tmp_path, data_batch_2=pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match="data_batch_2 is not a CIFAR batch"):
        import_archive(path, tiny_cifar10.archive)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": list(range(99))}, protocol=2)[:-10]])
def test_a_damaged_pickle_is_an_error_message(content, tiny_cifar10, tmp_path):
    path = repack(tiny_cifar10, tmp_path, test_batch=content)
    with pytest.raises(DataError, match="test_batch can't be read as a CIFAR batch"):
        import_archive(path, tiny_cifar10.archive)


def test_wrong_class_names_are_rejected(tiny_cifar10, tmp_path):
    meta = pickle.dumps({"label_names": ["cat", "dog"]}, protocol=2)
    path = repack(tiny_cifar10, tmp_path, **{"batches.meta": meta})
    with pytest.raises(DataError, match="does not name the 10 classes of cifar10"):
        import_archive(path, tiny_cifar10.archive)


def test_a_missing_batch_is_named(tiny_cifar10, tmp_path):
    path = repack(tiny_cifar10, tmp_path, data_batch_3=None)
    with pytest.raises(DataError, match="lacks cifar-10-batches-py/data_batch_3"):
        import_archive(path, tiny_cifar10.archive)


def test_the_archive_has_the_registered_checksum(tiny_cifar10):
    assert checksum_of(tiny_cifar10.path, "md5") == f"md5:{tiny_cifar10.archive.md5}"


def repack(tiny: Any, folder: Path, **changes: bytes | None) -> Path:
    """The small archive with some files changed or left out."""
    path = folder / "changed.tar.gz"
    with tarfile.open(tiny.path) as old, tarfile.open(path, "w:gz") as new:
        for member in old:
            name = Path(member.name).name
            content = changes.get(name, old.extractfile(member).read())
            if content is None:
                continue
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return path
