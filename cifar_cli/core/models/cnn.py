"""`cnn` and `timm:NAME`: a timm classifier with a new head."""

from __future__ import annotations

import warnings
from typing import Any

import timm
import torch
from torch import nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import TIMM_PREFIX
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ModelError


def timm_name(config: ModelConfig) -> str:
    """The name of the timm model, perhaps with a `.tag`. Raises ModelError if timm lacks the model or the tag."""
    name = config.name.removeprefix(TIMM_PREFIX) if config.name.startswith(TIMM_PREFIX) else config.backbone
    if not timm.is_model(name):
        flag = f"--model timm:{name}" if config.name.startswith(TIMM_PREFIX) else f"--backbone {name}"
        raise ModelError(f"timm has no model for {flag}", remedy=nearest(name, timm.list_models()))
    architecture, _, tag = name.partition(".")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True) if tag else []
    if tag and name not in tagged:
        raise ModelError(
            f"timm has no weights named {tag} for {architecture}", remedy=nearest(name, [architecture, *tagged])
        )
    return name


def takes_one_size(name: str) -> bool:
    """Whether a timm model is built for one image size."""
    pretrained = timm.get_pretrained_cfg(name)
    return pretrained is not None and bool(pretrained.fixed_input_size)


def build(config: ModelConfig) -> nn.Module:
    """Build a classifier with random weights that maps float images [B, 3, H, W] to logits [B, K].

    Raises ModelError if timm lacks the model or can't build it for the image size.
    """
    name = timm_name(config)
    options: dict[str, Any] = {"num_classes": config.classes}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if takes_one_size(name):
        height, width = config.sides  # position embeddings or windows fit one size
        options["img_size"] = height if height == width else (height, width)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # renamed tags, which a user can't change
            model: nn.Module = timm.create_model(name, pretrained=False, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise _unbuildable(name, config, error) from error
        raise ModelError(f"timm's {name} has no stochastic depth", remedy="leave --drop-path out") from error
    except (AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise _unbuildable(name, config, error) from error
    if config.small_images:
        _keep_details(model, name, config)
    return model


def _unbuildable(name: str, config: ModelConfig, error: Exception) -> ModelError:
    return ModelError(
        f"timm can't build {name} for {config.pixels}-pixel images ({error})",
        remedy="pass a larger --img-size, often a multiple of 32, or another model",
    )


def _keep_details(model: nn.Module, name: str, config: ModelConfig) -> None:
    """Give the first convolution a stride of 1, so that images of 32 pixels keep their details.

    The weights stay the same. Raises ModelError for a model that starts with something else, such as patches, or whose
    later layers are made for maps of one size.
    """
    first = strided_first_convolution(model)
    if first is None:
        raise ModelError(
            f"timm's {name} doesn't start with a strided convolution that --small-images could change",
            remedy="leave --small-images out",
        )
    first.stride = (1, 1)
    training, weight = model.training, first.weight
    if weight.is_meta:  # of a model that is counted or traced, which then fails by itself
        return
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, *config.sides, device=weight.device, dtype=weight.dtype))
    except Exception as error:  # timm's models raise anything
        raise ModelError(
            f"timm's {name} has layers for maps of one size, which --small-images changes",
            remedy="leave --small-images out",
        ) from error
    model.train(training)


def strided_first_convolution(model: nn.Module) -> nn.Conv2d | None:
    """The first convolution of a timm model, if it has a stride and its windows overlap."""
    path = getattr(model, "pretrained_cfg", {}).get("first_conv")
    first = model.get_submodule(path) if isinstance(path, str) else None
    if not isinstance(first, nn.Conv2d) or first.stride == (1, 1) or first.stride == first.kernel_size:
        return None
    return first
