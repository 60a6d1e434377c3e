"""Stores that are written image by image: of pixels with names, and of image files."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.dataset import check_dataset
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.splits import split_of
from cifar_cli.core.data.store import open_store, read_header, write_store
from cifar_cli.core.data.store_check import checksum_of_content
from cifar_cli.errors import DataError, ResourceError
from tests.core.data.streams import PROVENANCE, jpeg, photo, photo_stream, pixels_stream, rows_of, stream

both_kinds = pytest.mark.parametrize("make", [pixels_stream, photo_stream])
REPOSITORY = Path(__file__).parents[3]


def write(folder: Path, images: Any) -> Path:
    path = folder / "pets.safetensors"
    write_store(path, name="pets", images=images)
    return path


@both_kinds
def test_a_stream_is_read_back_whatever_order_its_images_come_in(make, tmp_path):
    in_order, shuffled = make(), make(order=[9, 3, 0, 7, 1, 8, 2, 6, 5, 4])
    path = write(tmp_path, shuffled)
    store = open_store(path)
    assert store.encoded is shuffled.encoded
    assert (len(store.train), len(store.test), store.given_val, store.img_size) == (7, 3, 2, 16)
    assert store.train.labels_N.tolist() == [0, 1, 0, 1, 0, 0, 1]
    assert store.names("train") == tuple(row.name for row in in_order.rows[:7])
    assert store.names("test") == tuple(row.name for row in in_order.rows[7:])
    for part, first in ((store.train, 0), (store.test, 7)):
        for row in range(len(part)):
            content = dict(in_order.images())[first + row]
            if store.encoded:
                assert part.pictures.content(row) == content
            else:
                assert np.array_equal(part.images_NHWC[row].numpy(), content)
    split = split_of(store)
    assert (split.train_indices.tolist(), split.val_indices.tolist()) == ([0, 1, 2, 3, 4], [5, 6])
    other = tmp_path / "other"
    assert open_store(write(other, in_order)).content == store.content


@both_kinds
def test_rows_that_do_not_come_are_left_out_as_if_they_had_never_been(make, tmp_path):
    complete = make()
    kept = [0, 2, 3, 5, 8, 9]
    left_out = write(tmp_path / "a", make(order=kept[::-1]))
    never = replace(
        complete,
        rows=tuple(complete.rows[index] for index in kept),
        images=lambda: ((place, dict(complete.images())[index]) for place, index in enumerate(kept)),
    )
    store, expected = open_store(left_out), open_store(write(tmp_path / "b", never))
    assert (len(store.train), len(store.test), store.given_val) == (4, 2, 1)
    assert store.content == expected.content
    assert store.names("train") == expected.names("train")
    assert torch.equal(store.train.images_NHWC[[0, 1, 2, 3]], expected.train.images_NHWC[[0, 1, 2, 3]])
    assert check_dataset(DataConfig(dataset=str(left_out))).problems == ()


@both_kinds
def test_the_content_hash_changes_with_every_name_label_split_and_byte(make, tmp_path):
    original = make()
    first, contents = original.rows[0], [content for _, content in original.images()]
    other_byte = contents[0][:-1] + b"\0" if original.encoded else contents[0] ^ np.uint8(1)
    changes = [
        original,
        replace(original, rows=(replace(first, name="train/cat/x.jpg"), *original.rows[1:])),
        replace(original, rows=(replace(first, label=1), *original.rows[1:])),
        replace(original, rows=(*original.rows[:4], replace(original.rows[4], split="val"), *original.rows[5:])),
        replace(original, images=lambda: enumerate([other_byte, *contents[1:]])),
    ]
    hashes = set()
    for number, changed in enumerate(changes):
        header = read_header(write(tmp_path / str(number), changed))
        assert checksum_of_content(header) == header.summary.content
        hashes.add(header.summary.content)
    assert len(hashes) == len(changes)


def test_mean_and_std_are_those_of_the_training_images_without_the_given_validation_images(tmp_path):
    images = pixels_stream()
    training = np.stack([content for _, content in images.images()][:5]) / 255
    store = open_store(write(tmp_path, images))
    assert store.mean == pytest.approx(training.mean(axis=(0, 1, 2)), abs=6e-5)
    assert store.std == pytest.approx(training.std(axis=(0, 1, 2)), abs=6e-5)
    arrays = SourceImages(
        ("cat",), np.stack([content for _, content in images.images()]), np.zeros(10, dtype=np.int64),
        photo(1, width=16, height=16)[None], np.zeros(1, dtype=np.int64), PROVENANCE,
    )  # fmt: skip
    store = open_store(write(tmp_path, arrays))
    assert store.mean == pytest.approx(arrays.train_images.mean(axis=(0, 1, 2)) / 255, abs=6e-5)
    assert store.std == pytest.approx(arrays.train_images.std(axis=(0, 1, 2)) / 255, abs=6e-5)


def test_mean_and_std_of_files_are_those_of_what_evaluation_sees(tmp_path):
    store = open_store(write(tmp_path, photo_stream()))
    seen = store.train.images_NHWC[range(5)].numpy() / 255
    assert store.mean == pytest.approx(seen.mean(axis=(0, 1, 2)), abs=6e-5)
    assert store.std == pytest.approx(seen.std(axis=(0, 1, 2)), abs=6e-5)


@both_kinds
def test_the_safetensors_library_reads_a_streamed_store(make, tmp_path):
    path = write(tmp_path, make())
    with safe_open(path, framework="np") as file:
        assert file.get_tensor("train_labels").tolist() == [0, 1, 0, 1, 0, 0, 1]
        assert json.loads(file.metadata()["classes"]) == ["cat", "dög"]


def test_an_old_store_has_no_names_and_holds_out_its_validation_images(tmp_path):
    images = np.stack([photo(number, width=6, height=6) for number in range(20)])
    labels = np.arange(20) % 2
    path = write(tmp_path, SourceImages(("cat", "dog"), images, labels, images, labels, PROVENANCE))
    assert read_header(path).layout.metadata.format == "cifar-store-1"
    store = open_store(path)
    assert (store.names("train"), store.given_val, store.encoded) == (None, 0, False)
    assert len(split_of(store).val_indices) == 2


def changed_header(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return path


def set_metadata(key: str, value: str) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["__metadata__"].update({key: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_metadata("format", "cifar-store-3"), "it has the format cifar-store-3, which only a newer version"),
        (set_metadata("given_val", "7"), "7 of 7 training images are for validation"),
        (set_metadata("given_val", "-1"), "given_val"),
        (set_metadata("img_size", "0"), "img_size"),
        (set_metadata("img_size", "20000"), "img_size"),
        (set_metadata("mean", "[0.5]"), "mean"),
        (set_metadata("std", "[0.5, 2.0, 0.1]"), "std"),
        (lambda header: header.pop("train_labels"), "it has no tensor train_labels"),
        (lambda header: header.update(more=header["train_names"]), "the tensor more is"),
        (lambda header: header["train_names"].update(shape=[3]), "the tensor .* instead of"),
        (lambda header: header["test_labels"].update(dtype="U8"), "the tensor test_labels is"),
        (lambda header: header["test_labels"].update(data_offsets=[0, 24]), "the tensor test_labels is"),
        (lambda header: header["__metadata__"].pop("encoded"), "encoded: Field required"),
    ],
)  # fmt: skip
@both_kinds
def test_a_header_that_is_not_right_is_refused(make, change, said, tmp_path):
    path = changed_header(write(tmp_path, make()), change)
    with pytest.raises(DataError, match=said):
        open_store(path)


def replaced_tensor(path: Path, name: str, values: list[int] | bytes) -> Path:
    start, end = read_header(path).offsets[name]
    new = values if isinstance(values, bytes) else np.array(values, dtype="<i8").tobytes()
    assert len(new) == end - start
    content = path.read_bytes()
    path.write_bytes(content[:start] + new + content[end:])
    return path


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("test_labels", [0, 1, 2], r"a test label lies outside 0\.\.1"),
        ("test_labels", [0, 1, -1], r"a test label lies outside 0\.\.1"),
        ("test_offsets", [0, 10, 1 << 62], "a test image lies outside the files"),
        ("test_offsets", [0, 10, -1], "a test image lies outside the files"),
        ("test_lengths", [1 << 62, 1, 1], r"a test image has a length outside 1\.\."),
        ("test_lengths", [1, 1, 0], r"a test image has a length outside 1\.\."),
        ("test_lengths", [1, 1, 1], r"its images have [\d,]+ bytes instead of"),
    ],
)
def test_numbers_that_can_not_be_are_refused_by_open_and_check(name, values, said, tmp_path):
    path = replaced_tensor(write(tmp_path, photo_stream()), name, values)
    with pytest.raises(DataError, match=said):
        open_store(path)
    assert any(re.search(said, each) for each in check_dataset(DataConfig(dataset=str(path))).problems)


@pytest.mark.parametrize("names", [b"x", b"\xff", b"\x1b", b"\n"])
def test_names_that_can_not_be_are_refused_where_they_are_used(names, tmp_path):
    path = write(tmp_path, photo_stream())
    start, end = read_header(path).offsets["test_names"]
    store = open_store(replaced_tensor(path, "test_names", names * (end - start)))
    with pytest.raises(DataError, match="the names of its test images"):
        store.names("test")
    (problem,) = check_dataset(DataConfig(dataset=str(path))).problems
    assert "the names of its test images" in problem


def test_check_names_the_pictures_that_can_not_be_decoded(tmp_path):
    rows = rows_of(3, 0, 1)
    whole = [jpeg(photo(number)) for number in range(4)]
    contents = [whole[0][: len(whole[0]) // 2], whole[1], b"no picture", whole[3]]
    path = write(tmp_path, stream(contents, rows))
    problems = check_dataset(DataConfig(dataset=str(path))).problems
    assert [each.split(" (")[0] for each in problems] == [
        "train/cat/0.jpg can't be decoded",
        "train/cat/2.jpg can't be decoded",
    ]
    with pytest.raises(DataError, match=r"train/cat/2.jpg in .* is damaged \(not an image of a known kind\)") as caught:
        open_store(path).train.images_NHWC[[2]]
    assert "--check" in (caught.value.remedy or "")


@both_kinds
def test_a_stream_that_fails_leaves_the_old_store_and_nothing_else(make, tmp_path):
    path = write(tmp_path, make())
    before, images = path.read_bytes(), make()

    def failing():
        yield from list(images.images())[:4]
        raise DataError("the archive ends")

    with pytest.raises(DataError, match="the archive ends"):
        write(tmp_path, replace(images, images=failing))
    with pytest.raises(DataError, match="no test image of pets can be read"):
        write(tmp_path, make(order=range(7)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_for_a_stream_too(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="can't be written \\(No space left on device\\)"):
        write(tmp_path, photo_stream())
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_in_use_survive_a_replaced_store_and_say_so_in_another_process(tmp_path):
    path = write(tmp_path, photo_stream())
    pictures = open_store(path).train.images_NHWC
    expected = pictures[[0, 1]]
    assert torch.equal(pickle.loads(pickle.dumps(pictures))[[0, 1]], expected)
    sent = pickle.dumps(pictures)
    write(tmp_path, photo_stream(width=50))
    assert torch.equal(pictures[[0, 1]], expected)
    assert torch.equal(pictures.at_side(16)[[0, 1]], expected)
    with pytest.raises(DataError, match="was replaced while it was in use"):
        pickle.loads(sent)


@pytest.mark.slow
@pytest.mark.parametrize("encoded", [False, True])
def test_writing_and_opening_take_memory_for_one_image(encoded, tmp_path):
    """200 MB of images in a process that may grow by less than 60 MB."""
    script = f"""
import resource
from pathlib import Path
from dataclasses import replace
import numpy as np, torch, cv2
from cifar_cli.core.data.store import open_store, write_store
from tests.core.data.streams import jpeg, photo, rows_of, stream
encoded, side = {encoded}, 200
rows = rows_of(1500, 0, 200)
one = photo(0, width=side, height=side)
one = jpeg(np.random.default_rng(0).integers(0, 256, (280, 280, 3), dtype=np.uint8)) if encoded else one
images = replace(stream([one], rows, img_size=side), images=lambda: ((index, one) for index in range(len(rows))))
path = Path({str(tmp_path)!r}) / "large.safetensors"
two = replace(images, rows=rows[:1] + rows[-1:], images=lambda: [(0, one), (1, one)])
write_store(path.with_name("warm"), name="large", images=two)
open_store(path.with_name("warm")).train.images_NHWC[:1]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
summary = write_store(path, name="large", images=images)
store = open_store(path)
store.train.images_NHWC[:3]
print(summary.size_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    size, grown_kb = map(int, result.stdout.split())
    assert size > 150_000_000
    assert grown_kb < 60_000
