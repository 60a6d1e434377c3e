"""From a config to a module with its initial weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.models.weights import load_initial_weights


def build_model(config: ModelConfig, *, seed: int | None = None) -> nn.Module:
    """Build the model and give it the weights asked for.

    seed: seeds torch's global generator first, so that equal configs give equal weights; None leaves it.
    Raises ModelError when it can't be built, WeightsError when the weights can't be had or don't fit.
    """
    if seed is not None:
        torch.manual_seed(seed)
    module_name, function = spec_of(config.name).builder.split(":")
    builder = cast(Callable[[ModelConfig], nn.Module], getattr(importlib.import_module(module_name), function))
    model = builder(config)
    load_initial_weights(model, config)
    return model


def build_untrained(config: ModelConfig) -> nn.Module:
    """Build the model with random weights whatever the config asks for: counting needs no others."""
    return build_model(replace(config, weights="none"))
