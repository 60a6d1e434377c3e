"""The albumentations pipeline: applies a policy image by image. It is the reference, and runs users' own policies.

It runs in the worker processes of a loader. All random draws of an image come from two generators that are
reseeded for it, so they depend on the seed and the image's position in the batch, not on the process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_cli.core.augment.batched import EvalTransform
from cifar_cli.core.augment.offline import A
from cifar_cli.core.augment.policy import (
    CoarseDropout,
    ColorJitter,
    HorizontalFlip,
    PadCrop,
    Policy,
    Step,
    require_pipeline,
)
from cifar_cli.core.augment.policy_file import guarded, leaves_of, load_policy
from cifar_cli.core.transform import BatchSlice
from cifar_cli.errors import ConfigError

__all__ = ["PerImagePipeline", "compose", "load_policy", "transform_of"]

Pixels = NDArray[np.uint8]
_TRIAL_IMAGES = 16  # a policy from a file is applied to this many images when the pipeline is made


def transform_of(step: Step, img_size: int) -> A.BasicTransform | A.BaseCompose:
    """The albumentations transform of a step that is already scaled to `img_size`."""
    match step:
        case PadCrop(padded=padded, border=border, p=p):
            mode = cv2.BORDER_CONSTANT if border == "zeros" else cv2.BORDER_REFLECT_101
            pad = A.PadIfNeeded(min_height=padded, min_width=padded, position="center", border_mode=mode, fill=0, p=1.0)
            return A.Sequential([pad, A.RandomCrop(height=img_size, width=img_size, p=1.0)], p=p)
        case HorizontalFlip():
            return A.HorizontalFlip(**asdict(step))
        case ColorJitter():
            return A.ColorJitter(**asdict(step))
        case CoarseDropout(smallest=smallest, largest=largest, fill=fill, p=p):
            sides = (smallest, largest)
            return A.CoarseDropout(
                num_holes_range=(1, 1), hole_height_range=sides, hole_width_range=sides, fill=fill, p=p
            )
    raise AssertionError(f"{step} needs complete batches, which `require_pipeline` checks")


def compose(policy: Policy, img_size: int) -> A.Compose:
    """The policy for images of `img_size`: one transform for each step, in order.

    Raises ConfigError for a policy that needs complete batches.
    """
    require_pipeline(policy, "albumentations")
    return A.Compose([transform_of(step, img_size) for step in policy.scaled(img_size)], is_check_shapes=False)


class PerImagePipeline:
    """A `Transform` that applies a policy, then normalises, image by image on the CPU.

    policy: a declared one, or the result of `load_policy`. Returns float32 [B, 3, S, S], channels last in memory.
    Raises ConfigError for a policy that fails on uint8 RGB images or changes their size.
    """

    images_per_call = 1

    def __init__(self, policy: Policy | A.Compose, img_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.policy = policy
        self.normalise = EvalTransform(img_size, mean, std)
        self.compose = compose(policy, img_size) if isinstance(policy, Policy) else policy
        # One pair of generators for all transforms. `set_random_seed` would give each transform its own pair with
        # the same seed, and a flip would fire exactly when a colour jitter of equal probability does.
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self._numpy, self._python = np.random.Generator(self._bits), random.Random()
        self.compose.set_random_state(self._numpy, self._python)
        if not isinstance(policy, Policy):
            trial = torch.full((_TRIAL_IMAGES, img_size, img_size, 3), 128, dtype=torch.uint8)
            with guarded(self.compose):
                self(trial, [BatchSlice.complete(seed=0, count=_TRIAL_IMAGES)])

    def __call__(self, images_BHWC: Tensor, slices: Sequence[BatchSlice]) -> Tensor:
        resized = self.normalise.resize(images_BHWC).numpy()
        places = [(part.seed, part.first + offset) for part in slices for offset in range(part.count)]
        made = [self._one(image, seed, position) for image, (seed, position) in zip(resized, places, strict=True)]
        return self.normalise(torch.from_numpy(np.stack(made)) if made else torch.from_numpy(resized))

    def trace(self, images_BHWC: Tensor, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        """Apply the policy step by step to one batch.

        Returns, for each transform, the images after it (uint8 [B, S, S, 3]) and which images it fired on (bool [B]).
        A user's policy may change size or dtype between two transforms; such images are converted for display.
        """
        steps = self.compose.transforms
        images = list(self.normalise.resize(images_BHWC).numpy())
        shown: list[list[Pixels]] = [[] for _ in steps]
        fired = torch.zeros(len(steps), len(images), dtype=torch.bool)
        for position, image in enumerate(images):
            self._reseed(seed, position)
            self._python.random()  # Compose draws one number for its own probability, which is 1
            for number, step in enumerate(steps):
                for leaf in leaves_of(step):
                    leaf.params = {}
                image = step(image=image)["image"]
                shown[number].append(_for_display(image, self.normalise.img_size))
                fired[number, position] = any(leaf.params for leaf in leaves_of(step))
            self._checked(image)
        return [(torch.from_numpy(np.stack(after)), fired[number]) for number, after in enumerate(shown)]

    def _one(self, image: Pixels, seed: int, position: int) -> Pixels:
        self._reseed(seed, position)
        try:
            made = self.compose(image=image)["image"]
        except Exception as error:  # a user's transforms may fail in any way
            if isinstance(self.policy, Policy):
                raise
            raise ConfigError(
                f"the augmentation policy fails on an RGB image of {self.normalise.img_size} pixels ({_brief(error)})",
                remedy="leave out transforms that need masks, boxes or other inputs besides the image",
            ) from error
        return self._checked(made)

    def _checked(self, image: Pixels) -> Pixels:
        size = self.normalise.img_size
        if image.shape != (size, size, 3) or image.dtype != np.uint8:
            kind = "×".join(str(length) for length in image.shape)
            raise ConfigError(
                f"the augmentation policy turns a {size}×{size}×3 uint8 image into a {kind} {image.dtype} image",
                remedy=_remedy(image, size),
            )
        return image

    def _reseed(self, seed: int, position: int) -> None:
        """Philox gives every key, here (seed, position), an independent stream."""
        self._state["state"]["key"][:] = seed, position
        self._bits.state = self._state
        self._python.seed(int(self._numpy.integers(1 << 63)))


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _remedy(image: NDArray[Any], size: int) -> str:
    """What makes the image of a policy's end a uint8 [size, size, 3] one, for the first thing that differs."""
    if image.dtype != np.uint8:
        return "leave out dtype conversions and normalisation: every policy is followed by them"
    if image.shape[2:] != (3,):
        return "set num_output_channels to 3 in its ToGray, or end it with ToRGB(p=1)"
    height, width = image.shape[:2]
    other = f", or pass --img-size {height}" if height == width else ""
    return f"end it with Resize(height={size}, width={size}, p=1){other}"


def _for_display(image: NDArray[Any], size: int) -> Pixels:
    """An image between two steps as uint8 [S, S, 3]; floats are read as 0..1."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if image.shape[:2] != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.broadcast_to(image.reshape(size, size, -1), (size, size, 3)))
