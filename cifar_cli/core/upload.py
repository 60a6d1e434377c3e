"""From the host to a device in one copy, for which the host does not wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes: of the largest element that a tensor has


def uploaded(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors of the host on a device, in their order; those that are there, or on a CPU, as they are.

    They travel as one block. On CUDA it lies in pinned memory, and the copy runs while the host goes on.
    """
    if all(tensor.device.type == device.type for tensor in tensors):
        return list(tensors)
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    block = torch.empty(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, start in zip(tensors, starts, strict=True):
        _part(block, start, tensor).copy_(tensor)
    there = block.to(device, non_blocking=True)
    return [_part(there, start, tensor) for tensor, start in zip(tensors, starts, strict=True)]


def _part(block: Tensor, start: int, like: Tensor) -> Tensor:
    return block[start : start + like.nbytes].view(like.dtype).view(like.shape)
