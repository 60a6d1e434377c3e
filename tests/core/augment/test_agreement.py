"""The two pipelines agree: equal parameters give equal images, and seeds give equal distributions."""

import numpy as np
import pytest
import torch

from cifar_cli.core.augment.batched import BatchedPipeline, apply
from cifar_cli.core.augment.colour import jittered, jittered_one_by_one, shift_hue_by_opencv, shift_hue_by_tensors
from cifar_cli.core.augment.draws import draw
from cifar_cli.core.augment.offline import A
from cifar_cli.core.augment.per_image import PerImagePipeline
from cifar_cli.core.augment.policy import COURSE, ColorJitter
from cifar_cli.core.transform import BatchSlice

COUNT = 256
GENERATOR = torch.Generator().manual_seed(1)
NOISE = torch.randint(0, 256, (COUNT, 32, 32, 3), dtype=torch.uint8, generator=GENERATOR)
UNUSED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def smooth(count=COUNT):
    """Smooth images, like photographs: neighbouring pixels differ little."""
    coarse = torch.rand(count, 3, 5, 5, generator=GENERATOR) * 255
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear", align_corners=True)
    return fine.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def batch_of_all(seed):
    return [BatchSlice.complete(seed=seed, count=COUNT)]


def by_albumentations(image, name, values, place):
    """One step on one image with the parameters that the batched pipeline drew."""
    value = {key: each[place] for key, each in values.items()}
    if name == "PadCrop":
        padded = A.PadIfNeeded(min_height=36, min_width=36, p=1.0)(image=image)["image"]
        left, top = int(value["left"]), int(value["top"])
        return A.Crop(x_min=left, y_min=top, x_max=left + 32, y_max=top + 32, p=1.0)(image=padded)["image"]
    if name == "HorizontalFlip":
        return A.HorizontalFlip(p=1.0)(image=image)["image"]
    if name == "CoarseDropout":
        x, y = int(value["left"]), int(value["top"])
        holes = np.array([[x, y, x + int(value["width"]), y + int(value["height"])]])
        return A.CoarseDropout(fill=0, p=1.0).apply(image, holes=holes, seed=0)
    factors = {key: float(value[key]) for key in ("brightness", "contrast", "saturation", "hue")}
    return A.ColorJitter(p=1.0).apply(image, order=value["order"].tolist(), **factors)


@pytest.mark.parametrize("number", [0, 1, 3], ids=lambda number: type(COURSE.steps[number]).__name__)
def test_crop_flip_and_dropout_with_equal_parameters_are_equal_to_the_pixel(number):
    step = COURSE.steps[number]
    (drawn,) = draw([step], batch_of_all(seed=5), 32)
    made = apply(NOISE, [step], [drawn])
    for place, image in enumerate(NOISE.numpy()):
        expected = by_albumentations(image, type(step).__name__, drawn.values, place) if drawn.fires_B[place] else image
        assert np.array_equal(made[place].numpy(), expected)


@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_colour_jitter_with_equal_parameters_differs_by_at_most_2_of_255_levels(kind):
    images = NOISE if kind == "noise" else smooth()
    step = ColorJitter(p=1.0)
    (drawn,) = draw([step], batch_of_all(seed=6), 32)
    made = apply(images, [step], [drawn]).int()
    expected = torch.stack(
        [
            torch.from_numpy(by_albumentations(image, "ColorJitter", drawn.values, place))
            for place, image in enumerate(images.numpy())
        ]
    ).int()
    difference = (made - expected).abs()
    assert difference.max() <= 2
    assert (difference > 0).double().mean() < 1e-4  # equal on the CPU that this was developed on


def jittered_together(images, drawn, *, with_opencv):
    needs, run = jittered(drawn, images.shape[1:3], with_opencv=with_opencv)
    return run(images, *needs)


