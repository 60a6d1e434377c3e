"""Recipes: how a model is trained, as data. Every field can be overridden by a flag of `cifar train`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cifar_cli.core.augment.policy import policy_of
from cifar_cli.core.choices import OptimizerName, ScheduleName
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

OPTIMIZERS = ("adam", "adamw", "sgd", "muon")
SCHEDULES = ("constant", "one-cycle", "triangular")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Optimizer, schedule, regularisation, augmentation and budget of a training.

    learning_rate: the highest of the schedule; None means the model's own default. schedule: see `schedule.py`;
    warmup: share of the training in which the rate rises. weight_decay: of weight matrices and kernels; decoupled
    from the gradient with adamw and muon. clip_norm: L2 norm the gradient is clipped to, None for no clipping.
    label_smoothing: share of the target spread over all classes. ema_decay: None, or how much of the averaged
    weights stays at each step; the average is what is validated and kept.
    policy: name of the augmentation policy. max_epochs and max_seconds: whichever is reached first ends it.
    Raises ConfigError for a value that can't train.
    """

    name: str
    source: str
    optimizer: OptimizerName
    learning_rate: float | None
    batch: int
    policy: str
    max_epochs: int
    max_seconds: float
    schedule: ScheduleName = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"--lr {rate:g} can't train", remedy="pass a positive number, for example --lr 1e-3")
        if self.batch < 1:
            raise ConfigError(f"--batch {self.batch} holds no image", remedy="pass 1 or more, for example --batch 128")
        if self.max_epochs < 1:
            raise ConfigError(f"--max-epochs {self.max_epochs} trains nothing", remedy="pass 1 or more")
        if not self.max_seconds > 0:
            raise ConfigError("--max-time leaves no time to train", remedy="pass HH:MM:SS, for example 00:20:00")
        for flag, value, known in (
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--schedule", self.schedule, SCHEDULES),
        ):
            if value not in known:
                raise ConfigError(f"{flag} {value} is not offered", remedy=nearest(value, known))
        _require_share("--warmup", self.warmup)
        _require_share("--label-smoothing", self.label_smoothing)
        if self.ema_decay is not None:
            _require_share("--ema-decay", self.ema_decay)
        for flag, number in (("--weight-decay", self.weight_decay), ("--clip-norm", self.clip_norm or 0.0)):
            if not (math.isfinite(number) and number >= 0):
                raise ConfigError(f"{flag} {number:g} can't train", remedy="pass 0 or more")
        policy_of(self.policy)


def _require_share(flag: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{flag} {value:g} is not a share", remedy="pass 0 or more and less than 1")


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="course",
            source="the course this tool grew out of: Adam at a constant rate, at most 20 minutes",
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
            source="the course's accuracy in the least time: Nesterov SGD through one short cycle",
            optimizer="sgd",
            learning_rate=0.15,
            schedule="one-cycle",
            warmup=0.3,  # and clipping: without them one seed of three ended two points lower on the test images
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
            source="the most accuracy in 20 minutes on two cores: a long cycle, holes in the images, averaged weights",
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
