"""Convolutions of small maps as matrix products, which CPUs compute several times as fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Positions of the map that a convolution makes, up to which a product is faster (`benchmarks/small_maps.py`).
ALL_AS_PRODUCTS = 4
WEIGHT_AS_PRODUCT = 36  # the gradient of the weights alone; in bfloat16, with kernels of more than one value
DTYPES = (torch.float32, torch.bfloat16)
COLUMN_VALUES = 1 << 23  # made at a time: 16 MB in bfloat16

Pair = tuple[int, int]


class SmallMapConv2d(nn.Conv2d):
    """A convolution that multiplies matrices where its map has few positions.

    oneDNN's kernels take nearly as long for a map of one or two columns as for a wider one, the gradient of the weights
    above all (`benchmarks/small_maps.py`). Outputs and gradients are equal up to rounding; second
    derivatives are not available. On other devices than a CPU, and in a compiled model, it is torch's own convolution.
    """

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Whether this layer computes the same as one of these."""
        return (
            type(layer) is nn.Conv2d
            and layer.groups == 1
            and layer.dilation == (1, 1)
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, K, H', W']."""
        if input.device.type != "cpu" or input.dim() != 4 or torch.compiler.is_compiling():
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        window = Window(input.shape[2:], self)
        empty = input.numel() == 0 or min(*window.out, *window.kernel) < 1
        small = window.all_as_products or (
            window.positions <= WEIGHT_AS_PRODUCT and dtype == torch.bfloat16 and max(self.kernel_size) > 1
        )
        if empty or not small or dtype not in DTYPES:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            convolved: Tensor = _Convolution.apply(input.to(dtype), window.seen(self.weight).to(dtype), window)
            return convolved if self.bias is None else convolved + self.bias.to(dtype)[:, None, None]


class Window:
    """How a convolution's kernel moves over a map.

    Rows and columns of the kernel that see nothing but padding are left out where everything is a product.
    sides: height and width of the map in pixels. layer: gives kernel, stride and padding.
    """

    def __init__(self, sides: torch.Size, layer: nn.Conv2d) -> None:
        padding, stride, size = (_pair(each) for each in (layer.padding, layer.stride, layer.kernel_size))
        axes = range(2)
        self.sides, self.stride = _pair(sides), stride
        self.out = _pair((sides[i] + 2 * padding[i] - size[i]) // stride[i] + 1 for i in axes)
        self.positions = self.out[0] * self.out[1]
        self.all_as_products = self.positions <= ALL_AS_PRODUCTS
        first, end = [0, 0], list(size)
        if self.all_as_products:
            first = [max(0, padding[i] - stride[i] * (self.out[i] - 1)) for i in axes]
            end = [min(size[i], sides[i] + padding[i]) for i in axes]
        self._first, self.kernel = _pair(first), _pair(end[i] - first[i] for i in axes)
        self.padding = _pair(padding[i] - first[i] for i in axes)  # before the map
        self._after = _pair(
            stride[i] * (self.out[i] - 1) + self.kernel[i] - sides[i] - self.padding[i] for i in axes
        )  # negative where the last rows or columns are not read

    def seen(self, weight: Tensor) -> Tensor:
        """What is used of a kernel [K, C, R, S]."""
        (top, left), (rows, columns) = self._first, self.kernel
        return weight[:, :, top : top + rows, left : left + columns]

    def padded(self, maps_BCHW: Tensor) -> Tensor:
        """The maps with their border, [B, H, W, C]."""
        (top, left), (bottom, right) = self.padding, self._after
        return F.pad(maps_BCHW.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom))

    def columns(self, padded_BHWC: Tensor) -> Tensor:
        """What the kernel sees at each position, as rows [B * positions, R * S * C]."""
        padded_BHWC = padded_BHWC.contiguous()
        count, channels = padded_BHWC.shape[0], padded_BHWC.shape[3]
        image, row, column, _ = padded_BHWC.stride()
        steps = (image, row * self.stride[0], column * self.stride[1], row, column, 1)
        view = padded_BHWC.as_strided((count, *self.out, *self.kernel, channels), steps, padded_BHWC.storage_offset())
        return view.reshape(count * self.positions, -1)

    def folded(self, columns: Tensor, like: Tensor) -> Tensor:
        """The sum over all positions that see a value, the adjoint of `columns`; of the maps' shape [B, C, H, W]."""
        count, channels = like.shape[:2]
        (rows, places), (top, left) = self.out, self.padding
        parts = columns.view(count, rows, places, *self.kernel, channels).float()
        sides = [self.sides[i] + self.padding[i] + max(self._after[i], 0) for i in range(2)]
        sums = parts.new_zeros(count, *sides, channels)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                vertical = slice(i, i + self.stride[0] * (rows - 1) + 1, self.stride[0])
                horizontal = slice(j, j + self.stride[1] * (places - 1) + 1, self.stride[1])
                sums[:, vertical, horizontal] += parts[:, :, :, i, j]
        inner = sums[:, top : top + self.sides[0], left : left + self.sides[1]]
        return _in_layout_of(like, inner.to(columns.dtype))


