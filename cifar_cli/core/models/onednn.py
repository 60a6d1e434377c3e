"""Convolutions, max poolings and ReLUs on tensors in oneDNN's own layout, which a CPU goes through faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class OneDNNSequential(nn.Sequential):
    """A Sequential whose layers hand each other tensors in oneDNN's layout; a plain one where that can't be.

    Maps float32 images [B, C, H, W] to dense features [B, C', H', W'] of autocast's precision. Parameters stay dense
    and keep their names. Outputs and gradients are those of contiguous tensors, except that oneDNN's poolings pass over
    what is no number, and its ReLU makes 0 of it. Gradients of gradients are not to be had.
    Source: oneDNN's developer guide, "Understanding Memory Formats".
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        assert self.takes(self), self

    @staticmethod
    def takes(layers: nn.Sequential) -> bool:
        """Whether oneDNN has all of these layers and may gain something: it does so at poolings."""
        kinds = [type(layer) for layer in layers]
        known = all(map(_is_known, layers)) and all(map(_is_unwatched, [layers, *layers]))
        return kinds[:1] == [nn.Conv2d] and nn.MaxPool2d in kinds and known

    def forward(self, images_BCHW: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        if not (self._takes_images(images_BCHW) and computes(dtype)) or torch.compiler.is_compiling():
            plain: Tensor = super().forward(images_BCHW)  # type: ignore[no-untyped-call]
            return plain
        features = images_BCHW.to(dtype).to_mkldnn()
        for layer in self:
            match layer:
                case nn.Conv2d():
                    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
                    features = _Convolution.apply(features, layer.weight, layer.bias, options)
                case nn.ReLU():
                    features = torch.relu(features)  # there is none in place
                case _:
                    features = layer(features)
        return features.to_dense()

    def _takes_images(self, images_BCHW: Tensor) -> bool:
        """Whether they are what a training feeds: a CPU's batch of float32, for kernels of float32."""
        kernel = next(self.parameters())
        return (
            images_BCHW.ndim == 4
            and images_BCHW.device.type == kernel.device.type == "cpu"
            and images_BCHW.dtype == kernel.dtype == torch.float32
        )


def computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and computes in this precision."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if type(layer) is nn.MaxPool2d:
        return layer.dilation in (1, (1, 1)) and not layer.return_indices
    return type(layer) is nn.ReLU


def _is_unwatched(layer: nn.Module) -> bool:
    """Whether no hook waits for it to be called: not all layers are."""
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return not any(hooks)


class _Convolution(torch.autograd.Function):
    """torch's own convolution takes oneDNN's tensors backwards with dense weights only, forwards not with a bias."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, options: Any) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.options, ctx.bias_shape = options, None if bias is None else list(bias.shape)
        stride, padding, dilation, groups = options
        kernel, offset = (None if each is None else each.to(features.dtype).to_mkldnn() for each in (weight, bias))
        convolved: Tensor = torch.ops.aten.mkldnn_convolution(
            features, kernel, offset, padding, stride, dilation, groups
        )
        return convolved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            gradient,
            features,
            weight,
            ctx.bias_shape,
            stride,
            padding,
            dilation,
            False,  # not transposed
            [0, 0],
            groups,
            ctx.needs_input_grad[:3],
        )
        return *gradients, None
