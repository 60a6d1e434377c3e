"""Composite operators that run other kernels on CUDA than on meta tensors: attention, dropout, LSTM, RMSNorm.

The kernels are registered for a dispatch key that no installed backend uses, below that of `autocast`, so that casts
come first. They run only inside `cuda_operators_on_meta`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cifar_cli.core.memory.autocast import kernels_for

DEVICE = "ipu"
_KEY: Any = getattr(torch._C.DispatchKey, "AutocastIPU")  # noqa: B009 - torch's stubs lack it
_ATEN = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
FLASH_HEAD = 256  # the largest head of the flash kernel
# Values that cuDNN's LSTM keeps for each hidden value: four gates, the cell and its tanh. An assumption: the size is
# a function of cuDNN (cudnnGetRNNTempSpaceSizes) that can be asked on a GPU only.
LSTM_KEPT = 6


@contextlib.contextmanager
def cuda_operators_on_meta() -> Iterator[None]:
    """Run composite operators on meta tensors with the kernels that CUDA has."""
    _register()
    before = torch.is_autocast_enabled(DEVICE)
    torch.set_autocast_enabled(DEVICE, True)  # the dispatcher skips autocast keys that are not enabled
    try:
        with torch._C._IncludeDispatchKeyGuard(_KEY):
            yield
    finally:
        torch.set_autocast_enabled(DEVICE, before)


@lru_cache(maxsize=1)
def _register() -> tuple[Any, ...]:
    libraries = kernels_for("AutocastIPU")
    aten = libraries[-1]
    aten.impl("scaled_dot_product_attention", attention, "AutocastIPU")
    aten.impl("dropout", _dropout, "AutocastIPU")
    aten.impl("lstm.input", _lstm, "AutocastIPU")
    aten.impl("rms_norm", _rms_norm, "AutocastIPU")
    return libraries


def attention_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, grouped: bool = False) -> str:
    """The kernel that CUDA chooses for attention: "flash", "efficient" or "math".

    query, key, value: [B, heads, tokens, head size]. The rules are those of cards from compute capability 8.0
    (`ATen/native/transformers/cuda/sdp_utils.cpp`). Hopper and Blackwell cards prefer cuDNN's kernel to the flash
    kernel; it keeps the same tensors.
    """
    operands = (query, key, value)
    dense = all(t.dim() == 4 and t.stride(-1) == 1 and t.numel() for t in operands)
    alike = len({t.shape[:2] for t in operands}) == 1 and not grouped and query.shape[-1] == key.shape[-1]
    if not dense or not alike:
        return "math"
    head = query.shape[-1]
    flash_head = head <= 192 or 224 < head <= FLASH_HEAD  # others have no backward pass on compute capability 8.6
    if query.dtype in _HALF and mask is None and value.shape[-1] == head and flash_head:
        return "flash"
    alignment = 8 if query.dtype in _HALF else 4
    mask_fits = mask is None or mask.stride(-1) == 1 or mask.shape[-1] == 1
    if (
        query.dtype in (*_HALF, torch.float32)
        and not head % alignment
        and not value.shape[-1] % alignment
        and mask_fits
    ):
        return "efficient"
    return "math"


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    kernel = attention_kernel(query, key, value, attn_mask, grouped=enable_gqa)
    with _below():
        if kernel == "flash":
            head = query.shape[-1]
            padded = [F.pad(t, (0, -head % 8)) if head % 8 else t for t in (query, key, value)]
            out: Tensor = _ATEN._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, scale=scale)[0]
            return out[..., :head] if head % 8 else out
        if kernel == "efficient":
            needs_gradient = any(t.requires_grad for t in (query, key, value))
            bias = None if attn_mask is None else _bias(attn_mask, query, key)
            return _ATEN._scaled_dot_product_efficient_attention(  # type: ignore[no-any-return]
                query, key, value, bias, needs_gradient, dropout_p, is_causal, scale=scale
            )[0]
        return _ATEN._scaled_dot_product_attention_math(  # type: ignore[no-any-return]
            query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """An additive mask as the efficient kernel reads it: its rows padded to 8 values, then repeated without a copy.

    Source: `preprocess_mask` of ATen/native/transformers/attention.cpp, since torch 2.5.
    """
    if mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), float("-inf"))
    if mask.stride(-1) != 1 or any(step % 8 for step in mask.stride()[:-1]):
        tokens = mask.shape[-1]
        mask = F.pad(mask, (0, 8 - tokens % 8))[..., :tokens]
    return mask.expand(*query.shape[:3], key.shape[2])


def _dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """CUDA's dropout, which saves a mask of one byte per value; the CPU's mask has the input's type."""
    with _below():
        if not train or not 0 < p < 1 or not input.numel():
            return _ATEN.dropout(input, p, train)  # type: ignore[no-any-return]
        return torch.native_dropout(input, p, True)[0]


