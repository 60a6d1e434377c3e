"""What the batched pipeline draws for each image: on the CPU and from the seed alone, so the same on every device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_cli.core.augment.policy import CoarseDropout, ColorJitter, PadCrop, Step

PARTS = 512
"""Factors of a colour jitter are whole parts of this: then 32-bit floats multiply a level without rounding."""
LINEAR = ("brightness", "contrast", "saturation")
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the numbers that a jitter's order knows its changes by


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Draw:
    """What was drawn for one step, one row per image.

    fires_B: bool, whether the step is done. values: what the step needs, by name.
    """

    fires_B: Tensor
    values: dict[str, Tensor]

    @property
    def firing(self) -> Tensor:
        """The positions of the images that the step is done on, int64."""
        return self.fires_B.nonzero().squeeze(1)


@dataclass(frozen=True, slots=True)
class Place:
    """Which images of a batch are made: positions first..first+count-1 of `of`, the whole drawn from `seed`."""

    seed: int
    first: int
    count: int
    of: int


_COLUMNS = {PadCrop: 2, ColorJitter: 8, CoarseDropout: 4}  # uniform numbers a step needs, besides one for firing


def draw(steps: Sequence[Step], count: int, img_size: int, seed: int) -> list[Draw]:
    """Draw the parameters of every step for a whole batch; a function of the arguments alone."""
    return draw_places(steps, [Place(seed, 0, count, count)], img_size)


def draw_places(steps: Sequence[Step], places: Sequence[Place], img_size: int) -> list[Draw]:
    """Draw for (slices of) several batches, one after another, as each would be drawn alone."""
    columns = sum(1 + _COLUMNS.get(type(step), 0) for step in steps)
    uniform = torch.cat([_uniform(place, columns) for place in places])
    take = iter(uniform.unbind(1))
    return [Draw(fires_B=next(take) < step.p, values=_values(step, img_size, take)) for step in steps]


def _uniform(place: Place, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(place.seed)
    whole = torch.rand(place.of, columns, generator=generator, dtype=torch.float64)
    return whole[place.first : place.first + place.count]


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
    """Uniform in 1 ± reach, but never below 0: the odd ones of the whole parts.

    An odd number of parts never puts a blend of two levels half-way between whole ones, where libraries and processors
    differ in which way they round.
    """
    half = int(min(reach, 1.0) * PARTS + 1) // 2
    odd = 2 * _integers(u_B, 0, 2 * half - 1) - (2 * half - 1)
    return 1 + odd.double() / PARTS if half else torch.ones_like(u_B)
