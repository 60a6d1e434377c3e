"""Autocast for meta tensors, by the operator lists of CUDA or of the CPU.

torch has no autocast for meta tensors. This mode casts by CUDA's lists (torch's `ATen/autocast_mode.h`), so that
tensors saved for the backward pass have the size they have on a GPU, or by the CPU's (`ATen/autocast_mode.cpp`,
AutocastCPU).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cifar_cli.core.memory.config import Backend

LOWER = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution prelu addmm
    addmv addr matmul __matmul__ __rmatmul__ einsum mm mv linear addbmm baddbmm bmm chain_matmul
    scaled_dot_product_attention
    """.split()  # noqa: SIM905 - a list of names reads best as words
)
FLOAT32 = frozenset(
    """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ softplus
    layer_norm native_layer_norm rms_norm group_norm norm cosine_similarity nll_loss kl_div l1_loss smooth_l1_loss
    huber_loss mse_loss binary_cross_entropy_with_logits cross_entropy cross_entropy_loss dist cdist renorm
    logsumexp interpolate prod softmax log_softmax cumprod cumsum sum normalize
    """.split()  # noqa: SIM905 - a list of names reads best as words
)
CPU_LOWER = LOWER - {"addmv", "addr", "mv", "einsum", "chain_matmul"}  # the last two call cast ones
CPU_FLOAT32 = frozenset(
    """
    prod cdist binary_cross_entropy mse_loss nll_loss smooth_l1_loss cross_entropy cross_entropy_loss l1_loss
    huber_loss kl_div binary_cross_entropy_with_logits avg_pool3d max_pool3d adaptive_avg_pool3d grid_sampler
    """.split()  # noqa: SIM905 - a list of names reads best as words
)


class Autocast(TorchFunctionMode):
    """Casts operands to `dtype` as autocast does on a backend, and runs dropout as that backend does.

    dtype: None casts nothing.
    """

    def __init__(self, dtype: torch.dtype | None, *, backend: Backend) -> None:
        super().__init__()
        self.dtype = dtype
        self.on_cuda = backend == "cuda"
        self.lower, self.float32 = (LOWER, FLOAT32) if self.on_cuda else (CPU_LOWER, CPU_FLOAT32)
        self._casts: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.dtype is not None:
            if name in self.lower:
                args, kwargs = self._map(args, self._lower), {k: self._lower(v) for k, v in kwargs.items()}
            elif name in self.float32 and func is not torch.Tensor.sum_to_size:
                args, kwargs = self._map(args, _to_float32), {k: _to_float32(v) for k, v in kwargs.items()}
        if name == "dropout" and self.on_cuda:
            return _dropout(func, *args, **kwargs)
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        self._casts.clear()  # cast weights are cached only inside of the region
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _map(self, args: tuple[Any, ...], cast: Callable[[Any], Any]) -> tuple[Any, ...]:
        return tuple([cast(item) for item in arg] if isinstance(arg, list) else cast(arg) for arg in args)

    def _lower(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype in (self.dtype, torch.float64):
            return value
        if not (value.is_leaf and value.requires_grad and value.dtype == torch.float32):
            return value.to(self.dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = (value, value.to(self.dtype))
        return self._casts[id(value)][1]


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


def _dropout(
    func: Callable[..., Any], input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """CUDA's dropout, which saves a mask of one byte per value; the CPU's mask has the input's type."""
    if inplace or not training or not 0 < p < 1:
        return func(input, p, training, inplace) if func is torch.nn.functional.dropout else func(input, p, training)
    return torch.native_dropout(input, p, True)[0]
