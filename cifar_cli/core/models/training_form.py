"""The same function in a form that takes less time to train."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn

from cifar_cli.core.choices import MemoryFormat
from cifar_cli.core.models.onednn import OneDNNSequential, computes

LAYOUTS: dict[MemoryFormat, torch.memory_format] = {
    "channels-last": torch.channels_last,
    "contiguous": torch.contiguous_format,
    "onednn": torch.preserve_format,  # oneDNN takes images and kernels as they come
}


def training_form(model: nn.Module, memory_format: MemoryFormat) -> nn.Module:
    """Reorder a model's layers and lay its kernels out in a memory format, one of LAYOUTS.

    Parameters keep their names, and the function stays the same up to rounding. The model is changed and is not to be
    used any more; what is returned may be it or another one.
    """
    for sequence in [module for module in model.modules() if type(module) is nn.Sequential]:
        _pool_before_relu(sequence)
    if memory_format == "onednn":
        model = _in_onednn(model)
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


def _pool_before_relu(sequence: nn.Sequential) -> None:
    """Let every max pooling that directly follows a ReLU go before it.

    Outputs and gradients stay equal: where a window has a positive value, ReLU doesn't change which one is the first
    largest, and a window without one passes no gradient in either order. ReLU then has a quarter of the values to look
    at (with 2x2 windows), forwards and backwards.
    """
    for place, (first, second) in enumerate(pairwise(list(sequence))):
        # A ReLU that begins a sequence in place changes a tensor which others may hold.
        if type(first) is nn.ReLU and _can_go_first(second) and not (place == 0 and first.inplace):
            sequence[place], sequence[place + 1] = second, first


def _can_go_first(layer: nn.Module) -> bool:
    """Whether ReLU can follow it: with dilation a window may lie in the padding as a whole, which ReLU makes 0."""
    return type(layer) is nn.MaxPool2d and not layer.return_indices and layer.dilation in (1, (1, 1))
