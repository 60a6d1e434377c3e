"""Find the image sizes that a model accepts, by running it on the meta device."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import ModelError

LARGEST_SIDE_TRIED = 512
SIDES_TRIED = 64  # above the given one at least, so that multiples of 64 are among them

# Raised by torch, timm and torchinfo for shapes that don't fit.
SHAPE_ERRORS = (ModelError, AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)


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
    """A copy of a model whose parameters and buffers are on the meta device; shared tensors stay shared.

    Module.to("meta") would give each module its own copy, so that tied weights would count twice.
    """
    copies: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        copies[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    return deepcopy(model, copies)


def smallest_readable_side(config: ModelConfig, *, on_progress: OnProgress = silent) -> int | None:
    """The smallest image side in pixels above config.img_size that works.

    None if none up to LARGEST_SIDE_TRIED, and none of the next SIDES_TRIED, does.
    Every side is tried in turn, because the sides that work need not be contiguous: patches need multiples.
    """
    from cifar_cli.core.models.cnn import takes_one_size, timm_name

    one_size = not config.is_from_timm or takes_one_size(timm_name(config))
    model = None if one_size else to_meta(build_for_counting(config))
    for side in range(config.img_size + 1, max(LARGEST_SIDE_TRIED, config.img_size + SIDES_TRIED) + 1):
        on_progress(Progress(task=f"finding an image size that {config.label} reads", detail=f"{side} pixels"))
        images_BCHW = torch.empty(1, 3, side, side, device="meta")
        try:
            with torch.no_grad():
                (model or to_meta(build_for_counting(replace(config, img_size=side)))).eval()(images_BCHW)
        except SHAPE_ERRORS:
            continue
        return side
    return None
