"""What the CPU does otherwise than CUDA, for comparing a trace with the memory of this host."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def scratch_bytes(func: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    """What the CPU's kernel allocates and releases again inside an operator, one amount after the other.

    Where oneDNN has no kernel for a 16-bit type (no AVX-512 or AMX for it), a convolution unfolds its input into
    columns, group by group, and joins the groups at the end; its bias gradient is summed over a float32 copy.
    Seen with torch's profiler (`_slow_conv2d_forward`, `_slow_conv2d_backward`); other operators give nothing.
    """
    if func is torch.ops.aten.convolution.default:
        images, weight, groups = args[0], args[1], args[8]
        if _has_own_kernel(images):
            return ()
        grid = [(size + 2 * pad - step * (side - 1) - 1) // stride + 1 for size, side, stride, pad, step in
                zip(images.shape[2:], weight.shape[2:], args[3], args[4], args[5], strict=True)]  # fmt: skip
        columns = _columns(images, weight, grid)
        if groups == 1:
            return (columns,)
        made = images.shape[0] * weight.shape[0] * math.prod(grid) * images.element_size()
        return (max(images.nbytes // groups + columns, made),)
    if func is torch.ops.aten.convolution_backward.default:
        received, images, weight, groups = args[0], args[1], args[2], args[9]
        if _has_own_kernel(images):
            return ()
        columns = _columns(images, weight, received.shape[2:])
        summed = received.numel() // groups * 4 if args[10][2] else 0
        if groups == 1:
            return summed, columns
        slices = (images.nbytes + received.nbytes) // groups
        return (max(slices + max(summed, columns), images.nbytes if args[10][0] else 0),)
    return ()


def _has_own_kernel(tensor: Tensor) -> bool:
    if tensor.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return tensor.dtype != torch.float16 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def _columns(images: Tensor, weight: Tensor, grid: Any) -> int:
    """Bytes of one group's unfolded input; a 1x1 kernel needs none."""
    if math.prod(weight.shape[2:]) == 1 and list(grid) == list(images.shape[2:]):
        return 0
    return int(images.shape[0] * math.prod(weight.shape[1:]) * math.prod(grid) * images.element_size())
