"""Find the image sizes that a model accepts, by running it on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import MODELS
from cifar_cli.errors import ModelError

LARGEST_SIDE_TRIED = 512

# Raised by torch, timm and torchinfo for shapes that don't fit.
_SHAPE_ERRORS = (ModelError, AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)


def build_for_counting(config: ModelConfig) -> nn.Module:
    """Build the model on the meta device, or with random weights if its builder reads values of tensors.

    Raises ModelError if the model can't be built.
    """
    try:
        with torch.device("meta"):
            return build_untrained(config)
    except ModelError:
        return build_untrained(config)


def to_meta(model: nn.Module) -> nn.Module:
    """Move a model's parameters and buffers to the meta device in place; shared tensors stay shared.

    Module.to("meta") would give each module its own copy, so that tied weights would count twice.
    """
    memo: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if not parameter.is_meta:
                shape = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
                setattr(module, name, memo.setdefault(parameter, shape))
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            if not buffer.is_meta:
                setattr(module, name, memo.setdefault(buffer, buffer.to("meta")))
    return model


@contextmanager
def readable_or_explain(config: ModelConfig) -> Iterator[None]:
    """Turn a shape error on images of config.img_size into a ModelError that names the smallest size that works.

    Raises ModelError. Other errors, and errors that no larger image avoids, propagate unchanged.
    """
    if _is_from_timm(config):
        from cifar_cli.core.models.cnn import timm_name

        timm_name(config)  # raises ModelError with the nearest names if timm lacks the model
    try:
        yield
    except _SHAPE_ERRORS as error:
        smallest = smallest_readable_side(config)
        if smallest is None:
            raise
        raise ModelError(
            f"{config.label} can't read {config.img_size}-pixel images",
            remedy=f"pass --img-size {smallest}, the smallest that works above {config.img_size}",
        ) from error


def smallest_readable_side(config: ModelConfig) -> int | None:
    """The smallest image side in pixels above config.img_size that works; None if none up to LARGEST_SIDE_TRIED does.

    Every side is tried in turn, because the sides that work need not be contiguous: patches need multiples.
    """
    model = None if _built_for_one_size(config) else build_for_counting(config)
    for side in range(config.img_size + 1, LARGEST_SIDE_TRIED + 1):
        if _accepts(replace(config, img_size=side), model):
            return side
    return None


def _is_from_timm(config: ModelConfig) -> bool:
    return config.name == "cnn" or config.name not in MODELS


def _built_for_one_size(config: ModelConfig) -> bool:
    if not _is_from_timm(config):
        return True
    import timm

    from cifar_cli.core.models.cnn import timm_name

    pretrained = timm.get_pretrained_cfg(timm_name(config))
    return pretrained is not None and bool(pretrained.fixed_input_size)


def _accepts(config: ModelConfig, model: nn.Module | None) -> bool:
    """Whether `model`, or one built for this size if it is None, accepts images of config.img_size."""
    images_BCHW = torch.empty(1, 3, config.img_size, config.img_size, device="meta")
    try:
        with torch.no_grad():
            to_meta(model or build_for_counting(config)).eval()(images_BCHW)
    except _SHAPE_ERRORS:
        return False
    return True
