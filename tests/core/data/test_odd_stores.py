"""Stores that another program wrote or changed: opening and --check refuse the same ones, in a sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.dataset import check_dataset, open_dataset
from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.store import write_store
from cifar_cli.errors import DataError
from tests.conftest import Cifar

Header = dict[str, Any]
DEEP = "[" * 5000 + "]" * 5000


def written(path: Path, *, train: int = 4, test: int = 2) -> Path:
    pixels = np.zeros((4, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(4) % 2
    provenance = Provenance(source="here", checksum="md5:0", imported_at="2026-01-01", tool_version="1")
    images = SourceImages(("cat", "dog"), pixels[:train], labels[:train], pixels[:test], labels[:test], provenance)
    write_store(path, name="pets", images=images)
    return path


def edit(path: Path, change: Callable[[Header], object], tensors: bytes | None = None) -> None:
    """Change the header of a store in place."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + (content[8 + length :] if tensors is None else tensors))


def metadata(key: str, value: Any, *, as_json: bool = False) -> Callable[[Header], object]:
    return lambda header: header["__metadata__"].update({key: json.dumps(value) if as_json else value})


def tensor(name: str, key: str, value: Any) -> Callable[[Header], object]:
    return lambda header: header[name].update({key: value})


def classes(value: Any) -> Callable[[Header], object]:
    return metadata("classes", value, as_json=True)


def source(value: Any) -> Callable[[Header], object]:
    return metadata(
        "provenance", {"source": value, "checksum": "", "imported_at": "", "tool_version": ""}, as_json=True
    )


ODD: dict[str, Callable[[Header], object]] = {
    "another format": metadata("format", "cifar-store-9"),
    "classes of ints": classes([1, 2]),
    "nested classes": classes([["cat"], ["dog"]]),
    "classes of NaN": classes([float("nan"), "dog"]),
    "classes as a text": classes("catdog"),
    "no classes": classes([]),
    "an empty class": classes(["", "dog"]),
    "equal classes": classes(["cat", "cat"]),
    "equal classes, spelled otherwise": classes(["caf\u00e9", "cafe\u0301"]),
    "a class with a line break": classes(["cat\nerror: x", "dog"]),
    "a class with an escape sequence": classes(["cat\x1b[2J", "dog"]),
    "a long class": classes(["x" * 256, "dog"]),
    "deep classes": metadata("classes", DEEP),
    "classes that are no text": metadata("classes", 7),
    "no provenance": lambda header: header["__metadata__"].pop("provenance"),
    "a list as provenance": metadata("provenance", "[]"),
    "deep provenance": metadata("provenance", DEEP),
    "a number as source": source(3),
    "a source with a line break": source("a\nb"),
    "a name with a line break": metadata("name", "a\nb"),
    "content that is no hash": metadata("content", "sha256:x"),
    "metadata as a list": lambda header: header.update({"__metadata__": []}),
    "floats as images": tensor("train_images", "dtype", "F32"),
    "labels of another type": tensor("train_labels", "dtype", "I32"),
    "signed images": tensor("test_images", "dtype", "I8"),
    "images of one channel": tensor("train_images", "shape", [4, 4, 4, 1]),
    "images that aren't square": tensor("train_images", "shape", [4, 2, 8, 3]),
    "images of three dimensions": tensor("train_images", "shape", [4, 4, 12]),
    "a negative size": tensor("train_images", "shape", [-4, 4, 4, 3]),
    "a size of 10^30": tensor("train_images", "shape", [10**30, 4, 4, 3]),
    "other sizes in test": tensor("test_images", "shape", [8, 2, 2, 3]),
    "more images than labels": tensor("train_labels", "shape", [5]),
    "offsets that overlap": tensor("test_images", "data_offsets", [0, 96]),
    "offsets backwards": tensor("train_images", "data_offsets", [192, 0]),
    "offsets of text": tensor("train_images", "data_offsets", ["0", "192"]),
    "another tensor": lambda header: header.update({"more": header["train_labels"]}),
    "no labels": lambda header: header.pop("test_labels"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_header_is_refused_by_opening_and_by_check(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "pets.safetensors")
    edit(path, ODD[name])
    config = DataConfig(dataset=str(path))
    messages = []
    for read in (lambda: open_dataset(config, fetch=False), lambda: check_dataset(config)):
        with pytest.raises(DataError, match="is not a dataset that `cifar download` wrote") as caught:
            read()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(("train", "test", "split"), [(0, 2, "train"), (4, 0, "test")])
def test_a_store_without_images_of_a_split_is_refused(train: int, test: int, split: str, tmp_path: Path) -> None:
    path = written(tmp_path / "pets.safetensors")
    sizes = {"train_images": train * 48, "train_labels": train * 8, "test_images": test * 48, "test_labels": test * 8}

    def change(header: Header) -> None:
        end = 0
        for key, size in sizes.items():
            header[key]["shape"][0] = train if key.startswith("train") else test
            header[key]["data_offsets"] = [end, end + size]
            end += size

    edit(path, change, b"\0" * sum(sizes.values()))
    with pytest.raises(DataError, match=f"wrote: it has no {split} images"):
        open_dataset(DataConfig(dataset=str(path)), fetch=False)


@pytest.mark.parametrize("label", [-1, 2, 10**12, -(2**63)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_label_that_is_no_class_is_refused_by_opening_and_found_by_check(
    label: int, split: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "pets.safetensors")
    content = bytearray(path.read_bytes())
    end = len(content) - (0 if split == "test" else 2 * 48 + 2 * 8)
    content[end - 8 : end] = label.to_bytes(8, "little", signed=True)
    path.write_bytes(content)
    config = DataConfig(dataset=str(path))
    with pytest.raises(DataError, match=f"is damaged: a {split} label lies outside 0..1"):
        open_dataset(config, fetch=False)
    assert f"a {split} label lies outside 0..1" in check_dataset(config).problems


def test_markup_and_invisible_characters_in_names_are_shown_as_text(tmp_path: Path, cifar: Cifar) -> None:
    path = written(tmp_path / "pets.safetensors")
    edit(path, classes(["[red]cat[/red]", "dog\u202e"]))
    result = cifar("download", "--check", "--dataset", path)
    assert result.exit_code == 0, result.output
    assert "[red]cat[/red]" in result.output
    assert r"dog\u202e" in result.output


def test_further_keys_of_later_versions_are_accepted(tmp_path: Path) -> None:
    path = written(tmp_path / "pets.safetensors")
    edit(path, metadata("mean", "[0.5, 0.5, 0.5]"))
    assert open_dataset(DataConfig(dataset=str(path)), fetch=False).classes == ("cat", "dog")


def test_a_pipe_is_no_store(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pets.safetensors")
    for config in (
        DataConfig(dataset="pets", data_dir=tmp_path),
        DataConfig(dataset=str(tmp_path / "pets.safetensors")),
    ):
        for read in (
            lambda config=config: open_dataset(config, fetch=False),
            lambda config=config: check_dataset(config),
        ):
            with pytest.raises(DataError, match="there is no dataset"):
                read()
