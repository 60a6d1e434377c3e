"""Image files of a store: decoded to the same pixels as torchvision makes of them, and batched deterministically."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from cifar_cli.core.augment.batched import BatchedPipeline, EvalTransform
from cifar_cli.core.augment.mixing import mixer_of
from cifar_cli.core.augment.policy import CROP_FLIP, PHOTO, Mix
from cifar_cli.core.data.pictures import Picture, central_box, decoded
from cifar_cli.core.data.sources.pixels import opened, orientation_of, plain_jpeg_size
from cifar_cli.core.data.store import open_store, write_store
from cifar_cli.core.data.worker_loader import PictureLoader
from cifar_cli.core.transform import BatchSlice
from cifar_cli.errors import DataError
from tests.core.data.streams import jpeg, photo, rows_of, stream

LEVELS = (0.0,) * 3, (1 / 255,) * 3  # output values equal pixel levels
SIDE = 16


def pillow(content: bytes) -> torch.Tensor:
    return v2.functional.pil_to_tensor(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


def difference(images_HWC: torch.Tensor, expected_CHW: torch.Tensor) -> float:
    return (images_HWC.permute(2, 0, 1).float() - expected_CHW.float()).abs().max().item()


@pytest.mark.parametrize("size", [(40, 30), (37, 53), (30, 30), (10, 9), (500, 375), (1, 40)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_evaluation_sees_a_resize_and_a_centre_crop_and_all_of_a_square(size, kind):
    content = jpeg(photo(1, width=size[0], height=size[1]), kind=kind)
    image = pillow(content)
    top, left, height, width = central_box(size[1], size[0])
    if size[0] == size[1]:
        assert (top, left, height, width) == (0, 0, size[1], size[0])
    elif min(size) > 8:
        assert height / min(size) == pytest.approx(0.875, abs=0.5 / min(size))
        assert abs(2 * top + height - size[1]) <= 1
        assert abs(2 * left + width - size[0]) <= 1
    cropped = v2.functional.crop(image, top, left, height, width)
    expected = v2.functional.resize(cropped, [SIDE, SIDE], antialias=True)
    made = decoded(content, SIDE)
    if kind == "JPEG" and height >= 2 * SIDE:  # reduced decoding averages whole blocks, torchvision by triangles
        assert (made.permute(2, 0, 1).float() - expected.float()).abs().mean() < 4
    else:
        assert difference(made, expected) <= 2


def test_evaluation_is_close_to_torchvisions_resize_and_centre_crop():
    content = jpeg(photo(3, width=80, height=60))
    usual = v2.Compose([v2.Resize(round(28 / 0.875), antialias=True), v2.CenterCrop(28)])(pillow(content))
    assert (decoded(content, 28).permute(2, 0, 1).float() - usual.float()).abs().mean() < 2


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_a_box_is_decoded_at_a_reduced_size_only_if_it_stays_as_large_as_the_result(reduction, monkeypatch):
    import cv2

    flags = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda content, flag: flags.append(flag) or decode(content, flag))
    content = jpeg(photo(2, width=300, height=200))
    picture, box = Picture.of(content), (17, 33, SIDE * reduction, SIDE * reduction + 5)
    made = picture.decoded(SIDE, box)
    names = {1: cv2.IMREAD_COLOR_RGB, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
             8: cv2.IMREAD_REDUCED_COLOR_8}  # fmt: skip
    assert flags == [names[reduction]]
    expected = v2.functional.resize(v2.functional.crop(pillow(content), *box), [SIDE, SIDE], antialias=True)
    assert (made.permute(2, 0, 1).float() - expected.float()).abs().mean() < 2


def odd_files() -> dict[str, bytes]:
    pixels = photo(5)
    exif = Image.Exif()
    exif[274] = 6
    alpha = np.dstack([pixels, np.full(pixels.shape[:2], 255, dtype=np.uint8)])
    wide = Image.fromarray(np.asarray(Image.fromarray(pixels).convert("L")).astype(np.uint16) * 257)
    file = io.BytesIO()
    wide.save(file, "PNG")
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    return {
        "turned": jpeg(pixels, exif=exif),
        "turned TIFF": jpeg(pixels, kind="TIFF", exif=exif),
        "grey": jpeg(np.asarray(Image.fromarray(pixels).convert("L"))),
        "progressive": jpeg(pixels, progressive=True),
        "alpha": jpeg(alpha, kind="PNG"),
        "16 bits": file.getvalue(),
        "cmyk": cmyk.getvalue(),
    }


@pytest.mark.parametrize("name", list(odd_files()))
def test_files_of_every_kind_are_decoded_as_they_are_shown(name):
    content = odd_files()[name]
    picture = Picture.of(content)
    assert (picture.width, picture.height) == ((30, 40) if name.startswith("turned") else (40, 30))
    box = (2, 3, 20, 24)
    if name == "16 bits":
        expected = torch.from_numpy(np.asarray(Image.fromarray(photo(5)).convert("L")).copy()).expand(3, -1, -1)
    else:
        expected = pillow(content)
    expected = v2.functional.resize(v2.functional.crop(expected, *box), [SIDE, SIDE], antialias=True)
    assert difference(picture.decoded(SIDE, box), expected) <= 2


def test_a_header_that_is_read_without_pillow_says_what_pillow_says():
    files = [jpeg(photo(6), exif=exif) for exif in (b"", *(exif_of(turn) for turn in (1, 6)))]
    files += [content for content in odd_files().values() if content.startswith(b"\xff\xd8")]
    random, read = np.random.default_rng(0), 0
    for number in range(4_000):
        content = bytearray(files[number % len(files)])
        for place in random.integers(
            2, min(700, len(content)), number % 3
        ):  # none, one or two bytes of the header are changed
            content[place] = random.integers(256)
        size = plain_jpeg_size(bytes(content))
        if size is None:
            continue
        read += 1
        try:
            image = opened(bytes(content))
        except Exception:  # what Pillow refuses, the decoder refuses
            with pytest.raises(ValueError):  # noqa: PT011 - the reason is the decoder's
                decoded(bytes(content), SIDE)
            continue
        assert (image.size, image.format, orientation_of(image)) == (size, "JPEG", 1)
        assert image.mode in ("RGB", "L")
    assert read > 1_000


def exif_of(turn: int) -> bytes:
    exif = Image.Exif()
    exif[274] = turn
    return exif.tobytes()


def test_transparent_pixels_are_white():
    clear = np.zeros((20, 20, 4), dtype=np.uint8)
    assert decoded(jpeg(clear, kind="PNG"), SIDE).unique().tolist() == [255]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an image of a known kind"),
        (b"GIF89a" + b"x" * 90, "not an image of a known kind"),
        (jpeg(photo(1), kind="PNG")[:200], "truncated|broken|Truncated|end of"),
    ],
)
def test_a_damaged_file_is_a_value_error_with_its_reason(content, said):
    with pytest.raises(ValueError, match=said):
        decoded(content, SIDE)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    content = bytearray(jpeg(photo(1), kind="PNG"))
    content[16:24] = (17_000).to_bytes(4) + (17_000).to_bytes(4)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    with pytest.raises(ValueError, match="17000×17000 pixels are more than"):
        decoded(bytes(content), SIDE)


@pytest.fixture
def pictures(tmp_path: Path):
    """22 pictures of different shapes; a label identifies its picture."""
    rows = tuple(replace(row, label=0) for row in rows_of(22, 0, 1))
    contents = [jpeg(photo(number, width=30 + number, height=50 - number)) for number in range(23)]
    write_store(tmp_path / "a.safetensors", name="a", images=stream(contents, rows))
    return open_store(tmp_path / "a.safetensors").train.images_NHWC


def loader(pictures, policy=PHOTO, **options) -> PictureLoader:
    transform = BatchedPipeline(policy, SIDE, *LEVELS, cropped=True)
    defaults = {"batch": 5, "transform": transform, "framer": transform, "seed": 7, "shuffle": True, "workers": 0}
    return PictureLoader(pictures, torch.arange(22), torch.arange(22), **(defaults | options))


def same(left, right) -> bool:
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("policy", [PHOTO, CROP_FLIP, replace(PHOTO, mix=Mix(kind="mixup", alpha=0.2))])
def test_the_number_of_workers_changes_no_batch_of_two_epochs(policy, workers, pictures):
    options = {"mixer": mixer_of(policy.mix), "classes": 22}
    one = loader(pictures, policy, **options)
    many = loader(pictures, policy, workers=workers, persistent=True, **options)
    first, second = list(one), list(one)
    assert same(many, first)
    assert same(many, second)
    assert not same(first, second)
    assert same(first[2:3], one.make(0, range(2, 3)))


def test_the_slices_of_three_devices_add_up_to_the_batch_of_one(pictures):
    ranks = [list(loader(pictures, rank=rank, world_size=3, drop_last=True)) for rank in range(3)]
    for index, (images, labels) in enumerate(loader(pictures, drop_last=True)):
        assert torch.equal(torch.cat([rank[index][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[index][1] for rank in ranks]), labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_the_next_batch(workers, pictures):
    complete, stopped = list(loader(pictures)), loader(pictures, workers=workers)
    passing = iter(stopped)
    for _ in range(2):
        next(passing)
    resumed = loader(pictures, workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    assert same(resumed, complete[2:])


def test_every_picture_keeps_its_own_label_and_its_crop_is_that_of_the_draws(pictures):
    policy = replace(PHOTO, steps=PHOTO.steps[:1])
    batches = loader(pictures, policy)
    (images, labels), *_ = batches
    size = [pictures.picture(row) for row in labels.tolist()]
    _, (part,) = batches._rows(0, range(1))
    height, width = (torch.tensor([getattr(each, side) for each in size]) for side in ("height", "width"))
    boxes = batches.framer.boxes(height, width, [part])
    assert len(boxes.unique(dim=0)) > 1
    for made, row, box in zip(images, labels.tolist(), boxes.tolist(), strict=True):
        crop = v2.functional.crop(pillow(pictures.content(row)), *box)
        expected = v2.functional.resize(crop, [SIDE, SIDE], antialias=True)
        assert (made - expected).abs().mean() < 3


def test_evaluation_in_batches_sees_what_a_single_picture_shows(pictures):
    batches = loader(pictures, transform=EvalTransform(SIDE, *LEVELS), framer=None, shuffle=False, workers=2)
    images = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).round().byte()
    assert torch.equal(images, pictures[range(22)])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_one_sentence_from_a_worker_too(workers, tmp_path):
    contents = [jpeg(photo(number)) for number in range(23)]
    contents[3] = b"nothing"
    write_store(tmp_path / "a.safetensors", name="a", images=stream(contents, rows_of(22, 0, 1)))
    with pytest.raises(DataError) as caught:
        list(loader(open_store(tmp_path / "a.safetensors").train.images_NHWC, workers=workers))
    store = tmp_path / "a.safetensors"
    assert (
        caught.value.what
        == f"{open_store(store).names('train')[3]} in {store} is damaged (not an image of a known kind)"
    )
    assert f"`cifar download --check --dataset {store}` names every damaged image" in caught.value.remedy


def test_a_store_of_pixels_and_one_of_files_get_the_same_crops(tmp_path):
    """Square pictures without loss, in both kinds of store."""
    rows = rows_of(8, 0, 1)
    pixels = [photo(number, width=40, height=40) for number in range(9)]
    files = [jpeg(each, kind="PNG") for each in pixels]
    write_store(tmp_path / "a.safetensors", name="a", images=stream(files, rows))
    write_store(tmp_path / "b.safetensors", name="b", images=stream(pixels, rows, img_size=40))
    encoded, plain = (open_store(tmp_path / f"{name}.safetensors").train.images_NHWC for name in "ab")
    slices = [BatchSlice.complete(seed=3, count=8)]
    policy = replace(PHOTO, steps=PHOTO.steps[:2])
    on_pixels = BatchedPipeline(policy, SIDE, *LEVELS)(plain, slices)
    pipeline = BatchedPipeline(policy, SIDE, *LEVELS, cropped=True)
    forty = torch.full((8,), 40)
    cropped = [
        encoded.decoded(row, encoded.picture(row), box)
        for row, box in enumerate(pipeline.boxes(forty, forty, slices).tolist())
    ]
    assert (pipeline(torch.stack(cropped), slices) - on_pixels).abs().max() <= 1
