"""Convolutions, max poolings and ReLUs on tensors in oneDNN's blocked layout, which CPUs process faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class OneDNNSequential(nn.Sequential):
    """A Sequential that passes tensors in oneDNN's layout from layer to layer where oneDNN supports the input.

    Maps float32 images [B, C, H, W] to dense features [B, C', H', W'] in autocast's precision. Parameters stay dense
    and keep their names. Outputs and gradients equal those of contiguous tensors up to rounding, with one exception:
    oneDNN can drop NaN values, because its max pooling ignores them and its ReLU turns them into 0. Second derivatives
    are not supported.
    Source: oneDNN's developer guide, "Understanding Memory Formats".
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        assert self.takes(self), self

    @staticmethod
    def takes(layers: nn.Sequential) -> bool:
        """Whether oneDNN supports all of these layers and can be faster, which needs a pooling."""
        kinds = [type(layer) for layer in layers]
        supported = all(map(_is_supported, layers)) and not any(map(_has_hooks, [layers, *layers]))
        return kinds[:1] == [nn.Conv2d] and nn.MaxPool2d in kinds and supported

    def forward(self, images_BCHW: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        # The compiler comes first: it can't trace `computes` and would break its graph there.
        if torch.compiler.is_compiling() or not (self._takes_images(images_BCHW) and computes(dtype)):
            plain: Tensor = super().forward(images_BCHW)  # type: ignore[no-untyped-call]
            return plain
        features = images_BCHW.to(dtype).to_mkldnn()
        for layer in self:
            match layer:
                case nn.Conv2d():
                    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
                    features = _Convolution.apply(features, layer.weight, layer.bias, options)
                case nn.ReLU():
                    features = torch.relu(features)  # oneDNN has no in-place ReLU
                case _:
                    features = layer(features)
        return features.to_dense()

    def _takes_images(self, images_BCHW: Tensor) -> bool:
        """Whether these are a batch of float32 images on the CPU, and the kernels are float32 as well."""
        kernel = next(self.parameters())
        return (
            images_BCHW.ndim == 4
            and images_BCHW.device.type == kernel.device.type == "cpu"
            and images_BCHW.dtype == kernel.dtype == torch.float32
        )


def computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN is available and supports this precision."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_supported(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.ReLU or is_plain_max_pooling(layer)


def is_plain_max_pooling(layer: nn.Module) -> bool:
    """Whether the layer is a max pooling without dilation that returns values alone."""
    return type(layer) is nn.MaxPool2d and not layer.return_indices and layer.dilation in (1, (1, 1))


def _has_hooks(layer: nn.Module) -> bool:
    """Whether the layer has hooks, which `OneDNNSequential.forward` would not call."""
    return any((layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks))


class _Convolution(torch.autograd.Function):
    """A convolution of tensors in oneDNN's layout with dense weights.

    torch's own supports neither a bias in the forward pass nor weights in oneDNN's layout in the backward pass.
    """

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
            *(gradient, features, weight, ctx.bias_shape, stride, padding, dilation),
            *(False, [0, 0], groups, ctx.needs_input_grad[:3]),  # not transposed
        )
        return *gradients, None
