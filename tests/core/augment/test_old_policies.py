"""Policy files of older albumentations: each old argument, and what it must be now."""
# ruff: noqa: E501 (a line of the table is one argument then and now)

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_cli.core.augment.offline import A
from cifar_cli.core.augment.per_image import PerImagePipeline
from cifar_cli.core.augment.policy_file import load_policy
from cifar_cli.errors import ConfigError

IMAGES = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

# Version, the transform's name and arguments as that version's A.save wrote them (without p), and the same now.
with warnings.catch_warnings(action="ignore"):  # some constructors advise against themselves
    OLD: list[tuple[str, str, dict[str, Any], A.BasicTransform]] = [
        ("1.3.1", "AdvancedBlur", {"sigmaX_limit": [0.2, 1.0], "sigmaY_limit": [0.3, 0.9]},
         A.AdvancedBlur(sigma_x_limit=(0.2, 1.0), sigma_y_limit=(0.3, 0.9), p=1)),
        ("1.3.1", "Affine", {"cval": 7, "cval_mask": 1, "mode": 2, "rotate": [-15, 15]},
         A.Affine(fill=7, fill_mask=1, border_mode=2, rotate=(-15, 15), p=1)),
        ("1.4.11", "Affine", {"shear": {"x": [-5, 10], "y": [-3, 8]}}, A.Affine(shear={"x": (-10, 5), "y": (-3, 8)}, p=1)),
        ("1.4.18", "Affine", {"shear": {"x": [-5, 10], "y": [-3, 8]}}, A.Affine(shear={"x": (-10, 5), "y": (-8, 3)}, p=1)),
        ("1.4.20", "Affine", {"shear": {"x": [-5, 10], "y": [-3, 8]}}, A.Affine(shear={"x": (-5, 10), "y": (-3, 8)}, p=1)),
        ("1.3.1", "ChannelDropout", {"channel_drop_range": [1, 1], "fill_value": 9},
         A.ChannelDropout(channel_drop_range=(1, 1), fill=9, p=1)),
        ("1.3.1", "CoarseDropout",
         {"max_holes": 8, "min_holes": 2, "max_height": 6, "min_height": 3, "max_width": 5, "min_width": 4, "fill_value": 1,
          "mask_fill_value": None},
         A.CoarseDropout(num_holes_range=(2, 8), hole_height_range=(3, 6), hole_width_range=(4, 5), fill=1, p=1)),
        ("1.4.18", "CoarseDropout", {"num_holes_range": [1, 2], "fill_value": 3, "mask_fill_value": None},
         A.CoarseDropout(num_holes_range=(1, 2), fill=3, p=1)),
        ("1.3.1", "CropAndPad", {"px": 2, "percent": None, "pad_mode": 0, "pad_cval": 5, "pad_cval_mask": 1},
         A.CropAndPad(px=2, border_mode=0, fill=5, fill_mask=1, p=1)),
        ("1.3.1", "Downscale", {"scale_min": 0.3, "scale_max": 0.6, "interpolation": {"upscale": 0, "downscale": 3}},
         A.Downscale(scale_range=(0.3, 0.6), interpolation_pair={"upscale": 0, "downscale": 3}, p=1)),
        ("1.4.3", "Downscale", {"scale_min": 0.3, "scale_max": 0.6, "interpolation": 1},
         A.Downscale(scale_range=(0.3, 0.6), interpolation_pair={"upscale": 1, "downscale": 1}, p=1)),
        ("1.4.18", "ElasticTransform", {"alpha": 2, "sigma": 9, "border_mode": 4, "value": 3, "mask_value": None},
         A.ElasticTransform(alpha=2, sigma=9, border_mode=4, fill=3, noise_distribution="uniform", p=1)),
        ("1.3.1", "GaussNoise", {"var_limit": [25.0, 100.0], "per_channel": True, "mean": 51},
         A.GaussNoise(std_range=(5 / 255, 10 / 255), mean_range=(0.2, 0.2), p=1)),
        ("1.3.1", "GridDistortion", {"border_mode": 4, "value": [1, 2, 3], "mask_value": None, "normalized": False},
         A.GridDistortion(border_mode=4, fill=(1, 2, 3), normalized=False, p=1)),
        ("1.3.1", "GridDropout",
         {"unit_size_min": 4, "unit_size_max": 8, "holes_number_x": None, "holes_number_y": None, "shift_x": 1,
          "shift_y": 2,
          "random_offset": False, "fill_value": 0, "mask_fill_value": None},
         A.GridDropout(unit_size_range=(4, 9), shift_xy=(1, 2), random_offset=False, p=1)),
        ("1.3.1", "GridDropout",
         {"unit_size_min": None, "unit_size_max": None, "holes_number_x": 3, "holes_number_y": 4, "shift_x": 0,
          "shift_y": 0,
          "random_offset": True},
         A.GridDropout(holes_number_xy=(3, 4), shift_xy=(0, 0), random_offset=True, p=1)),
        ("1.3.1", "ImageCompression", {"quality_lower": 40, "quality_upper": 90, "compression_type": 1},
         A.ImageCompression(quality_range=(40, 90), compression_type="webp", p=1)),
        ("1.3.1", "JpegCompression", {"quality_lower": 40, "quality_upper": 90},
         A.ImageCompression(quality_range=(40, 90), compression_type="jpeg", p=1)),
        ("1.3.1", "MaskDropout", {"max_objects": [1, 1], "image_fill_value": 3, "mask_fill_value": 2},
         A.MaskDropout(fill=3, fill_mask=2, p=1)),
        ("1.3.1", "OpticalDistortion",
         {"distort_limit": [-0.1, 0.1], "shift_limit": [-0.05, 0.05], "border_mode": 4, "value": None, "mask_value": None},
         A.OpticalDistortion(distort_limit=(-0.1, 0.1), border_mode=4, p=1)),
        ("1.3.1", "PadIfNeeded", {"min_height": 40, "min_width": 40, "border_mode": 0, "value": [1, 2, 3], "mask_value": 4},
         A.PadIfNeeded(min_height=40, min_width=40, border_mode=0, fill=(1, 2, 3), fill_mask=4, p=1)),
        ("1.3.1", "Perspective", {"pad_mode": 1, "pad_val": 3, "mask_pad_val": 2},
         A.Perspective(border_mode=1, fill=3, fill_mask=2, p=1)),
        ("1.3.1", "PiecewiseAffine",
         {"cval": 2, "cval_mask": 1, "mode": "symmetric", "keypoints_threshold": 0.01, "scale": [0.03, 0.05]},
         A.PiecewiseAffine(fill=2, fill_mask=1, border_mode=2, scale=(0.03, 0.05), p=1)),
        ("1.3.1", "RandomBrightness", {"limit": [-0.1, 0.3]},
         A.RandomBrightnessContrast(brightness_limit=(-0.1, 0.3), contrast_limit=0.0, p=1)),
        ("1.3.1", "RandomContrast", {"limit": [-0.1, 0.3]},
         A.RandomBrightnessContrast(brightness_limit=0.0, contrast_limit=(-0.1, 0.3), p=1)),
        ("1.3.1", "RandomCropNearBBox", {"max_part_shift": [0.3, 0.3], "cropping_box_key": "box"},
         A.RandomCropNearBBox(max_part_shift=(0.3, 0.3), cropping_bbox_key="box", p=1)),
        ("1.3.1", "RandomFog", {"fog_coef_lower": 0.3, "fog_coef_upper": 0.9, "alpha_coef": 0.1},
         A.RandomFog(fog_coef_range=(0.3, 0.9), alpha_coef=0.1, p=1)),
        ("1.3.1", "RandomGamma", {"gamma_limit": [80, 120], "eps": None}, A.RandomGamma(gamma_limit=(80, 120), p=1)),
        ("1.3.1", "RandomRain", {"slant_lower": -5, "slant_upper": 5, "drop_length": 20, "rain_type": None},
         A.RandomRain(slant_range=(-5, 5), drop_length=20, rain_type="default", p=1)),
        ("1.3.1", "RandomResizedCrop", {"height": 24, "width": 28, "scale": [0.5, 1.0]},
         A.RandomResizedCrop(size=(24, 28), scale=(0.5, 1.0), p=1)),
        ("1.3.1", "RandomShadow", {"num_shadows_lower": 1, "num_shadows_upper": 3},
         A.RandomShadow(num_shadows_limit=(1, 3), p=1)),
        ("1.3.1", "RandomSizedCrop", {"min_max_height": [8, 16], "height": 24, "width": 28, "w2h_ratio": 1.0},
         A.RandomSizedCrop(min_max_height=(8, 16), size=(24, 28), w2h_ratio=1.0, p=1)),
        ("1.3.1", "RandomSnow", {"snow_point_lower": 0.1, "snow_point_upper": 0.4},
         A.RandomSnow(snow_point_range=(0.1, 0.4), p=1)),
        ("1.3.1", "RandomSunFlare",
         {"angle_lower": 0, "angle_upper": 0.5, "num_flare_circles_lower": 2, "num_flare_circles_upper": 4},
         A.RandomSunFlare(angle_range=(0, 0.5), num_flare_circles_range=(2, 4), p=1)),
        ("1.3.1", "Rotate", {"limit": [-20, 20], "border_mode": 0, "value": 4, "mask_value": None},
         A.Rotate(limit=(-20, 20), border_mode=0, fill=4, p=1)),
        ("1.3.1", "SafeRotate", {"limit": [-20, 20], "border_mode": 0, "value": 4, "mask_value": None},
         A.SafeRotate(limit=(-20, 20), border_mode=0, fill=4, p=1)),
        ("1.4.18", "ShiftScaleRotate",
         {"shift_limit_x": [-0.1, 0.1], "shift_limit_y": [-0.1, 0.1], "scale_limit": [-0.1, 0.1], "rotate_limit": [-9, 9],
          "border_mode": 4, "value": 3.0, "mask_value": 0.0},
         A.ShiftScaleRotate(shift_limit=(-0.1, 0.1), scale_limit=(-0.1, 0.1), rotate_limit=(-9, 9), border_mode=4, fill=3.0,
                            fill_mask=0.0, p=1)),
        ("1.3.1", "Solarize", {"threshold": [51, 102]}, A.Solarize(threshold_range=(0.2, 0.4), p=1)),
        ("1.3.1", "Spatter", {"mode": ["mud"], "color": {"mud": [1, 2, 3]}}, A.Spatter(mode="mud", color=(1, 2, 3), p=1)),
        ("1.4.3", "XYMasking",
         {"num_masks_x": 1, "num_masks_y": 1, "mask_x_length": 4, "mask_y_length": 4, "fill_value": 2,
          "mask_fill_value": 1},
         A.XYMasking(num_masks_x=1, num_masks_y=1, mask_x_length=4, mask_y_length=4, fill=2, fill_mask=1, p=1)),
    ]  # fmt: skip


