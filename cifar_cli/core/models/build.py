"""Build a model and load its initial weights."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.models.weights import load_initial_weights
from cifar_cli.core.out_of_memory import is_out_of_memory
from cifar_cli.errors import ModelError


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


def build_without_weights(config: ModelConfig) -> nn.Module:
    """Build the model with parameters on the meta device, so that a model of any size takes little memory and time.

    Buffers and other tensors have their values: a model moves those that are not registered in its forward pass.
    Raises ModelError if the model can't be built.
    """
    register = nn.Module.register_parameter
    known = WeakTensorKeyDictionary()  # a parameter that two modules register stays one

    def without_data(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            if parameter not in known:
                known[parameter] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            parameter = known[parameter]
        register(module, name, parameter)

    try:
        with patch.object(nn.Module, "register_parameter", without_data):
            return build_untrained(config)
    except ModelError:  # a builder that reads values of parameters
        return build_untrained(config)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"a layer of {config.label} at {config.pixels} pixels with {config.classes:,} classes doesn't fit into the "
            "memory of this machine, where models are built",
            remedy="pass a smaller --img-size or --classes",
        ) from error


def initialise_from_images(model: nn.Module, config: ModelConfig, images: Callable[[], Tensor]) -> None:
    """Give a model that computes some of its initial weights from training images these images.

    Such a model has a method `initialise_from`, which takes normalised float images [B, 3, H, W]. Weights that were
    loaded are complete already. images: called only where it is needed.
    """
    initialise = getattr(model, "initialise_from", None)
    if initialise is not None and config.source_of_weights == "none":
        initialise(images())
