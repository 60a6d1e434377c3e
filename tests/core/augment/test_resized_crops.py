"""Random resized crops of complete batches, against torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import v2

from cifar_cli.core.augment.batched import BatchedPipeline, resized_crops
from cifar_cli.core.augment.draws import crop_boxes, draw
from cifar_cli.core.augment.policy import PHOTO, RandomResizedCrop
from cifar_cli.core.transform import BatchSlice

LEVELS = (0.0,) * 3, (1 / 255,) * 3  # output values equal pixel levels


def boxes(step: RandomResizedCrop, height: int, width: int, *, count: int = 4000) -> torch.Tensor:
    drawn = draw([step], [BatchSlice.complete(seed=1, count=count)], 32)[0]
    return crop_boxes(step, drawn, *(torch.full((count,), length) for length in (height, width)))


@pytest.mark.parametrize("side", [8, 24, 32, 75])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 47)])
def test_a_box_is_scaled_as_torchvision_scales_it(side, height, width):
    images = torch.randint(0, 256, (40, height, width, 3), dtype=torch.uint8)
    chosen = boxes(RandomResizedCrop(smallest=0.01), height, width, count=40)
    made = resized_crops(images, chosen, side)
    assert made.shape == (40, side, side, 3)
    for image, box, result in zip(images, chosen.tolist(), made, strict=True):
        expected = v2.functional.resized_crop(image.permute(2, 0, 1), *box, [side, side], antialias=True)
        assert (result.permute(2, 0, 1).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 90), (90, 50), (10, 100), (100, 10)])
@pytest.mark.parametrize("step", [RandomResizedCrop(), RandomResizedCrop(smallest=0.08, widest=2.0)])
def test_boxes_are_distributed_as_torchvisions(step, height, width):
    made = boxes(step, height, width)
    theirs = v2.RandomResizedCrop(32, scale=(step.smallest, 1.0), ratio=(1 / step.widest, step.widest))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        drawn = [theirs.make_params([image]) for _ in range(4000)]
    expected = torch.tensor([[each[name] for name in ("top", "left", "height", "width")] for each in drawn])
    for ours, other in ((made, expected), (made[:, 2:].prod(1, keepdim=True), expected[:, 2:].prod(1, keepdim=True))):
        ours, other = ours.double(), other.double()
        error = other.std(0) / math.sqrt(4000)
        assert ((ours.mean(0) - other.mean(0)).abs() <= 6 * error + 1e-9).all()
        assert ((ours.std(0) - other.std(0)).abs() <= 6 * error + 1e-9).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (3, 2), (64, 64)])
def test_every_box_lies_inside_its_image(height, width):
    top, left, rows, columns = boxes(RandomResizedCrop(), height, width).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (rows >= 1).all()
    assert (columns >= 1).all()
    assert (top + rows <= height).all()
    assert (left + columns <= width).all()


@pytest.mark.parametrize("side", [16, 32, 48])
def test_the_photo_policy_makes_images_of_any_size_from_the_stored_ones(side):
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    pipeline = BatchedPipeline(PHOTO, side, *LEVELS)
    slices = [BatchSlice.complete(seed=2, count=6)]
    made = pipeline(images, slices)
    assert made.shape == (6, 3, side, side)
    assert torch.equal(made, pipeline(images, slices))
    assert not torch.equal(made, pipeline(images, [BatchSlice.complete(seed=3, count=6)]))
    halves = [BatchSlice(seed=2, first=first, count=3, total=6) for first in (0, 3)]
    assert torch.equal(pipeline(images, halves), made)


def test_a_crop_is_taken_from_the_stored_size_and_not_from_the_enlarged_image():
    """Enlarged first, a crop would lose detail that the stored image has."""
    slices = [BatchSlice.complete(seed=2, count=4)]
    pipeline = BatchedPipeline(PHOTO, 16, *LEVELS)
    box = pipeline.boxes(torch.full((4,), 64), torch.full((4,), 64), slices)
    assert box.max() > 16
    assert (box[:, 2] * box[:, 3] >= 0.35 * 64 * 64 - 64).all()
