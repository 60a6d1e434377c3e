"""Policy files that ask for much time or memory, or are no plain documents, are refused in a sentence."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import albumentations as A
import pytest

from cifar_cli.core.augment.per_image import PerImagePipeline
from cifar_cli.core.augment.policy_file import guarded, load_policy
from cifar_cli.core.limits import MAX_POLICY_BYTES, MAX_TRIAL_SECONDS
from cifar_cli.errors import ConfigError

LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(
    f"m{level}: &m{level} {{<<: [*m{level - 1}, *m{level - 1}]}}\n" for level in range(1, 60)
)
FLIP = '{"__class_fullname__": "HorizontalFlip", "p": 0.5}'
HEAD = '{"transform": '
TOO_LARGE = "is too large for a policy"


def nested(depth: int) -> str:
    compose = '{"__class_fullname__": "Sequential", "p": 1.0, "transforms": ['
    return HEAD + compose * depth + FLIP + "]}" * depth + "}"


def step(name: str, arguments: str) -> str:
    return f'{HEAD}{{"__class_fullname__": "{name}", "p": 1.0, {arguments}}}}}'


FILES = {
    "billion laughs": (LAUGHS, TOO_LARGE),
    "merges": (MERGES, "is neither JSON nor YAML"),
    "itself": ("transform: &t\n  __class_fullname__: Compose\n  p: 1.0\n  transforms: [*t]\n", TOO_LARGE),
    "400 deep": (nested(400), TOO_LARGE),
    "100,000 brackets": ("[" * 100_000, "is neither JSON nor YAML"),
    "10,000 steps": (f'{HEAD}{{"transforms": [{", ".join([FLIP] * 10_000)}]}}}}', "it has more than 131,072 bytes"),
    "2,000 steps": (f'{HEAD}{{"transforms": [{", ".join([FLIP] * 2_000)}]}}}}', TOO_LARGE),
    "a long file": (" " * (MAX_POLICY_BYTES + 1), "it has more than 131,072 bytes"),
    "a long number": ("transform: " + "9" * 5000, "is neither JSON nor YAML"),
    "a date": ("transform: 2001-99-99", "is neither JSON nor YAML"),
    "an empty int": ("transform: !!int ''", "is neither JSON nor YAML"),
    "a date inside": ("transform: 2001-09-09", "contains date values"),
    "number keys": ("transform: {1: 2}", "contains dict values"),
    "bytes": ("transform: !!binary aGVsbG8=", "contains bytes values"),
    "a set": ("transform: !!set {a, b}", "contains set values"),
    "NaN": (step("Blur", '"blur_limit": NaN'), "sets blur_limit to nan"),
    "a large size": (step("Resize", '"height": 30000, "width": 30000'), "sets width to 30000, which would take"),
    "a large kernel": (step("MotionBlur", '"blur_limit": [3, 5001]'), "sets blur_limit to 5001, which would take"),
    "a large factor": (step("RandomScale", '"scale_limit": [900, 900]'), "sets scale_limit to 900, which would take"),
    "a large grid": (step("RandomGridShuffle", '"grid": [1000, 1000]'), "sets grid to 1000, which would take"),
    "a small step": (step("ZoomBlur", '"step_factor": [1e-9, 1e-9]'), "sets step_factor to 1e-09, which would take"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_policy_that_asks_for_too_much_is_refused_before_it_is_built(name: str, tmp_path: Path) -> None:
    text, message = FILES[name]
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert message in caught.value.what
    assert caught.value.remedy


def test_a_pipe_is_no_policy(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.yaml")
    with pytest.raises(ConfigError, match="it is a pipe, a device or another special file"):
        load_policy(tmp_path / "policy.yaml")


def test_a_policy_whose_images_grow_step_by_step_is_refused_in_its_trial() -> None:
    growing = A.Compose([A.RandomScale(scale_limit=(5, 5), p=1.0) for _ in range(9)], is_check_shapes=False)
    with pytest.raises(ConfigError, match="RandomScale makes 47,775,744 pixels, more than 16,000,000"):
        PerImagePipeline(growing, 32, (0.0,) * 3, (1.0,) * 3)


def test_a_slow_policy_is_refused_in_its_trial() -> None:
    policy, seconds = A.Compose([A.HorizontalFlip(p=1.0)]), count(0, MAX_TRIAL_SECONDS)
    image = pytest.importorskip("numpy").zeros((8, 8, 3), dtype="uint8")
    with guarded(policy, clock=lambda: float(next(seconds))):
        policy(image=image)
        with pytest.raises(ValueError, match="HorizontalFlip is slow"):
            policy(image=image)
    assert policy(image=image)["image"].shape == (8, 8, 3)
