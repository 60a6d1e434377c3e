"""Convolutions, max poolings and ReLUs on tensors in oneDNN's own layout, which a CPU goes through faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PRECISIONS = (torch.float32, torch.bfloat16)


class Blocked(nn.Sequential):
    """A Sequential whose layers hand each other tensors in oneDNN's layout; anywhere but on a CPU, a plain one.

    In that layout a pooling takes a third of the time of torch's own and remembers one byte an output in place of
    eight. The parameters stay as they are, and so does the function: outputs and gradients are those of contiguous
    tensors. Gradients of gradients are not to be had.
    Source: oneDNN's developer guide, "Understanding Memory Formats".
    """

    @staticmethod
    def takes(layers: nn.Sequential) -> bool:
        """Whether oneDNN has every one of the layers, and it pays: what it gains, it gains at poolings.

        A ReLU in place at the beginning would change a tensor which others may hold, so a convolution must come first.
        """
        kinds = [type(layer) for layer in layers]
        return kinds[:1] == [nn.Conv2d] and nn.MaxPool2d in kinds and all(map(_is_known, layers))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images_BCHW.dtype
        if not _offered(images_BCHW, dtype):
            plain: Tensor = super().forward(images_BCHW)  # type: ignore[no-untyped-call]
            return plain
        blocked = images_BCHW.to(dtype).to_mkldnn()
        for layer in self:
            match layer:
                case nn.Conv2d():
                    blocked = _Convolution.apply(blocked, layer.weight, layer.bias, layer)
                case nn.MaxPool2d():
                    # torch's formula of the gradient takes no stride that is left out.
                    blocked = torch.max_pool2d(
                        blocked, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
                    )
                case _:
                    blocked = torch.relu(blocked)
        return blocked.to_dense()


def _is_known(layer: nn.Module) -> bool:
    match layer:
        case nn.Conv2d():
            return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        case nn.MaxPool2d():
            return layer.dilation == 1 and not layer.return_indices
    return isinstance(layer, nn.ReLU)


def _offered(images_BCHW: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes with these tensors here; the compiler finds layouts of its own."""
    if images_BCHW.device.type != "cpu" or dtype not in PRECISIONS or torch.compiler.is_compiling():
        return False
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Convolution(torch.autograd.Function):
    """torch's own passes backwards through blocked tensors with dense weights only, but forwards with blocked ones."""

    @staticmethod
    def forward(ctx: Any, blocked: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(blocked, weight)
        ctx.layer, ctx.biased = layer, bias is not None
        kernel, offset = (None if each is None else each.to(blocked.dtype).to_mkldnn() for each in (weight, bias))
        convolved: Tensor = torch.ops.aten.mkldnn_convolution(
            blocked, kernel, offset, layer.padding, layer.stride, layer.dilation, layer.groups
        )
        return convolved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        blocked, weight = ctx.saved_tensors
        layer, needed = ctx.layer, [*ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2]]
        gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            gradient,
            blocked,
            weight,
            list(layer.bias.shape) if ctx.biased else None,
            layer.stride,
            layer.padding,
            layer.dilation,
            False,  # not transposed
            [0, 0],
            layer.groups,
            needed,
        )
        return *gradients, None