class _RMSNorm(torch.autograd.Function):
    """The fused kernel: it saves its input and one float32 value for each row."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, shape: list[int], weight: Tensor | None) -> Tensor:
        rows = input.shape[: input.dim() - len(shape)] + (1,) * len(shape)
        ctx.save_for_backward(input, weight, torch.empty(rows, dtype=torch.float32, device=input.device))
        return torch.empty_like(input, memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor | None]:
        input, weight, _ = ctx.saved_tensors
        return torch.empty_like(input), None, None if weight is None else torch.empty_like(weight)


def _rms_norm(
    input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    with _below():
        return _RMSNorm.apply(input, normalized_shape, weight)  # type: ignore[no-any-return]


class _LSTM(torch.autograd.Function):
    """cuDNN's LSTM: it saves input, output, weights and its reserve, which it only has where gradients are recorded."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, hidden: Tensor, layers: int, both: bool, records: bool, *weights: Tensor
    ) -> Tensor:
        directions = 1 + both
        output = input.new_empty(*input.shape[:2], hidden.shape[-1] * directions)
        reserve = input.new_empty(LSTM_KEPT * layers * prod(output.shape)) if records else None
        buffer = input.new_empty(sum(weight.numel() for weight in weights)) if input.dtype in _HALF else None
        ctx.save_for_backward(input, output, reserve, buffer, *weights)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, _, _, _, *weights = ctx.saved_tensors
        return torch.empty_like(input), None, None, None, None, *(torch.empty_like(weight) for weight in weights)


def _lstm(
    input: Tensor,
    hx: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    # The cast of `_cudnn_rnn` has no place in the lists that `autocast` reads: it also copies the weights.
    if torch.is_autocast_enabled("cuda") and input.is_floating_point():
        input = input.to(torch.get_autocast_dtype("cuda"))
    with _below():
        output = _LSTM.apply(input, hx[0], num_layers, bidirectional, torch.is_grad_enabled(), *params)
        return output, torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _below() -> Any:
    """Calls inside go to the kernels below this module's."""
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_KEY))


def kernel_scratch_bytes(operator: Any, args: tuple[Any, ...]) -> int:
    """Bytes that a CUDA kernel requests from PyTorch's allocator and releases before it returns.

    The flash kernel's backward pass sums the gradient of the queries in float32 and keeps one value for each row, both
    with rows padded to 128 (`mha_bwd` in FlashAttention 2's `flash_api.cpp`).
    """
    if operator is _ATEN._scaled_dot_product_flash_attention_backward.default:
        batch, heads, tokens, head = args[1].shape
        rows = batch * heads * -(-tokens // 128) * 128
        return int(rows * 4 * (1 + -(-head // 32) * 32))
    if operator is _ATEN._scaled_dot_product_efficient_attention_backward.default:
        batch, heads, tokens, _ = args[1].shape
        return int(4 * batch * heads * tokens)
    return 0
