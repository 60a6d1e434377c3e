"""Random parameters of the batched pipeline, drawn on the CPU from the seed alone: the same for every device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cifar_cli.core.augment.policy import (
    AlternatingFlip,
    CoarseDropout,
    ColorJitter,
    PadCrop,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Step,
)
from cifar_cli.core.transform import BatchSlice

FACTOR_STEPS = 512
"""Factors of a colour jitter are multiples of 1/512, so that a 32-bit float multiplies a level without rounding."""
LINEAR = ("brightness", "contrast", "saturation")
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the changes of a colour jitter, as numbered in its order


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Draw:
    """The parameters drawn for one step, one row per image."""

    fires_B: Tensor
    """bool: whether the step is applied to the image."""
    values: dict[str, Tensor]
    """The step's parameters by name."""

    @property
    def firing(self) -> Tensor:
        """Positions of the images that the step is applied to, int64."""
        return self.fires_B.nonzero().squeeze(1)


Size = tuple[int, int]
"""Height and width of images in pixels."""


class Planned(NamedTuple):
    """What a step does to some images, in two parts, so that all steps of a policy share one upload."""

    needs: list[Tensor]
    """Made from the draws on the host, needed on the device."""
    run: Callable[..., Tensor]
    """Takes the images and what it needs, on the device; returns the images."""


_COLUMNS = {PadCrop: 2, ColorJitter: 8, CoarseDropout: 4}  # uniform numbers a step needs, besides one for firing
ERASING_TRIES = 10  # rectangles that may turn out larger than the image
CROP_TRIES = 10  # rectangles that may not fit into the image
OPERATIONS = 14  # that RandAugment chooses from


def draw(steps: Sequence[Step], slices: Sequence[BatchSlice], img_size: int) -> list[Draw]:
    """Draw the parameters of every step for the images of the slices, one slice after another.

    A slice's draws are a function of the slice, the steps and the image size alone.
    """
    uniform = torch.cat([_uniform(part, sum(map(_columns, steps))) for part in slices])
    take = iter(uniform.unbind(1))

    def fires(step: Step) -> Tensor:
        if isinstance(step, AlternatingFlip):
            return torch.cat([_alternating(part) for part in slices])
        return next(take) < step.p

    return [Draw(fires_B=fires(step), values=_values(step, img_size, take)) for step in steps]


def _columns(step: Step) -> int:
    match step:
        case AlternatingFlip():
            return 0
        case RandAugment(operations=operations):
            return 1 + 2 * operations
        case RandomErasing():
            return 1 + 2 * ERASING_TRIES + 2
        case RandomResizedCrop():
            return 1 + 2 * CROP_TRIES + 2
    return 1 + _COLUMNS.get(type(step), 0)


def _alternating(part: BatchSlice) -> Tensor:
    """bool [count]: half of all images in even epochs, the others in odd ones.

    The bit of an image is drawn by hashing, because a slice holds few of all images. Source of the multipliers: the
    finaliser of SplitMix64 (Steele, Lea & Flood 2014); int64 products wrap.
    """
    images = torch.arange(part.first, part.first + part.count) if part.images_B is None else part.images_B
    state = (images + 1) * 0x1E3779B97F4A7C15 + part.run_seed
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return ((state >> 40) + part.epoch) % 2 == 1


def _uniform(part: BatchSlice, columns: int) -> Tensor:
    """Uniform numbers of the slice's images, float64 [count, columns]; drawn for the complete batch, then cut."""
    generator = torch.Generator().manual_seed(part.seed)
    batch = torch.rand(part.total, columns, generator=generator, dtype=torch.float64)
    return batch[part.first : part.first + part.count]


