"""Reorder a model's layers and memory so that it trains faster with equal results."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn

from cifar_cli.core.choices import MemoryFormat
from cifar_cli.core.models.onednn import OneDNNSequential, computes, is_plain_max_pooling
from cifar_cli.core.models.small_maps import SmallMapConv2d

LAYOUTS: dict[MemoryFormat, torch.memory_format] = {
    "channels-last": torch.channels_last,
    "contiguous": torch.contiguous_format,
    "onednn": torch.preserve_format,  # `OneDNNSequential` converts images and kernels itself
}


def training_form(model: nn.Module, memory_format: MemoryFormat) -> nn.Module:
    """Reorder a model's layers, convert kernels to a memory format of LAYOUTS, and multiply matrices for small maps.

    Parameters keep their names. Outputs and gradients stay equal up to rounding. The argument is modified: use only the
    returned model, which may be the same object.
    """
    for sequence in [module for module in model.modules() if type(module) is nn.Sequential]:
        _pool_before_relu(sequence)
    if memory_format == "onednn":
        model = _in_onednn(model)
    _products_for_small_maps(model)
    return model.to(memory_format=LAYOUTS[memory_format])


def trains_in_onednn(model: nn.Module, device: torch.device) -> bool:
    """Whether the memory format "onednn" changes anything for this model on this device."""
    sequences = [module for module in model.modules() if type(module) is nn.Sequential]
    return device.type == "cpu" and computes(torch.float32) and any(map(OneDNNSequential.takes, sequences))


def _in_onednn(module: nn.Module) -> nn.Module:
    if type(module) is nn.Sequential and OneDNNSequential.takes(module):
        return OneDNNSequential(OrderedDict(module.named_children()))
    for name, child in list(module.named_children()):
        setattr(module, name, _in_onednn(child))
    return module


def _products_for_small_maps(module: nn.Module) -> None:
    if SmallMapConv2d.takes(module):
        module.__class__ = SmallMapConv2d  # keeps parameters and hooks
    if not isinstance(module, OneDNNSequential):
        for child in module.children():
            _products_for_small_maps(child)


def _pool_before_relu(sequence: nn.Sequential) -> None:
    """Swap every ReLU and max pooling that directly follow each other, so that the pooling runs first.

    Outputs and gradients stay equal: if a window has a positive value, ReLU doesn't change which value is the first
    maximum; if it has none, no gradient passes in either order. With 2x2 windows, ReLU then processes a quarter of the
    values. With dilation, a window may cover only padding: its result is then -inf if the pooling runs last, 0 if ReLU
    does.
    """
    for place, (first, second) in enumerate(pairwise(list(sequence))):
        # An in-place ReLU at the start modifies the sequence's input, which other layers may read.
        if type(first) is nn.ReLU and is_plain_max_pooling(second) and not (place == 0 and first.inplace):
            sequence[place], sequence[place + 1] = second, first
