"""The same function in an order that takes less time to train."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def pooled_before_relu(model: nn.Module) -> nn.Module:
    """Let every max pooling that directly follows a ReLU in a Sequential go before it, in place; returns the model.

    Output and gradients stay the same to the bit: ReLU never changes which value of a window is the first largest,
    and a window without a positive value passes no gradient either way. It then has a quarter of the values to look
    at (with 2x2 windows), forwards and backwards. Names of parameters stay: neither layer has any.
    """
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for place, (first, second) in enumerate(pairwise(list(sequence))):
            if isinstance(first, nn.ReLU) and isinstance(second, nn.MaxPool2d) and not second.return_indices:
                sequence[place], sequence[place + 1] = second, first
    return model