def test_colour_jitter_with_tensors_as_on_a_gpu_is_within_2_levels_of_opencv():
    step = ColorJitter(p=1.0)
    (drawn,) = draw([step], batch_of_all(seed=7), 32)
    by_tensors, by_opencv = (jittered_together(NOISE, drawn, with_opencv=choice).int() for choice in (False, True))
    assert len(by_tensors) == COUNT
    difference = (by_tensors - by_opencv).abs()
    assert difference.max() <= 2
    assert (difference > 0).double().mean() < 1e-4


def test_hue_shifted_with_tensors_as_on_a_gpu_is_within_1_level_of_opencv():
    steps = torch.randint(-90, 91, (COUNT,), generator=GENERATOR)
    difference = (shift_hue_by_tensors(NOISE, steps).int() - shift_hue_by_opencv(NOISE, steps).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 1e-4


THRESHOLD = 0.0973  # two-sample Kolmogorov-Smirnov for 1,000 against 1,000 values: rejects 1 in 6,500 equal pairs


def distance(left, right):
    """The Kolmogorov-Smirnov statistic: the largest gap between two empirical distribution functions."""
    points = torch.cat([left, right]).sort().values
    gap = torch.searchsorted(left.sort().values, points, right=True) / len(left)
    return (gap - torch.searchsorted(right.sort().values, points, right=True) / len(right)).abs().max().item()


def traces(images):
    batched = BatchedPipeline(COURSE, 32, *UNUSED).trace(images, seed=8)
    return batched, PerImagePipeline(COURSE, 32, *UNUSED).trace(images, seed=9)


def test_means_and_standard_deviations_have_the_same_distribution_in_both_pipelines():
    images = smooth(1000)
    ends = [trace[-1][0].double() for trace in traces(images)]
    for statistic in (lambda pixels: pixels.mean(dim=(1, 2)), lambda pixels: pixels.std(dim=(1, 2))):
        left, right = (statistic(pixels) for pixels in ends)
        for channel in range(3):
            assert distance(left[:, channel], right[:, channel]) < THRESHOLD


def test_offsets_flips_and_holes_have_the_same_distribution_in_both_pipelines():
    # Pixels encode their position: red is the column + 10, green the row + 10; no pixel is 0.
    side = torch.arange(10, 42, dtype=torch.uint8)
    image = torch.stack([side.expand(32, 32), side[:, None].expand(32, 32), torch.full((32, 32), 200).byte()], dim=-1)
    measured = []
    for trace in traces(image.expand(1000, -1, -1, -1)):
        (cropped, _), (_, flips), (jittered, _), (holed, holes) = trace
        left = cropped[:, 16, 16, 0].double()  # moves by one for each pixel of the offset
        top = cropped[:, 16, 16, 1].double()
        hole = ((holed != jittered).any(dim=-1)).flatten(1).sum(dim=1)
        measured.append((left, top, flips.double(), holes.double(), hole[holes].double()))
    for left, right in zip(*measured, strict=True):
        scale = (2000 / len(left) / 2 + 2000 / len(right) / 2) ** 0.5 / 2**0.5  # the threshold for fewer values
        assert distance(left, right) < THRESHOLD * scale


def test_the_statistical_test_detects_holes_that_are_one_pixel_larger():
    sizes = torch.randint(4, 9, (2, 300), generator=GENERATOR).double()
    larger = torch.randint(5, 10, (2, 300), generator=GENERATOR).double()
    assert distance(sizes.prod(0), larger.prod(0)) > THRESHOLD * (1000 / 300) ** 0.5


@pytest.mark.parametrize("hue", [0.0, 0.01, 0.1])
def test_large_images_are_jittered_one_by_one_to_the_same_levels(hue):
    images = torch.randint(0, 256, (40, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    step = ColorJitter(brightness=0.9, contrast=0.9, saturation=0.9, hue=hue, p=0.8)
    drawn = draw([step], [BatchSlice.complete(seed=4, count=len(images))], 48)[0]
    assert torch.equal(jittered_one_by_one(images, drawn), jittered_together(images, drawn, with_opencv=True))
