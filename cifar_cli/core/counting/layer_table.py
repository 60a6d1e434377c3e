"""torchinfo's rows as plain data."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchinfo.layer_info import LayerInfo

from cifar_cli.core.counting.results import LayerRow

_TRAINABLE = {"True": "yes", "False": "no", "Partial": "part", "--": ""}


def layer_rows(infos: Sequence[LayerInfo], *, depth: int) -> tuple[LayerRow, ...]:
    """Cut torchinfo's list at `depth`; the columns still add up to torchinfo's totals."""
    return tuple(
        LayerRow(
            name=info.var_name,
            kind=info.class_name,
            depth=info.depth,
            input_shape=_shape(info.input_size),
            output_shape=_shape(info.output_size),
            params=_params(info, ends_here=info.depth == depth),
            trainable=_TRAINABLE[info.trainable],
            macs=_macs(info, ends_here=info.depth == depth),
            recurs=info.is_recursive,
        )
        for info in infos
        if info.depth <= depth
    )


def kind_of(module: nn.Module) -> str:
    """A module's class and what makes its size: "Linear 4096→128", "Conv2d 320→1280 1×1"."""
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        return f"{kind} {module.in_features}→{module.out_features}"
    if isinstance(module, nn.modules.conv._ConvNd):
        kernel = "×".join(str(side) for side in module.kernel_size)
        groups = f" groups {module.groups}" if module.groups > 1 else ""
        return f"{kind} {module.in_channels}→{module.out_channels} {kernel}{groups}"
    return kind


def _params(info: LayerInfo, *, ends_here: bool) -> int | None:
    if info.is_recursive:
        return None
    params = info.num_params if ends_here or info.is_leaf_layer else info.leftover_params()
    return max(params, 0) or None


def _macs(info: LayerInfo, *, ends_here: bool) -> int | None:
    if info.is_leaf_layer:
        return info.macs or None
    below = sum(child.macs for child in info.children if child.is_leaf_layer) if ends_here else 0
    return below or None


def _shape(size: Sequence[object]) -> tuple[int, ...]:
    """torchinfo gives a nested or empty list where a module takes something else than one tensor."""
    return tuple(side for side in size if isinstance(side, int))
