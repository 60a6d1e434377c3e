"""`cnn` and `timm:NAME`: any timm classifier with a head for our classes."""

from __future__ import annotations

import warnings

import timm
from torch import nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import TIMM_PREFIX
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ModelError


def timm_name(config: ModelConfig) -> str:
    """The timm architecture (perhaps with a `.tag`) behind a config. Raises ModelError for one timm lacks."""
    name = config.name.removeprefix(TIMM_PREFIX) if config.name.startswith(TIMM_PREFIX) else config.backbone
    if not timm.is_model(name):
        flag = f"--model timm:{name}" if config.name.startswith(TIMM_PREFIX) else f"--backbone {name}"
        raise ModelError(f"timm has no model for {flag}", remedy=nearest(name, timm.list_models()))
    return name


def build(config: ModelConfig) -> nn.Module:
    """Build the classifier with random weights; float images [B, 3, H, W] to logits [B, K].

    Raises ModelError when timm doesn't know it, or it can't take the image size.
    """
    name = timm_name(config)
    options: dict[str, int] = {"num_classes": config.classes}
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is not None and pretrained.fixed_input_size:
        options["img_size"] = config.img_size  # position embeddings or windows are made for one size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # renamed tags; nothing a user can act on
            model: nn.Module = timm.create_model(name, pretrained=False, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(
            f"timm can't build {name} for {config.img_size}-pixel images ({error})",
            remedy="pass a larger --img-size, often a multiple of 32, or another model",
        ) from error
    return model