class _Convolution(torch.autograd.Function):
    """A convolution without bias; weight: the part of the kernel that the window uses."""

    @staticmethod
    def forward(ctx: Any, maps_BCHW: Tensor, weight: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(maps_BCHW, weight)
        ctx.window = window
        if not window.all_as_products:
            return F.conv2d(maps_BCHW, weight, stride=window.stride, padding=window.padding)
        made = window.columns(window.padded(maps_BCHW)) @ _as_matrix(weight).T
        return _in_layout_of(maps_BCHW, made.view(len(maps_BCHW), *window.out, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BKHW: Tensor) -> tuple[Tensor | None, ...]:
        maps_BCHW, weight = ctx.saved_tensors
        window: Window = ctx.window
        of_maps = of_weight = None
        rows = gradient_BKHW.permute(0, 2, 3, 1).reshape(-1, gradient_BKHW.shape[1])
        if ctx.needs_input_grad[0] and window.all_as_products:
            of_maps = window.folded(rows @ _as_matrix(weight), maps_BCHW)
        elif ctx.needs_input_grad[0]:
            of_maps = torch.ops.aten.convolution_backward(
                *(gradient_BKHW, maps_BCHW, weight, None, window.stride, window.padding, (1, 1)),
                *(False, (0, 0), 1, (True, False, False)),  # not transposed, one group, the first gradient
            )[0]
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(rows, maps_BCHW, weight, window)
        return of_maps, of_weight, None


def _in_layout_of(like: Tensor, maps_BHWC: Tensor) -> Tensor:
    """Maps [B, H, W, C] as [B, C, H, W], channels last in memory if the other maps are: kernels choose by that."""
    maps_BCHW = maps_BHWC.permute(0, 3, 1, 2)
    if like.stride(1) == 1 and like.stride(3) != 1:
        return maps_BCHW
    # Flattened, because the strides of a single position may be those of either layout.
    return maps_BCHW.contiguous().flatten(1).view(maps_BCHW.shape)


def _as_matrix(weight: Tensor) -> Tensor:
    """A kernel [K, C, R, S] as [K, R * S * C]."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _weight_gradient(rows: Tensor, maps_BCHW: Tensor, weight: Tensor, window: Window) -> Tensor:
    """The sum over positions of gradient times what the kernel saw; rows: the gradient [B * positions, K]."""
    outputs, channels = weight.shape[:2]
    per_image = window.positions * window.kernel[0] * window.kernel[1] * channels
    at_once = max(1, COLUMN_VALUES // per_image)
    padded = window.padded(maps_BCHW)
    parts = [
        some.T @ window.columns(images)
        for some, images in zip(
            torch.split(rows, at_once * window.positions), torch.split(padded, at_once), strict=True
        )
    ]
    total = parts[0] if len(parts) == 1 else torch.stack(parts).float().sum(dim=0).to(rows.dtype)
    return total.view(outputs, *window.kernel, channels).permute(0, 3, 1, 2)


def _pair(values: Any) -> Pair:
    first, second = values
    return first, second
