"""Random parameters of the batched pipeline, drawn on the CPU from the seed alone: the same for every device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_cli.core.augment.policy import CoarseDropout, ColorJitter, PadCrop, Step
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


_COLUMNS = {PadCrop: 2, ColorJitter: 8, CoarseDropout: 4}  # uniform numbers a step needs, besides one for firing


def draw(steps: Sequence[Step], slices: Sequence[BatchSlice], img_size: int) -> list[Draw]:
    """Draw the parameters of every step for the images of the slices, one slice after another.

    A slice's draws are a function of the slice, the steps and the image size alone.
    """
    columns = sum(1 + _COLUMNS.get(type(step), 0) for step in steps)
    uniform = torch.cat([_uniform(part, columns) for part in slices])
    take = iter(uniform.unbind(1))
    return [Draw(fires_B=next(take) < step.p, values=_values(step, img_size, take)) for step in steps]


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
    return {}


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
