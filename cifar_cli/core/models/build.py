"""Build a model and load its initial weights."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.models.weights import load_initial_weights


def build_model(config: ModelConfig, *, seed: int | None = None) -> nn.Module:
    """Build the model and load the config's weights.

    seed: for torch's global generator, so that equal configs give equal weights; None leaves the generator as it is.
    Raises ModelError if the model can't be built, WeightsError if the weights can't be loaded.
    """
    if seed is not None:
        torch.manual_seed(seed)
    model: nn.Module = pkgutil.resolve_name(spec_of(config.name).builder)(config)
    load_initial_weights(model, config)
    return model


def build_untrained(config: ModelConfig) -> nn.Module:
    """Build the model with random weights, regardless of the weights in the config."""
    return build_model(replace(config, weights="none"))


def initialise_from_images(model: nn.Module, config: ModelConfig, images: Callable[[], Tensor]) -> None:
    """Give a model that computes some of its initial weights from training images these images.

    Such a model has a method `initialise_from`, which takes normalised float images [B, 3, H, W]. Weights that were
    loaded are complete already. images: called only where it is needed.
    """
    initialise = getattr(model, "initialise_from", None)
    if initialise is not None and config.source_of_weights == "none":
        initialise(images())
