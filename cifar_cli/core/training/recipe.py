"""Recipes: how a model is trained, as data. Each field has a flag of `cifar train` that overrides it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cifar_cli.core.augment.policy import policy_of
from cifar_cli.core.choices import OptimizerName, ScheduleName, require_at_least, require_choice
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Optimizer, schedule, regularisation, augmentation and budget of a training run.

    Raises ConfigError for a value that can't train.
    """

    name: str
    source: str
    optimizer: OptimizerName
    learning_rate: float | None
    """The highest of the schedule; None for the model's own default."""
    batch: int
    """Images per step."""
    policy: str
    """Name of the augmentation policy."""
    max_epochs: int
    max_seconds: float
    """The run ends at `max_epochs` or `max_seconds`, whichever comes first."""
    schedule: ScheduleName = "constant"
    warmup: float = 0.0
    """Share of the run in which the learning rate rises."""
    weight_decay: float = 0.0
    """Of matrices and kernels; decoupled from the gradient with adamw and muon."""
    clip_norm: float | None = None
    """L2 norm that gradients are clipped to; None for no clipping."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    ema_decay: float | None = None
    """Share of the averaged weights that stays at each step; None for no averaged weights. The average is validated
    and kept."""

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"--lr {rate:g} is not a positive number", remedy="pass for example --lr 1e-3")
        require_at_least("--batch", self.batch, 1, example=128)
        require_at_least("--max-epochs", self.max_epochs, 1, example=10)
        if not self.max_seconds > 0:
            raise ConfigError("--max-time must be longer than 0 seconds", remedy="pass for example --max-time 00:20:00")
        require_choice("--optimizer", self.optimizer, OptimizerName)
        require_choice("--schedule", self.schedule, ScheduleName)
        _require_share("--warmup", self.warmup)
        _require_share("--label-smoothing", self.label_smoothing)
        if self.ema_decay is not None:
            _require_share("--ema-decay", self.ema_decay)
        for flag, number in (("--weight-decay", self.weight_decay), ("--clip-norm", self.clip_norm or 0.0)):
            if not (math.isfinite(number) and number >= 0):
                raise ConfigError(f"{flag} {number:g} is negative or not finite", remedy="pass 0 or more")
        policy_of(self.policy)


def _require_share(flag: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{flag} {value:g} is not between 0 and 1", remedy="pass 0 or more and less than 1")


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="course",
            source="the course: Adam at a constant rate, at most 20 minutes",
            optimizer="adam",
            learning_rate=None,
            clip_norm=1.0,
            batch=128,
            policy="course",
            max_epochs=30,
            max_seconds=20 * 60,
        ),
        Recipe(
            name="fast",
            source="the accuracy of `course` in the least time: Nesterov SGD, one short cycle",
            optimizer="sgd",
            learning_rate=0.15,
            schedule="one-cycle",
            warmup=0.3,  # without it and clipping, one seed of three lost two points of test accuracy
            clip_norm=1.0,
            weight_decay=5e-4,
            label_smoothing=0.1,
            batch=256,
            policy="crop-flip",
            max_epochs=10,
            max_seconds=20 * 60,
        ),
        Recipe(
            name="best",
            source="the highest accuracy in 20 minutes on two cores: one long cycle, cutout, averaged weights",
            optimizer="sgd",
            learning_rate=0.15,
            schedule="one-cycle",
            warmup=0.2,
            weight_decay=7e-4,
            label_smoothing=0.1,
            ema_decay=0.998,
            batch=256,
            policy="crop-flip-cutout",
            max_epochs=100,
            max_seconds=20 * 60,
        ),
    )
}


def recipe_of(name: str) -> Recipe:
    """Look a recipe up. Raises ConfigError for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe named {name!r}", remedy=nearest(name, RECIPES))
    return RECIPES[name]
