"""The same function in an order that takes less time to train."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def pooled_before_relu(model: nn.Module) -> nn.Module:
    """Let every max pooling that directly follows a ReLU in a Sequential go before it, in place; returns the model.

    Outputs and gradients stay equal: where a window has a positive value, ReLU doesn't change which one is the first
    largest, and a window without one passes no gradient in either order. ReLU then has a quarter of the values to look
    at (with 2x2 windows), forwards and backwards. Names of parameters stay: neither layer has any.
    """
    for sequence in [module for module in model.modules() if type(module) is nn.Sequential]:
        for place, (first, second) in enumerate(pairwise(list(sequence))):
            # A ReLU that begins a sequence in place changes a tensor which others may hold.
            if isinstance(first, nn.ReLU) and _can_go_first(second) and not (place == 0 and first.inplace):
                sequence[place], sequence[place + 1] = second, first
    return model


def _can_go_first(layer: nn.Module) -> bool:
    """Whether ReLU can follow it: with dilation a window may lie in the padding as a whole, which ReLU makes 0."""
    return isinstance(layer, nn.MaxPool2d) and not layer.return_indices and layer.dilation == 1
