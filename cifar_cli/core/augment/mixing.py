"""Mixup and cutmix: pairs of normalised images, and the share of the labels that each image keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cifar_cli.core.augment.policy import Mix


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchMixer:
    """A `Mixer`. Its draws are a function of the seed alone, so the slices of a batch are mixed alike."""

    mix: Mix

    def __call__(self, images_BCHW: Tensor, others_BCHW: Tensor, *, seed: int) -> tuple[Tensor, float]:
        random = np.random.Generator(np.random.Philox(seed))
        kept = float(random.beta(self.mix.alpha, self.mix.alpha))
        if self.mix.kind == "mixup":
            return others_BCHW.mul(1 - kept).add_(images_BCHW.mul(kept)), kept
        return cut_mixed(images_BCHW, others_BCHW, kept, across=random.random(), down=random.random())


def cut_mixed(
    images_BCHW: Tensor, others_BCHW: Tensor, kept: float, *, across: float, down: float
) -> tuple[Tensor, float]:
    """Replace one rectangle, cut off at the image's edges, and return the share of the pixels that stays.

    kept: the share before it is cut off. across, down: 0 to 1, where its middle is.
    """
    height, width = images_BCHW.shape[2:]
    half = 0.5 * math.sqrt(1 - kept)
    left, right = _cut(int(across * width), int(half * width), width)
    top, bottom = _cut(int(down * height), int(half * height), height)
    mixed = images_BCHW.clone()
    mixed[:, :, top:bottom, left:right] = others_BCHW[:, :, top:bottom, left:right]
    return mixed, 1 - (right - left) * (bottom - top) / (width * height)


def _cut(middle: int, half: int, side: int) -> tuple[int, int]:
    return max(middle - half, 0), min(middle + half, side)


def mixer_of(mix: Mix | None) -> BatchMixer | None:
    """The mixer of a policy; None where it mixes nothing."""
    return None if mix is None else BatchMixer(mix=mix)
