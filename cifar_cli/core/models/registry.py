"""The models by name, each with a summary, a source to cite and a builder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from cifar_cli.core.own_code import entry_point, file_and_function
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ModelError

TIMM_PREFIX = "timm:"
ENTRY_POINTS = "cifar_cli.models"
"""The group of entry points by which an installed package adds models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One model."""

    name: str
    summary: str
    source: str
    """The publication to cite."""
    builder: str
    """`module:function`, imported only when the model is built."""
    weights: tuple[str, ...]
    """Values of `--weights` besides a path; the first is the default."""
    learning_rate: float
    """Default of recipes that set no learning rate."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields of the recipe of that name (`training.recipe`) which differ for this model."""
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields of ModelConfig that the recipe of that name sets for this model."""


def _one_cycle(**values: Any) -> Mapping[str, Mapping[str, Any]]:
    """Recipes with a warm-up: transformers and deep batch-normalised nets diverge at the rates that `null` takes."""
    cycle = {"schedule": "one-cycle", "warmup": 0.1, "weight_decay": 0.05, "clip_norm": 1.0, **values}
    return {"fast": cycle, "best": {**cycle, "ema_decay": 0.999}}


_AIRBENCH: Mapping[str, Any] = {
    "optimizer": "muon-sgd",
    "learning_rate": 0.24,
    "bias_lr": 53.0,  # of the mean loss, for batches of 1,000 images; the source divides by sums
    "head_lr": 670.0,
    "momentum": 0.85,
    "schedule": "triangular",
    "warmup": 0.0,
    "weight_decay": 0.055,
    "clip_norm": None,
    "label_smoothing": 0.2,
    "batch": 1000,
    "policy": "translate-alternate",
}


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="null",
            summary="baseline with two convolutions and two linear layers",
            source="LeCun et al. 1998, Gradient-based learning applied to document recognition (LeNet-5)",
            builder="cifar_cli.core.models.null:build",
            weights=("none",),
            learning_rate=1e-3,
        ),
        ModelSpec(
            name="cnn",
            summary="timm classifier with ImageNet weights and a new head; --backbone NAME, by default efficientnet_b0",
            source="Tan & Le 2019, EfficientNet (weights from timm)",
            builder="cifar_cli.core.models.cnn:build",
            weights=("imagenet", "none", "bundled"),
            learning_rate=1e-4,
            recipes=_one_cycle(optimizer="adamw", learning_rate=1e-3, batch=128),
        ),
        ModelSpec(
            name="hybrid",
            summary="SimpleViT on ResNet18 features with 64 channels",
            source="He et al. 2015, ResNet; Beyer et al. 2022, Better plain ViT baselines for ImageNet-1k",
            builder="cifar_cli.core.models.hybrid:build",
            weights=("imagenet", "none"),
            learning_rate=1e-4,
            recipes=_one_cycle(optimizer="muon", learning_rate=1e-2, batch=256),
        ),
        ModelSpec(
            name="airbench",
            summary="whitening and six convolutions (nine with --residual), for short training; --width X scales them",
            source="Jordan 2024, 94% on CIFAR-10 in 3.29 seconds on a single GPU",
            builder="cifar_cli.core.models.airbench:build",
            weights=("none",),
            learning_rate=1e-3,
            recipes={
                # In `best` the time ends the run, so that a longer --max-time trains more epochs.
                "fast": {**_AIRBENCH, "max_epochs": 5, "max_seconds": 6 * 60},
                "best": {
                    **_AIRBENCH,
                    "max_epochs": 200,
                    "ema_decay": 0.98,
                    "initial_scale": 0.75,
                    "policy": "translate-alternate-cutout",
                },
            },
            parts={"best": {"residual": True}},
        ),
    )
}

_TIMM = replace(
    MODELS["cnn"],
    name="timm",
    summary="any timm classifier as timm:NAME",
    source="Wightman 2019, PyTorch Image Models",
    weights=("imagenet", "none"),
    recipes=_one_cycle(optimizer="adamw", learning_rate=None, batch=128),  # 1e-4: most are larger than `cnn`
)

_OWN = ModelSpec(
    name="own",
    summary="a model of the user's own, by file and function or entry point",
    source="the user",
    builder="cifar_cli.core.models.own:build",
    weights=("none",),
    learning_rate=1e-3,
)


def spec_of(name: str) -> ModelSpec:
    """Look up a model: registered, `timm:NAME`, `path/to/file.py:function`, or an entry point of an installed package.

    Raises ModelError for any other name.

    Whether timm has NAME is checked when the model is built, because the check imports timm.
    """
    if name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX):
        return _TIMM
    if name in MODELS:
        return MODELS[name]
    if file_and_function(name) is None and entry_point(ENTRY_POINTS, name) is None:
        if name == "all":  # as summarize and profile-memory take it
            raise ModelError(
                "one model is trained at a time, and 'all' are several",
                remedy="train each with `cifar sweep --grid model=null,cnn,hybrid`; `cifar report` compares them",
            )
        if name.removesuffix(":").endswith(".py"):
            raise ModelError(
                f"{name} names no function of the file", remedy=f"pass {name.removesuffix(':')}:build, or its function"
            )
        if re.search(r"[:/\\]", name) and not name.startswith(TIMM_PREFIX):
            raise ModelError(
                f"there is no model named {name!r}", remedy="pass path/to/file.py:function for a model of your own"
            )
        near = nearest(name, MODELS)
        if not near.startswith("did you mean") and name in timm_names():
            raise ModelError(f"there is no model named {name!r}", remedy=f"did you mean {TIMM_PREFIX}{name}?")
        raise ModelError(f"there is no model named {name!r}", remedy=f"{near} (use timm:NAME for a timm classifier)")
    return _OWN


@cache
def timm_names() -> tuple[str, ...]:
    """timm's classifiers, from a list in this package: importing timm takes seconds. Other versions have others."""
    return tuple(Path(__file__).with_name("timm_names.txt").read_text(encoding="ascii").split())
