"""Which images a model can read, found by trying: on the meta device a try costs next to nothing."""

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

# What torch, timm and torchinfo raise for shapes that don't fit.
_MISFITS = (ModelError, AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)


def build_for_counting(config: ModelConfig) -> nn.Module:
    """Build the model with shapes only, or with random weights where its builder needs real numbers.

    Raises ModelError when it can't be built at all.
    """
    try:
        with torch.device("meta"):
            return build_untrained(config)
    except ModelError:
        return build_untrained(config)


def to_meta(model: nn.Module) -> nn.Module:
    """Keep only the shapes of a model's parameters and buffers; what modules share stays shared.

    Module.to("meta") would give each module a copy of its own, and tied weights would count twice.
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
    """Turn a failure on images of config.img_size into a ModelError that names the smallest size that works.

    Raises ModelError; anything that no image size cures is passed on as it is.
    """
    require_known(config)
    try:
        yield
    except _MISFITS as error:
        smallest = smallest_readable_side(config)
        if smallest is None:
            raise
        raise ModelError(
            f"{config.label} can't read {config.img_size}-pixel images",
            remedy=f"pass --img-size {smallest}, the smallest that works above {config.img_size}",
        ) from error


def require_known(config: ModelConfig) -> None:
    """Raise ModelError, with the nearest names, for a timm model that doesn't exist."""
    if config.name not in MODELS or config.name == "cnn":
        from cifar_cli.core.models.cnn import timm_name

        timm_name(config)


def smallest_readable_side(config: ModelConfig) -> int | None:
    """The smallest side above config.img_size, in pixels, that the model can be built for and read.

    Every side is tried in turn, because what works need not be an interval (patches want multiples).
    None when none up to LARGEST_SIDE_TRIED works.
    """
    model = None if _built_for_one_size(config) else build_for_counting(config)
    for side in range(config.img_size + 1, LARGEST_SIDE_TRIED + 1):
        if _reads(replace(config, img_size=side), model):
            return side
    return None


def _built_for_one_size(config: ModelConfig) -> bool:
    if config.name in MODELS and config.name != "cnn":
        return True
    import timm

    from cifar_cli.core.models.cnn import timm_name

    pretrained = timm.get_pretrained_cfg(timm_name(config))
    return pretrained is not None and bool(pretrained.fixed_input_size)


def _reads(config: ModelConfig, model: nn.Module | None) -> bool:
    """Whether `model`, or one built for this size if it is None, takes images of config.img_size."""
    images_BCHW = torch.empty(1, 3, config.img_size, config.img_size, device="meta")
    try:
        with torch.no_grad():
            to_meta(model or build_for_counting(config)).eval()(images_BCHW)
    except _MISFITS:
        return False
    return True
