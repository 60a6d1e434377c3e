"""Progressive resizing: a run begins with small images, which cost less, and ends with those of the full side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.training.config import TrainConfig
from cifar_cli.errors import ConfigError

PARTS = 8  # sides are multiples of an eighth of the full one: with 32 pixels 20, 24, 28
FULL_FROM = 0.75  # of the run
TRIED_STEPS = 8  # of the measurement before the plan, over which the sides of a run are spread


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The side of the training images as a function of the step.

    full: the side that evaluation sees, in pixels. initial_scale: the first side as a share of it; 1 for images that
    stay the same. Each side has an equal share of the run, up to FULL_FROM.
    Source: fast.ai's progressive resizing (2018), with the sizes and the last part at the full side as in MosaicML's
    Composer.
    """

    full: int
    initial_scale: float = 1.0

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """The sides in their order, the full one last."""
        first = max(1, round(PARTS * self.initial_scale))
        smaller = (max(1, self.full * part // PARTS) for part in range(first, PARTS))
        return (*dict.fromkeys(side for side in smaller if side < self.full), self.full)

    def side_at(self, progress: float) -> int:
        """The side at `progress` (0 to 1) of the run."""
        *smaller, full = self.sides
        place = int(max(progress, 0.0) / FULL_FROM * len(smaller))
        return smaller[place] if place < len(smaller) else full

    def side_for(self, step: int, *, steps: int, planned: bool) -> int:
        """The side at a step. Steps that are only measured have the sides of a whole run, the full one first."""
        if planned:
            return self.side_at(step / steps)
        return self.side_at(1 - (step % TRIED_STEPS + 0.5) / TRIED_STEPS)

    def cost_until(self, progress: float) -> float:
        """Share of the run's cost, by the area of its images, in the part up to `progress` (0 to 1) of its steps."""
        *smaller, full = self.sides
        span, area = FULL_FROM / max(len(smaller), 1), 0.0
        for place, side in enumerate(smaller):
            area += side**2 * min(max(progress - place * span, 0.0), span)
        area += full**2 * max(progress - (FULL_FROM if smaller else 0.0), 0.0)
        return area / (self.mean_area * full**2)

    def weight(self, side: int) -> float:
        """The cost of an image of this side, by its area, where the mean of the run is 1."""
        return side**2 / (self.mean_area * self.full**2)

    @cached_property
    def mean_area(self) -> float:
        """Mean area of the run's images, as a share of the full one."""
        *smaller, full = self.sides
        if not smaller:
            return 1.0
        return 1 - FULL_FROM + FULL_FROM * fmean(side**2 for side in smaller) / full**2


def growth_of(config: TrainConfig) -> Growth:
    """The growth of a run's images. The config's model must be fitted to the dataset."""
    return Growth(full=config.model.img_size, initial_scale=config.recipe.initial_scale)


@torch.inference_mode()
def require_growth(model: nn.Module, growth: Growth) -> None:
    """Raise ConfigError for a model that can't read all of a run's sides. The model is left as it was."""
    training = model.training
    model.eval()
    for side in growth.sides[:-1]:
        try:
            model(torch.zeros(1, 3, side, side))
        except Exception as error:  # a model of the user's own may raise anything
            raise ConfigError(
                f"--initial-scale {growth.initial_scale:g} begins with images of {side} pixels, which the model can't "
                f"read beside those of {growth.full}",
                remedy="pass --initial-scale 1, or a larger --img-size",
            ) from error
    model.train(training)


def shrunk(images_BCHW: Tensor, side: int) -> Tensor:
    """Images [B, C, S, S] as [B, C, side, side], bilinear with antialiasing; the same object if they have that side."""
    if images_BCHW.shape[-1] == side:
        return images_BCHW
    smaller = F.interpolate(images_BCHW, size=(side, side), mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)