def _values(step: Step, img_size: int, uniform: Iterator[Tensor]) -> dict[str, Tensor]:
    match step:
        case PadCrop():
            room = step.padded - img_size
            return {side: _integers(next(uniform), 0, room) for side in ("top", "left")}
        case ColorJitter():
            values = {name: _factors(next(uniform), getattr(step, name)) for name in LINEAR}
            values["hue"] = (next(uniform) * 2 - 1) * step.hue
            values["order"] = torch.stack([next(uniform) for _ in range(4)], dim=1).argsort(dim=1)
            return values
        case CoarseDropout():
            height, width = (_integers(next(uniform), step.smallest, step.largest) for _ in range(2))
            top, left = (_integers(next(uniform), 0, img_size - side) for side in (height, width))
            return {"height": height, "width": width, "top": top, "left": left}
        case RandAugment(operations=operations):
            chosen = torch.stack([_integers(next(uniform), 0, OPERATIONS - 1) for _ in range(operations)], dim=1)
            negative = torch.stack([next(uniform) <= 0.5 for _ in range(operations)], dim=1)
            return {"operation": chosen, "negative": negative}
        case RandomErasing():
            return _erased(step, img_size, uniform)
        case RandomResizedCrop():
            tries = torch.stack([next(uniform) for _ in range(2 * CROP_TRIES)], dim=1)
            return {
                "area": step.smallest + (1 - step.smallest) * tries[:, ::2],
                "ratio": torch.exp((2 * tries[:, 1::2] - 1) * math.log(step.widest)),
                "top": next(uniform),
                "left": next(uniform),
            }
    return {}


def crop_boxes(step: RandomResizedCrop, drawn: Draw, height_B: Tensor, width_B: Tensor) -> Tensor:
    """The rectangles of a RandomResizedCrop in images of these sizes: top, left, height, width; int64 [B, 4].

    The first of CROP_TRIES that fits; else the largest one in the middle whose shape is allowed, as torchvision does.
    """
    height_B, width_B = height_B.double(), width_B.double()
    area_BT = (height_B * width_B)[:, None] * drawn.values["area"]
    width_BT = (area_BT * drawn.values["ratio"]).sqrt().round()
    height_BT = (area_BT / drawn.values["ratio"]).sqrt().round()
    fits_BT = (width_BT >= 1) & (width_BT <= width_B[:, None]) & (height_BT >= 1) & (height_BT <= height_B[:, None])
    first_B1 = fits_BT.long().argmax(dim=1, keepdim=True)
    fits_B = fits_BT.any(dim=1)
    widest = torch.minimum(width_B, (height_B * step.widest).round().clamp(min=1))
    highest = torch.minimum(height_B, (width_B * step.widest).round().clamp(min=1))
    width = torch.where(fits_B, width_BT.gather(1, first_B1).squeeze(1), widest).long()
    height = torch.where(fits_B, height_BT.gather(1, first_B1).squeeze(1), highest).long()
    spare = {"top": height_B.long() - height, "left": width_B.long() - width}
    top, left = (torch.where(fits_B, _integers(drawn.values[key], 0, room), room // 2) for key, room in spare.items())
    return torch.stack([top, left, height, width], dim=1)


def _erased(step: RandomErasing, img_size: int, uniform: Iterator[Tensor]) -> dict[str, Tensor]:
    """The first rectangle of ERASING_TRIES that is smaller than the image; none, of size 0, where all are larger."""
    tries = torch.stack([next(uniform) for _ in range(2 * ERASING_TRIES)], dim=1)
    area_BT = img_size**2 * (step.smallest + (step.largest - step.smallest) * tries[:, ::2])
    ratio_BT = torch.exp((2 * tries[:, 1::2] - 1) * math.log(step.steepest))
    height_BT, width_BT = (area_BT * ratio_BT).sqrt().round().long(), (area_BT / ratio_BT).sqrt().round().long()
    fits_BT = (height_BT < img_size) & (width_BT < img_size)
    first_B1 = fits_BT.long().argmax(dim=1, keepdim=True)
    height, width = ((each * fits_BT).gather(1, first_B1).squeeze(1) for each in (height_BT, width_BT))
    top, left = (_integers(next(uniform), 0, img_size - side) for side in (height, width))
    return {"height": height, "width": width, "top": top, "left": left}


def _integers(u_B: Tensor, low: int, high: Tensor | int) -> Tensor:
    """Uniform integers low..high, both included, from uniform floats in 0..1."""
    return (u_B * (high - low + 1)).long().add_(low).clamp_(max=high)


def _factors(u_B: Tensor, reach: float) -> Tensor:
    """Uniform in 1 ± reach and at least 0, in odd multiples of 1 / FACTOR_STEPS.

    With an odd multiple a blend of two levels never lies half-way between two integers, where libraries and
    processors round differently.
    """
    half = int(min(reach, 1.0) * FACTOR_STEPS + 1) // 2
    odd = 2 * _integers(u_B, 0, 2 * half - 1) - (2 * half - 1)
    return 1 + odd.double() / FACTOR_STEPS if half else torch.ones_like(u_B)
