"""Models of the user's own: a function that gets `classes` and `img_size` and returns a module."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import ENTRY_POINTS
from cifar_cli.core.own_code import entry_point, file_and_function, function_in, function_of
from cifar_cli.errors import ModelError


def build(config: ModelConfig) -> nn.Module:
    """Call the user's function and check that its module maps images to logits. Raises ModelError."""
    function = _function(config.name)
    _require_keywords(function, config.name)
    try:
        model = function(classes=config.classes, img_size=config.img_size)
    except Exception as error:
        raise ModelError(
            f"{config.name}(classes={config.classes}, img_size={config.img_size}) fails "
            f"({type(error).__name__}: {error})",
            remedy="correct the function",
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{config.name} returns a {type(model).__name__}", remedy="return a torch.nn.Module from the function"
        )
    _require_logits(model, config)
    return model


def _require_keywords(function: Callable[..., Any], name: str) -> None:
    """Raise ModelError for a function that can't be called with `classes` and `img_size`."""
    try:
        inspect.signature(function).bind(classes=10, img_size=32)
    except TypeError as error:
        raise ModelError(
            f"{name} can't be called with classes and img_size ({error})",
            remedy="declare it as `def build(*, classes, img_size)`",
        ) from error
    except ValueError:  # some functions written in C don't say what they take
        pass


def _function(name: str) -> Callable[..., Any]:
    if file_and_function(name):
        return function_in(name, ModelError)
    point = entry_point(ENTRY_POINTS, name)
    assert point is not None, name  # spec_of has found it
    return function_of(point, ModelError)


def _require_logits(model: nn.Module, config: ModelConfig) -> None:
    """Raise ModelError unless the model maps images [2, 3, H, W] to logits [2, K]."""
    wanted, training = (2, config.classes), model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, 3, *config.sides))
    except Exception as error:
        raise ModelError(
            f"{config.name} fails on images {[2, 3, *config.sides]} ({type(error).__name__}: {error})",
            remedy="let it take float32 images [B, 3, H, W]",
        ) from error
    finally:
        model.train(training)
    shape = tuple(getattr(logits, "shape", ()))
    if shape != wanted:
        raise ModelError(
            f"{config.name} returns {list(shape)} for 2 images, not logits {list(wanted)}",
            remedy="let its last layer have `classes` outputs",
        )
