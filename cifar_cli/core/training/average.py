"""Averaged weights."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

WARMUP = 10  # steps: with n averaged before, at most n / (n + WARMUP) of the average stays


class Average(nn.Module):
    """A copy of a model whose weights and buffers are an exponential moving average.

    decay: the highest share of the average that stays at a step. It is lower at first; otherwise the random first
    weights would be most of the average in a run of fewer than 1 / (1 - decay) steps. torch's AveragedModel copies its
    number of steps to the device in every step, for which the host waits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.decay = decay
        self.n_averaged: Tensor
        self.register_buffer("n_averaged", torch.tensor(0))  # on the CPU, where it is read without waiting
        self._joins: Tensor | None = None  # on the device, where a CUDA graph reads what changes from step to step

    @property
    def stays(self) -> float:
        """The share of the average that stays at the next step; 0 at the first one."""
        averaged = int(self.n_averaged)
        return min(self.decay, averaged / (averaged + WARMUP))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Average the model's weights in. `count` follows."""
        ours, theirs = (chain(each.parameters(), each.buffers()) for each in (self.module, model))
        self._mix(list(zip(ours, theirs, strict=True)))

    def count(self) -> None:
        """Note that the weights were averaged once more."""
        self.restart(int(self.n_averaged) + 1)

    def restart(self, averaged: int = 0) -> None:
        """Go on as after so many steps."""
        self.n_averaged.fill_(averaged)
        if self._joins is not None:
            self._joins.fill_(1 - self.stays)

    def make_capturable(self) -> None:
        """Let a CUDA graph read the shares of each step."""
        device = next(chain(self.module.parameters(), self.module.buffers())).device
        self._joins = torch.tensor(1 - self.stays, device=device)

    def _mix(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        stays, mixed = self.stays, []
        for average, value in pairs:
            # Counters and tables of indices have no mean. The first step copies all: 0 times infinity is NaN.
            if stays == 0 or not average.is_floating_point():
                average.copy_(value)
            elif self._joins is None and average.device.type == "cpu":  # one after another, as in `clip_gradients`
                average.copy_(stays * average + (1 - stays) * value)
            else:
                mixed.append((average, value))
        for sharded in (True, False):  # one list can't hold parts of weights and whole buffers
            alike = [pair for pair in mixed if isinstance(pair[0], DTensor) is sharded]
            if not alike:
                continue
            averages, values = map(list, zip(*alike, strict=True))
            if self._joins is None:  # not lerp, which makes NaN of a mask's infinities
                torch._foreach_mul_(averages, stays)
                torch._foreach_add_(averages, values, alpha=1 - stays)
            else:
                torch._foreach_mul_(averages, 1 - self._joins)
                torch._foreach_add_(averages, torch._foreach_mul(values, self._joins))
