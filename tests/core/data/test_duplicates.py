"""Twins in a dataset: which changes of an image are seen through, and what is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.duplicates import SIDE, described, find_duplicates, find_pairs, thumbnails
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.errors import DataError, ResourceError
from tests.core.data.streams import jpeg, rows_of, stream

COUNT = 300


def scene(number: int, side: int = SIDE) -> Image.Image:
    """Shapes over a gradient: smooth areas and edges, as photographs have, and no two alike."""
    random = np.random.default_rng(number)
    down, right = np.mgrid[0:1:64j, 0:1:64j]
    pixels = random.uniform(0, 255, 3) + (down[..., None] - 0.5) * random.uniform(-120, 120, 3)
    for _ in range(5):
        x, y, wide, high = random.uniform(0, 1, 4)
        inside = ((right - x) / (0.1 + 0.3 * wide)) ** 2 + ((down - y) / (0.1 + 0.3 * high)) ** 2 < 1
        pixels[inside] = random.uniform(0, 255, 3)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file)


def moved(image: Image.Image) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0), Image.Resampling.BICUBIC)


TWINS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "paler": lambda image: ImageEnhance.Color(image).enhance(0.8),
    "compressed": recompressed,
    "moved by a pixel": moved,
    "cropped": lambda image: image.crop((1, 1, SIDE - 1, SIDE - 1)).resize((SIDE, SIDE)),
}


def blocks_of(*images: Image.Image) -> list[Tensor]:
    """In blocks of several sizes, as the images come from several splits."""
    pixels = torch.stack([torch.from_numpy(np.array(image.convert("RGB"))) for image in images])
    return [block for block in pixels.split([7, 0, len(images) - 7]) if len(block)]


@pytest.mark.parametrize("change", TWINS)
def test_a_changed_image_is_the_twin_of_its_original_and_of_no_other(change: str) -> None:
    scenes = [scene(number) for number in range(COUNT)]
    twins = [TWINS[change](each) for each in scenes[:10]]
    pairs = find_pairs(blocks_of(*scenes, *twins), total=COUNT + 10)
    assert sorted((pair.first, pair.second) for pair in pairs) == [(each, COUNT + each) for each in range(10)]
    assert not any(pair.identical for pair in pairs)
    assert all(0.88 <= pair.similarity <= 1.00001 for pair in pairs)


def test_identical_images_are_paired_with_the_first_of_them() -> None:
    scenes = [scene(number) for number in range(20)]
    black = Image.new("RGB", (SIDE, SIDE))
    images = [black, *scenes, black, scenes[3], scenes[3], TWINS["brighter"](scenes[3])]
    pairs = find_pairs(blocks_of(*images), total=len(images))
    assert [(pair.first, pair.second, pair.identical) for pair in pairs] == [
        (0, 21, True), (4, 22, True), (4, 23, True), (4, 24, False),
    ]  # fmt: skip


def test_no_images_and_images_of_one_colour_have_no_twins() -> None:
    assert find_pairs([], total=0) == []
    colours = [Image.new("RGB", (SIDE, SIDE), (number, 0, 0)) for number in range(12)]
    assert find_pairs(blocks_of(*colours), total=12) == []


def test_many_images_of_one_scene_give_a_bounded_number_of_pairs() -> None:
    same = [scene(0)] * 200
    noisy = [np.asarray(each, dtype=np.int16) + np.random.default_rng(n).integers(-3, 4) for n, each in enumerate(same)]
    for number, each in enumerate(noisy):
        each[0, 0] = number % 250, number // 250, 0
    images = [Image.fromarray(each.clip(0, 255).astype(np.uint8)) for each in noisy]
    assert 0 < len(find_pairs(blocks_of(*images), total=200)) <= 200 * 20


def test_a_description_has_length_one_and_does_not_depend_on_brightness_and_contrast() -> None:
    images = blocks_of(*(scene(number) for number in range(10)))[0]
    one, other = described(images), described((images.float() * 0.5 + 40).round().to(torch.uint8))
    assert torch.allclose(one.norm(dim=1), torch.ones(7))
    assert ((one * other).sum(dim=1) > 0.99).all()


@pytest.fixture(params=["pixels", "files"])
def pets(request: pytest.FixtureRequest, tmp_path: Path) -> DataConfig:
    """3 + 2 photographs for training and 3 for the test; test images 0 and 1 are twins of training images 1 and 4."""
    rows = rows_of(3, 2, 3)
    encoded = request.param == "files"
    scenes = [scene(number, side=96) for number in (0, 1, 2, 3, 4)]
    shown = [*scenes, scenes[1], ImageEnhance.Brightness(scenes[4]).enhance(1.1), scene(9, side=96)]
    pixels = [np.array(each) for each in shown]
    contents = [jpeg(each) for each in pixels] if encoded else pixels
    write_store(tmp_path / "pets.safetensors", name="pets", images=stream(contents, rows, img_size=96))
    return DataConfig(dataset="pets", data_dir=tmp_path)


def test_twins_of_a_dataset_are_listed_with_their_files_and_drawn(pets: DataConfig, tmp_path: Path) -> None:
    result = find_duplicates(pets)
    assert result.table == tmp_path / "pets-duplicates.csv"
    with result.table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split_a"], row["index_a"], row["split_b"], row["index_b"], row["kind"]) for row in rows] == [
        ("train", "1", "test", "0", "identical"),
        ("train", "4", "test", "1", "near"),
    ]
    assert [row["file_b"] for row in rows] == ["test/cat/0.jpg", "test/dög/1.jpg"]
    assert rows[0]["class_a"] == "dög"
    assert result.picture == tmp_path / "pets-duplicates.png"
    with Image.open(result.picture) as picture:
        assert picture.format == "PNG"
    assert result.test_images_with_a_twin_in_train == 2
    assert result.differently_labelled == 1 + (rows[1]["class_a"] != rows[1]["class_b"])
    assert [result.count("across", identical=each) for each in (True, False)] == [1, 1]
    assert result.count("train", identical=False) == 0


def test_the_files_go_to_the_folder_asked_for(pets: DataConfig, tmp_path: Path) -> None:
    result = find_duplicates(pets, folder=tmp_path / "new" / "folder")
    assert result.table == tmp_path / "new" / "folder" / "duplicates.csv"
    assert result.table.is_file()
    (tmp_path / "taken").write_text("")
    with pytest.raises(ResourceError, match="can't be written"):
        find_duplicates(pets, folder=tmp_path / "taken")


def test_a_dataset_that_is_not_there_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        find_duplicates(DataConfig(dataset="cifar10", data_dir=tmp_path))


def test_thumbnails_come_in_the_order_of_the_split(pets: DataConfig) -> None:
    small_NHWC = torch.cat(list(thumbnails(open_store(pets.store_path).train)))
    assert small_NHWC.shape == (5, SIDE, SIDE, 3)
    for number, thumbnail in enumerate(small_NHWC):
        expected = torch.from_numpy(np.array(scene(number, side=96).resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
        assert (thumbnail.float() - expected.float()).abs().mean() < 3