def written(folder: Path, version: str, *transforms: dict[str, Any]) -> Path:
    """A file as that version wrote it."""
    path = folder / "policy.json"
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": list(transforms), "is_check_shapes": True}
    path.write_text(json.dumps({"__version__": version, "transform": compose}))
    return path


def step(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, "p": 1.0, **arguments}


def as_data(transform: Any) -> Any:
    """What A.save would write, with numbers rounded: 51 / 255 and 0.2 are one value."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [rounded(each) for each in value]
        return round(float(value), 9) if isinstance(value, int | float) else value

    return rounded(transform.to_dict_private())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("version", "name", "arguments", "now"), OLD, ids=[f"{number}-{case[1]}" for number, case in enumerate(OLD)]
)
def test_an_old_argument_has_the_meaning_it_had(
    tmp_path: Path, version: str, name: str, arguments: dict[str, Any], now: A.BasicTransform
) -> None:
    (loaded,) = load_policy(written(tmp_path, version, step(name, **arguments))).transforms
    assert as_data(loaded) == as_data(now)


def test_always_apply_means_a_probability_of_one_except_in_a_choice(tmp_path: Path) -> None:
    flips = [
        {"__class_fullname__": name, "always_apply": True, "p": p}
        for name, p in (("HorizontalFlip", 0.1), ("VerticalFlip", 0.3))
    ]
    unsure = {"__class_fullname__": "HorizontalFlip", "always_apply": False, "p": 0.1}
    loaded = load_policy(written(tmp_path, "1.3.1", flips[0], unsure, step("OneOf", transforms=flips)))
    assert [each.p for each in loaded.transforms] == [1.0, 0.1, 1.0]
    assert [each.p for each in loaded.transforms[2].transforms] == [0.1, 0.3]  # weights of the choice


def test_a_flip_of_version_1_3_is_one_of_three_with_equal_chances(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, "1.3.1", step("Flip", always_apply=False)))
    pipeline = PerImagePipeline(policy, 32, (0.0,) * 3, (1 / 255,) * 3)
    images = IMAGES[:1].expand(600, -1, -1, -1)
    ((after, _),) = pipeline.trace(images, seed=0)
    for dims in ((2,), (1,), (1, 2)):
        same = (after == images.flip(dims)).flatten(1).all(dim=1).sum()
        assert 150 < same < 250  # 200 expected, standard deviation 11.5


def test_what_an_old_someof_selects_is_always_applied(tmp_path: Path) -> None:
    flips = [step("HorizontalFlip") | {"p": 0.5}, step("VerticalFlip") | {"p": 0.5}]
    (old,) = load_policy(written(tmp_path, "1.4.18", step("SomeOf", n=1, replace=False, transforms=flips))).transforms
    (new,) = load_policy(written(tmp_path, "2.0.8", step("SomeOf", n=1, replace=False, transforms=flips))).transforms
    assert [each.p for each in old.transforms] == [1.0, 1.0]
    assert [each.p for each in new.transforms] == [0.5, 0.5]


REFUSED = {
    "ElasticTransform": ({"alpha": 1, "sigma": 50, "alpha_affine": 50}, "moves the corners by up to 50 pixels first"),
    "OpticalDistortion": ({"shift_limit": [-3, 3]}, r"shifts by up to \[-3, 3\] pixels"),
    "SomeOf": (
        {"n": 1, "transforms": [step("HorizontalFlip") | {"p": 0.1}, step("VerticalFlip") | {"p": 0.4}]},
        "selects its transforms by different probabilities",
    ),
    "CropAndPad": ({"px": 2, "pad_cval": [0, 255]}, "draws one of several fills"),
    "Spatter": ({"mode": ["rain", "mud"]}, "chooses one of several modes"),
    "GridDropout": ({"holes_number_x": 3, "holes_number_y": None}, "has only one of holes_number_x and holes_number_y"),
    "GaussNoise": ({"var_limit": [-1, 4]}, "GaussNoise"),
    "Cutout": ({"num_holes": 8}, "names an unknown transform Cutout"),
    "HorizontalFlip": ({"direction": 1}, "passes an unknown argument to HorizontalFlip: direction"),
    "Blur": ({"blur_limit": "wide"}, "can't be built into a policy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_t_be_done_any_more_is_refused_with_the_version_that_wrote_it(tmp_path: Path, name: str) -> None:
    arguments, message = REFUSED[name]
    path = written(tmp_path, "1.3.1", step(name, **arguments))
    with pytest.raises(ConfigError, match=message) as caught:
        load_policy(path)
    assert caught.value.what.endswith(f"; albumentations 1.3.1 wrote it, and {A.__version__} is installed")
    assert caught.value.remedy


def test_every_transform_of_the_installed_version_is_read_as_it_was_saved(tmp_path: Path) -> None:
    """Whatever warnings its constructor gives."""
    for name in ("ShiftScaleRotate", "PiecewiseAffine", "TimeReverse", "TimeMasking", "PlanckianJitter", "Spatter"):
        with warnings.catch_warnings(action="ignore"):
            transform = getattr(A, name)(p=1.0)
        path = tmp_path / f"{name}.yaml"
        A.save(A.Compose([transform]), path, data_format="yaml")
        (loaded,) = load_policy(path).transforms
        assert as_data(loaded) == as_data(transform)
