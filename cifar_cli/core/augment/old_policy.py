"""Policy files of older albumentations, 1.3 to 2.0: their transforms and arguments in the words of the installed one.

Established from the constructors of albumentations 1.3.1, 1.4.3, 1.4.11, 1.4.18, 1.4.24 and 2.0.0. A file holds every
argument, so that changed defaults don't matter. What the installed version can't do raises ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

Arguments = dict[str, Any]

_FILL, _FILL_MASK, _BORDER = "fill", "fill_mask", "border_mode"
_RENAMED = {
    **dict.fromkeys(("value", "fill_value", "cval", "pad_cval", "pad_val", "image_fill_value"), _FILL),
    **dict.fromkeys(("mask_value", "mask_fill_value", "cval_mask", "pad_cval_mask", "mask_pad_val"), _FILL_MASK),
    **dict.fromkeys(("mode", "pad_mode"), _BORDER),
    "sigmaX_limit": "sigma_x_limit",
    "sigmaY_limit": "sigma_y_limit",
    "cropping_box_key": "cropping_bbox_key",
}
"""New names of arguments whose values mean the same. A transform that still has the old name keeps it."""
_PAIRS = {
    "quality_range": ("quality_lower", "quality_upper"),
    "scale_range": ("scale_min", "scale_max"),
    "num_holes_range": ("min_holes", "max_holes"),
    "hole_height_range": ("min_height", "max_height"),
    "hole_width_range": ("min_width", "max_width"),
    "unit_size_range": ("unit_size_min", "unit_size_max"),
    "holes_number_xy": ("holes_number_x", "holes_number_y"),
    "shift_xy": ("shift_x", "shift_y"),
    "fog_coef_range": ("fog_coef_lower", "fog_coef_upper"),
    "slant_range": ("slant_lower", "slant_upper"),
    "num_shadows_limit": ("num_shadows_lower", "num_shadows_upper"),
    "snow_point_range": ("snow_point_lower", "snow_point_upper"),
    "angle_range": ("angle_lower", "angle_upper"),
    "num_flare_circles_range": ("num_flare_circles_lower", "num_flare_circles_upper"),
    "size": ("height", "width"),
}
"""New arguments that hold two old ones."""
_BORDERS = {"constant": 0, "edge": 1, "symmetric": 2, "wrap": 3, "reflect": 4}  # of skimage, as OpenCV's numbers
_COMPRESSIONS = {0: "jpeg", 1: "webp"}
_SELECTIONS = ("SomeOf", "RandomOrder")
_FORCING = (*_SELECTIONS, "OneOf", "OneOrOther")  # apply what they select, whatever its own probability


def written_by(document: Any) -> Version | None:
    """The version of albumentations that wrote a policy; None where the file doesn't say."""
    try:
        return Version(document["__version__"])
    except (InvalidVersion, KeyError, TypeError):
        return None


def modernised(name: str, arguments: Mapping[str, Any], known: set[str], version: Version | None) -> Arguments:
    """The arguments of a transform under the names of the installed version.

    known: the arguments that its constructor takes now. Raises ValueError, with a sentence's end, for one that it can't
    honour. Arguments of unknown names are left for the caller to refuse.
    """
    made = dict(arguments)
    if made.pop("always_apply", None):
        made["p"] = 1.0
    if name in _CHANGES:
        _CHANGES[name](made)
    if version is not None and version < Version("2.0.0"):
        _restore(name, made, version)
    for new, pair in _PAIRS.items():
        if new in known and not known.intersection(pair) and made.keys() & set(pair):
            _join(made, new, pair)
    for old, new in _RENAMED.items():
        if old in made and old not in known and new in known:
            value = made.pop(old)
            if value is not None:
                made[new] = value
    return made


def _restore(name: str, made: Arguments, version: Version) -> None:
    """What other versions did with the same arguments, seen on their images."""
    if name == "ElasticTransform":
        made.setdefault("noise_distribution", "uniform")
    if name == "Affine" and version < Version("1.4.19") and isinstance(shear := made.get("shear"), dict):
        axes = ("x", "y") if version >= Version("1.4.15") else ("x",)  # along which images leant the other way
        made["shear"] = shear | {axis: [-each for each in reversed(shear[axis])] for axis in axes if axis in shear}


def replaced(name: str, arguments: Arguments) -> Arguments | None:
    """For a transform that the installed version lacks, the tree that does the same; None where nothing does."""
    common: Arguments = {each: arguments[each] for each in ("p", "always_apply") if each in arguments}
    if name == "Flip":
        flips = [_of("HorizontalFlip"), _of("VerticalFlip")]
        return {
            "__class_fullname__": "OneOf",
            **common,
            "transforms": [*flips, _of("Sequential") | {"transforms": flips}],
        }
    if name in ("RandomBrightness", "RandomContrast"):
        limits = {"brightness_limit": 0.0, "contrast_limit": 0.0}
        limits["brightness_limit" if name == "RandomBrightness" else "contrast_limit"] = arguments.get("limit", 0.2)
        return {"__class_fullname__": "RandomBrightnessContrast", **common, **limits}
    if name == "JpegCompression":
        return {**arguments, "__class_fullname__": "ImageCompression", "compression_type": "jpeg"}
    return None


