"""A policy carried out image by image with albumentations: the reference, and the way to a policy of one's own.

Made for the worker processes of a loader. All random draws of an image come from two generators that are set
anew for it, so they depend on the seed and the image's position alone, whichever process makes it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_cli.core.augment.batched import EvalTransform
from cifar_cli.core.augment.policy import CoarseDropout, ColorJitter, HorizontalFlip, PadCrop, Policy, Step
from cifar_cli.core.augment.policy_file import load_policy
from cifar_cli.core.augment.quiet import A
from cifar_cli.errors import ConfigError

__all__ = ["PerImagePipeline", "compose", "load_policy", "transform_of"]

Pixels = NDArray[np.uint8]
_TRIALS = 16  # images that a policy from a file is tried on before anything relies on it


def transform_of(step: Step, img_size: int) -> A.BasicTransform | A.BaseCompose:
    """The albumentations transform that does what `step` (already scaled to `img_size`) says."""
    match step:
        case PadCrop(padded=padded, p=p):
            pad = A.PadIfNeeded(
                min_height=padded, min_width=padded, position="center", border_mode=cv2.BORDER_CONSTANT, fill=0, p=1.0
            )
            return A.Sequential([pad, A.RandomCrop(height=img_size, width=img_size, p=1.0)], p=p)
        case HorizontalFlip(p=p):
            return A.HorizontalFlip(p=p)
        case ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, p=p):
            return A.ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, p=p)
        case CoarseDropout(smallest=smallest, largest=largest, fill=fill, p=p):
            sides = (smallest, largest)
            return A.CoarseDropout(
                num_holes_range=(1, 1), hole_height_range=sides, hole_width_range=sides, fill=fill, p=p
            )


def compose(policy: Policy, img_size: int) -> A.Compose:
    """One transform for each step of the policy, in its order, for images of `img_size`."""
    return A.Compose([transform_of(step, img_size) for step in policy.scaled(img_size)], is_check_shapes=False)


class PerImagePipeline:
    """A policy, then normalisation, image by image on the CPU.

    policy: a declared one, or what `load_policy` gave. Called with uint8 images [B, H, W, 3] and a seed;
    gives float32 [B, 3, S, S], channels last in memory. first: the first image's position in its batch.
    Raises ConfigError for a policy that can't be carried out on uint8 RGB images, or changes their size.
    """

    def __init__(self, policy: Policy | A.Compose, img_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.policy = policy
        self.normalise = EvalTransform(img_size, mean, std)
        self.compose = compose(policy, img_size) if isinstance(policy, Policy) else policy
        # One pair of generators for all transforms. `set_random_seed` would give each transform its own pair with
        # one and the same seed, and a flip would fire exactly when a colour jitter of equal probability does.
        self._bits = np.random.Philox(key=0)
        self._fresh = self._bits.state
        self._numpy, self._python = np.random.Generator(self._bits), random.Random()
        self.compose.set_random_state(self._numpy, self._python)
        if not isinstance(policy, Policy):
            self(torch.full((_TRIALS, img_size, img_size, 3), 128, dtype=torch.uint8), seed=0)

    def __call__(self, images_BHWC: Tensor, *, seed: int, first: int = 0, of: int | None = None) -> Tensor:
        resized = self.normalise.resize(images_BHWC).numpy()
        made = [self._one(image, seed, first + position) for position, image in enumerate(resized)]
        return self.normalise(torch.from_numpy(np.stack(made)) if made else torch.from_numpy(resized))

    def trace(self, images_BHWC: Tensor, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        """What a call does, step by step: after each one the uint8 images, and which of them it fired on.

        Gives one (uint8 [B, S, S, 3], bool [B]) for each transform of the policy. Images that have another size or
        type between two steps of a user's policy are brought to this form, to be looked at.
        """
        steps = self.compose.transforms
        images = list(self.normalise.resize(images_BHWC).numpy())
        shown: list[list[Pixels]] = [[] for _ in steps]
        fired = torch.zeros(len(steps), len(images), dtype=torch.bool)
        for position, image in enumerate(images):
            self._set_generators(seed, position)
            self._python.random()  # the one that Compose draws for its own probability, which is 1
            for number, step in enumerate(steps):
                _forget(step)
                image = step(image=image)["image"]
                shown[number].append(_to_look_at(image, self.normalise.img_size))
                fired[number, position] = _fired(step)
            self._checked(image)
        return [(torch.from_numpy(np.stack(after)), fired[number]) for number, after in enumerate(shown)]

    def _one(self, image: Pixels, seed: int, position: int) -> Pixels:
        self._set_generators(seed, position)
        try:
            made = self.compose(image=image)["image"]
        except Exception as error:  # a user's transforms may fail in any way
            if isinstance(self.policy, Policy):
                raise
            raise ConfigError(
                f"the augmentation policy fails on an RGB image of {self.normalise.img_size} pixels ({_brief(error)})",
                remedy="leave out the transforms that need masks, boxes or other inputs than one image",
            ) from error
        return self._checked(made)

    def _checked(self, image: Pixels) -> Pixels:
        size = self.normalise.img_size
        if image.shape != (size, size, 3) or image.dtype != np.uint8:
            kind = "×".join(str(length) for length in image.shape)
            raise ConfigError(
                f"the augmentation policy makes a {kind} {image.dtype} image of a {size}×{size}×3 uint8 one",
                remedy=f"end it with Resize(height={size}, width={size}), and leave conversions of type and "
                "normalisation out: they are done afterwards",
            )
        return image

    def _set_generators(self, seed: int, position: int) -> None:
        """Philox is made for this: every key (here seed and position) is a stream of its own."""
        self._fresh["state"]["key"][:] = seed, position
        self._bits.state = self._fresh
        self._python.seed(int(self._numpy.integers(1 << 63)))


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _to_look_at(image: NDArray[Any], size: int) -> Pixels:
    """An image between two steps as uint8 [S, S, 3]; floats are taken as 0..1."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if image.shape[:2] != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.broadcast_to(image.reshape(size, size, -1), (size, size, 3)))


def _forget(transform: A.BasicTransform | A.BaseCompose) -> None:
    if isinstance(transform, A.BaseCompose):
        for inner in transform.transforms:
            _forget(inner)
    else:
        transform.params = {}


def _fired(transform: A.BasicTransform | A.BaseCompose) -> bool:
    """Whether the last call did anything; transforms keep the parameters of a call that did."""
    if isinstance(transform, A.BaseCompose):
        return any(_fired(inner) for inner in transform.transforms)
    return bool(transform.params)
