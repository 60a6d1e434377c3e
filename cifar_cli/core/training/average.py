"""Averaged weights."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """A copy of a model whose weights and buffers are an exponential moving average.

    decay: the share of the average that stays at each step. torch's AveragedModel does the same, but copies its number
    of steps to the device in every step, for which the host waits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.decay = decay
        self.n_averaged: Tensor
        self.register_buffer("n_averaged", torch.tensor(0))  # on the CPU, where it is read without waiting

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Average the model's weights in; the first ones are copied. `count` follows."""
        ours, theirs = (chain(each.parameters(), each.buffers()) for each in (self.module, model))
        pairs = list(zip(ours, theirs, strict=True))
        if not int(self.n_averaged):
            for average, value in pairs:
                average.copy_(value)
        else:
            self._mix(pairs)

    def count(self) -> None:
        """Note that the weights were averaged once more."""
        self.n_averaged += 1

    def _mix(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        # On a CPU one tensor after another is quicker, as in `clip_gradients`. Counters are never fractions.
        together = [pair for pair in pairs if pair[0].device.type != "cpu" and pair[0].is_floating_point()]
        if together:
            averages, values = map(list, zip(*together, strict=True))
            torch._foreach_lerp_(averages, values, 1 - self.decay)
        for average, value in pairs:
            if average.device.type == "cpu" or not average.is_floating_point():
                average.copy_(self.decay * average + (1 - self.decay) * value)