def forced(name: str, transforms: list[Any], version: Version | None) -> list[Any]:
    """The transforms in one that selects some of them, with the probabilities that have the old meaning now.

    Up to 2.0.0 the probabilities in SomeOf were weights of the selection, and what was selected was always applied. Now
    all have the same chance to be selected, and are then applied with their probability.
    """
    if name not in _FORCING or not all(isinstance(each, dict) for each in transforms):
        return transforms
    plain = [{key: value for key, value in each.items() if key != "always_apply"} for each in transforms]
    if name not in _SELECTIONS or version is None or version > Version("2.0.0"):
        return plain
    if len({each.get("p") for each in plain}) > 1:
        raise ValueError("selects its transforms by different probabilities")
    return [{**each, "p": 1.0} for each in plain]


def _of(name: str) -> Arguments:
    return {"__class_fullname__": name, "p": 1.0}


def _join(made: Arguments, new: str, pair: tuple[str, str]) -> None:
    """Two old arguments into one new one; where both are None its default holds, and a missing lower one is equal."""
    low, high = (made.pop(each, None) for each in pair)
    if high is None and low is None:
        return
    if high is None or (low is None and pair[0].startswith("holes_number")):
        raise ValueError(f"has only one of {pair[0]} and {pair[1]}")
    made[new] = [high if low is None else low, high]


def _include_largest(made: Arguments) -> None:
    """GridDropout: the largest size of a unit could be drawn; now it is the first that can't."""
    if (largest := made.get("unit_size_max")) is not None:
        made["unit_size_max"] = largest + 1


def _change_variance(made: Arguments) -> None:
    """GaussNoise: a variance and a mean in levels of 0..255, now deviation and mean in shares of 255."""
    if (limits := made.pop("var_limit", None)) is not None:
        low, high = limits if isinstance(limits, list) else (0, limits)
        made["std_range"] = [math.sqrt(low) / 255, math.sqrt(high) / 255]
    if (mean := made.pop("mean", None)) is not None:
        made["mean_range"] = [mean / 255, mean / 255]


def _change_threshold(made: Arguments) -> None:
    """Solarize: a threshold in levels of 0..255, now in shares of 255."""
    if (threshold := made.pop("threshold", None)) is not None:
        low, high = threshold if isinstance(threshold, list) else (threshold, threshold)
        made["threshold_range"] = [low / 255, high / 255]


def _drop_shift(made: Arguments) -> None:
    """OpticalDistortion: a shift in whole pixels, which rounded to 0 for the usual 0.05."""
    limits = made.pop("shift_limit", None) or 0
    if max(abs(each) for each in (limits if isinstance(limits, list) else [limits])) > 0.5:
        raise ValueError(f"shifts by up to {limits} pixels (shift_limit)")


def _drop_affine(made: Arguments) -> None:
    """ElasticTransform: a random affine map before the distortion."""
    if alpha := made.pop("alpha_affine", None):
        raise ValueError(f"moves the corners by up to {alpha} pixels first (alpha_affine)")


def _change_border(made: Arguments) -> None:
    """PiecewiseAffine: skimage's word for the border."""
    made.pop("keypoints_threshold", None)  # of keypoints only
    if isinstance(mode := made.get("mode"), str):
        made["mode"] = _BORDERS.get(mode, mode)


def _change_interpolation(made: Arguments) -> None:
    """Downscale: one number, or one for each direction."""
    if (interpolation := made.pop("interpolation", None)) is not None:
        pair = interpolation if isinstance(interpolation, dict) else {}
        made["interpolation_pair"] = {
            "downscale": pair.get("downscale", pair.get("down", interpolation)),
            "upscale": pair.get("upscale", pair.get("up", interpolation)),
        }


def _change_compression(made: Arguments) -> None:
    if isinstance(kind := made.get("compression_type"), int):
        made["compression_type"] = _COMPRESSIONS.get(kind, kind)


def _change_rain(made: Arguments) -> None:
    if "rain_type" in made and made["rain_type"] is None:
        made["rain_type"] = "default"


def _change_spatter(made: Arguments) -> None:
    """Spatter: a list of modes to choose from, with the colour of each; now one."""
    if isinstance(modes := made.get("mode"), list):
        if len(modes) != 1:
            raise ValueError("chooses one of several modes")
        (made["mode"],) = modes
    if isinstance(colors := made.get("color"), dict):
        made["color"] = colors.get(made["mode"])


def _refuse_several_fills(made: Arguments) -> None:
    """CropAndPad: of several values one was drawn; now they are the channels'."""
    for name in ("pad_cval", "pad_cval_mask"):
        if isinstance(made.get(name), list):
            raise ValueError(f"draws one of several fills ({name})")


def _drop_eps(made: Arguments) -> None:
    made.pop("eps", None)  # of RandomGamma: had no effect


_CHANGES: dict[str, Callable[[Arguments], None]] = {
    "GridDropout": _include_largest,
    "GaussNoise": _change_variance,
    "Solarize": _change_threshold,
    "OpticalDistortion": _drop_shift,
    "ElasticTransform": _drop_affine,
    "PiecewiseAffine": _change_border,
    "Downscale": _change_interpolation,
    "ImageCompression": _change_compression,
    "RandomRain": _change_rain,
    "Spatter": _change_spatter,
    "CropAndPad": _refuse_several_fills,
    "RandomGamma": _drop_eps,
}
"""Changes beyond a name, by transform. Each edits the arguments."""
