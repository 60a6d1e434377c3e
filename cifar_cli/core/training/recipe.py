"""Recipes: how a model is trained, as data. Each field has a flag of `cifar train` that overrides it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cifar_cli.core.augment.policy import policy_of
from cifar_cli.core.choices import ClassWeights, Freeze, OptimizerName, ScheduleName, require_at_least, require_choice
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

ZERO_IS_OFF = ("clip_norm", "ema_decay", "patience")
"""Fields of Recipe that are 0 on the command line where they are None."""


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
    """Of matrices and kernels; decoupled from the gradient with adamw and muon. With muon-sgd of all but the kernels,
    which keep their norm."""
    clip_norm: float | None = None
    """L2 norm that gradients are clipped to; None for no clipping."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    ema_decay: float | None = None
    """Share of the averaged weights that stays at each step; None for no averaged weights. The average is validated
    and kept."""
    momentum: float | None = None
    """With muon-sgd: share of the gradients' mean that stays at each step; None for the optimizer's own."""
    bias_lr: float | None = None
    """With muon-sgd: the highest learning rate of biases and normalisation; None for `learning_rate`."""
    head_lr: float | None = None
    """With muon-sgd: the highest learning rate of the last layer; None for `learning_rate`."""
    patience: int | None = None
    """The run ends after this many epochs without a higher validation accuracy; None for no such limit."""
    initial_scale: float = 1.0
    """Side of the training images at the first step, as a share of the full one, to which it grows during the run."""
    class_weights: ClassWeights = "none"
    """Weights of the classes in the training loss."""
    freeze: Freeze = "none"
    """What stays as it is in the whole run."""
    head_first: float = 0.0
    """Share of the run in which the head alone is trained; the learning rate of the rest begins then. With adam, adamw
    and sgd."""

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"--lr {rate:g} is not a positive number", remedy="pass for example --lr 1e-3")
        require_at_least("--batch", self.batch, 1, example=128)
        require_at_least("--max-epochs", self.max_epochs, 1, example=10)
        if not 0 < self.max_seconds < math.inf:
            raise ConfigError(
                "--max-time must be longer than 0 seconds, and end", remedy="pass for example --max-time 00:20:00"
            )
        require_choice("--optimizer", self.optimizer, OptimizerName)
        require_choice("--schedule", self.schedule, ScheduleName)
        _require_share("--warmup", self.warmup)
        _require_share("--label-smoothing", self.label_smoothing)
        if self.ema_decay is not None:
            _require_share("--ema-decay", self.ema_decay)
        if self.momentum is not None:
            _require_share("--momentum", self.momentum)
        if self.patience is not None:
            require_at_least("--patience", self.patience, 1, example=5)
        if not 0 < self.initial_scale <= 1:
            raise ConfigError(
                f"--initial-scale {self.initial_scale:g} is not above 0 and at most 1",
                remedy="pass for example --initial-scale 0.75",
            )
        require_choice("--class-weights", self.class_weights, ClassWeights)
        require_choice("--freeze", self.freeze, Freeze)
        _require_share("--head-first", self.head_first)
        if self.head_first and self.optimizer not in HEAD_FIRST:
            raise ConfigError(
                f"{self.says_head_first} can't be combined with --optimizer {self.optimizer}",
                remedy="pass --head-first 0, or --optimizer adamw",
            )
        self._check_rates_of_parts()
        for flag, number in (("--weight-decay", self.weight_decay), ("--clip-norm", self.clip_norm or 0.0)):
            if not (math.isfinite(number) and number >= 0):
                raise ConfigError(f"{flag} {number:g} is negative or not finite", remedy="pass 0 or more")
        policy_of(self.policy)

    @property
    def says_head_first(self) -> str:
        """The option that trains the head first: that of the recipe, unless the recipe by this name says otherwise."""
        own = RECIPES.get(self.name)
        return (
            f"--recipe {self.name}"
            if own and own.head_first == self.head_first
            else f"--head-first {self.head_first:g}"
        )

    def _check_rates_of_parts(self) -> None:
        for flag, value in (("--momentum", self.momentum), ("--bias-lr", self.bias_lr), ("--head-lr", self.head_lr)):
            if value is not None and self.optimizer != "muon-sgd":
                raise ConfigError(
                    f"{flag} applies to --optimizer muon-sgd only", remedy="leave it out, or pass that optimizer"
                )
        for flag, value in (("--bias-lr", self.bias_lr), ("--head-lr", self.head_lr)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{flag} {value:g} is not a positive number", remedy=f"pass for example {flag} 0.1")

    def has_lost_patience(self, val_accuracies: Sequence[float]) -> bool:
        """Whether the validation accuracy hasn't risen for `patience` epochs. val_accuracies: of all epochs so far."""
        if self.patience is None or not val_accuracies:
            return False
        return len(val_accuracies) - 1 - val_accuracies.index(max(val_accuracies)) >= self.patience

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with other values. Another optimizer drops rates that are meant for the recipe's own one."""
        dropped = rates_of_another(self.optimizer, changes.get("optimizer", self.optimizer))
        values: dict[str, Any] = dict.fromkeys(dropped) | dict(changes)
        return replace(self, **values)


HEAD_FIRST = ("adamw", "adam", "sgd")  # optimizers with groups of their own for the head
MODEL_OF_RECIPE = {"finetune": "cnn"}
"""The model where none is named; other recipes train the default one."""
ONLY_MUON_SGD = ("momentum", "bias_lr", "head_lr")
ADAMS = ("adam", "adamw")  # with learning rates of the same scale


def rates_of_another(before: str, optimizer: str) -> tuple[str, ...]:
    """The rates of a recipe that mean nothing once its optimizer is another one."""
    if optimizer == before:
        return ()
    return ONLY_MUON_SGD if {optimizer, before} <= set(ADAMS) else ("learning_rate", *ONLY_MUON_SGD)


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
        Recipe(
            name="finetune",
            source="pretrained weights on photographs: the head first, then all at a small rate, stopped early",
            optimizer="adamw",
            learning_rate=5e-4,
            schedule="one-cycle",
            warmup=0.1,
            weight_decay=0.05,
            clip_norm=1.0,
            label_smoothing=0.1,
            head_first=0.1,
            patience=3,
            batch=32,
            policy="photo",
            max_epochs=10,
            max_seconds=20 * 60,
        ),
    )
}


def recipe_of(name: str, *, model: str | None = None) -> Recipe:
    """Look a recipe up, with the values that fit a model where that is given.

    Raises ConfigError for an unknown recipe, ModelError for an unknown model.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe named {name!r}", remedy=nearest(name, RECIPES))
    own = {} if model is None else spec_of(model).recipes.get(name, {})
    return RECIPES[name].changed(own)
