"""Recipes: how a model is trained, as data. Every field can be overridden by a flag of `cifar train`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cifar_cli.core.augment.policy import policy_of
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Optimizer, regularisation, augmentation and budget of a training.

    learning_rate: constant; None means the model's own default. clip_norm: L2 norm the gradient is clipped to.
    policy: name of the augmentation policy. max_epochs and max_seconds: whichever is reached first ends it.
    Raises ConfigError for a value that can't train.
    """

    name: str
    source: str
    optimizer: str
    learning_rate: float | None
    weight_decay: float
    clip_norm: float
    batch: int
    policy: str
    max_epochs: int
    max_seconds: float

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
        policy_of(self.policy)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="course",
            source="the course this tool grew out of: Adam at a constant rate, at most 20 minutes",
            optimizer="adam",
            learning_rate=None,
            weight_decay=0.0,
            clip_norm=1.0,
            batch=128,
            policy="course",
            max_epochs=30,
            max_seconds=20 * 60,
        ),
    )
}


def recipe_of(name: str) -> Recipe:
    """Look a recipe up. Raises ConfigError for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe named {name!r}", remedy=nearest(name, RECIPES))
    return RECIPES[name]
