"""RandAugment of complete batches: images that drew the same operation go through torchvision together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from cifar_cli.core.augment.draws import OPERATIONS, Draw, Planned, Size
from cifar_cli.core.augment.policy import RandAugment

STRONGEST = 30  # the magnitude at which an operation is strongest
MOVED_SHARE = 150 / 331  # of a side, at the strongest

Operation = Callable[[Tensor, float], Tensor]


def rand_augment(step: RandAugment, drawn: Draw, size: Size, device: torch.device) -> Planned:
    """Apply the drawn operations to the images that the step fires on; uint8 [B, H, W, 3] to the same."""
    signs = 1 - 2 * drawn.values["negative"].long()
    needs: list[Tensor] = []
    turns: list[list[tuple[Operation, float]]] = []  # the operation and its strength, of each group of rows
    for turn in range(step.operations):
        chosen = torch.where(drawn.fires_B, drawn.values["operation"][:, turn], -1)
        untouched = (chosen == -1).nonzero().squeeze(1)
        groups = [(untouched, _kept, 0.0), *_groups(chosen, signs[:, turn], step.magnitude, size[0])]
        rows = [group[0] for group in groups]
        needs += [*rows, torch.cat(rows).argsort()]
        turns.append([group[1:] for group in groups])

    def run(images_BHWC: Tensor, *needed: Tensor) -> Tensor:
        images_BCHW, there = images_BHWC.permute(0, 3, 1, 2), iter(needed)
        for groups in turns:
            made = [apply(images_BCHW.index_select(0, next(there)), magnitude) for apply, magnitude in groups]
            images_BCHW = torch.cat(made).index_select(0, next(there))
        return images_BCHW.permute(0, 2, 3, 1).contiguous()

    return Planned(needs, run)


def _kept(images: Tensor, _: float) -> Tensor:
    return images


def _groups(chosen_B: Tensor, signs_B: Tensor, magnitude: int, size: int) -> Iterator[tuple[Tensor, Operation, float]]:
    """The rows that drew the same operation with the same sign, the operation and its signed strength."""
    for number, (apply, strength, signed) in enumerate(operations(magnitude, size)):
        for sign in (1, -1) if signed else (0,):
            rows = ((chosen_B == number) & ((signs_B == sign) | (not signed))).nonzero().squeeze(1)
            if len(rows):
                yield rows, apply, strength * (sign or 1)


@cache
def operations(magnitude: int, size: int) -> tuple[tuple[Operation, float, bool], ...]:
    """Each operation with its strength at a magnitude, and whether a random sign changes its direction.

    The order and the strengths are those of torchvision's v2.RandAugment.
    """
    from torchvision.transforms.v2 import functional as F

    def affine(images: Tensor, **changes: Any) -> Tensor:
        still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        moved: Tensor = F.affine(images, **still | changes)
        return moved

    def degrees(slope: float) -> float:
        return math.degrees(math.atan(slope))

    share = magnitude / STRONGEST
    moved, factor = float(torch.tensor(MOVED_SHARE * size * share)), 0.9 * share
    table: tuple[tuple[Operation, float, bool], ...] = (
        (_kept, 0.0, False),
        (lambda images, slope: affine(images, shear=[degrees(slope), 0.0], center=[0, 0]), 0.3 * share, True),
        (lambda images, slope: affine(images, shear=[0.0, degrees(slope)], center=[0, 0]), 0.3 * share, True),
        (lambda images, pixels: affine(images, translate=[int(pixels), 0]), moved, True),
        (lambda images, pixels: affine(images, translate=[0, int(pixels)]), moved, True),
        (lambda images, angle: F.rotate(images, angle=angle), 30 * share, True),
        (lambda images, more: F.adjust_brightness(images, brightness_factor=1 + more), factor, True),
        (lambda images, more: F.adjust_saturation(images, saturation_factor=1 + more), factor, True),
        (lambda images, more: F.adjust_contrast(images, contrast_factor=1 + more), factor, True),
        (lambda images, more: F.adjust_sharpness(images, sharpness_factor=1 + more), factor, True),
        (lambda images, bits: F.posterize(images, bits=int(bits)), float(8 - round(4 * share)), False),
        (lambda images, level: F.solarize(images, threshold=255 * level), 1 - share, False),
        (lambda images, _: F.autocontrast(images), 0.0, False),
        (lambda images, _: F.equalize(images), 0.0, False),
    )
    assert len(table) == OPERATIONS
    return table
