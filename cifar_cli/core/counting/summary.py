"""Count a model: its layer table, parameters, multiply-adds, FLOPs, and the parameters that never reach the logits.

The model runs on torch's meta device, where a tensor has a shape but no data. A batch of any size takes no memory and
little time, and no weights are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torchinfo
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchinfo.layer_info import LayerInfo

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.flops import FlopTally
from cifar_cli.core.counting.image_size import build_for_counting, readable_or_explain, to_meta
from cifar_cli.core.counting.results import (
    LargeLayer,
    LayerRow,
    ModelSummary,
    TrainingMemory,
    UnusedPart,
)

_TRAINABLE = {"True": "yes", "False": "no", "Partial": "part", "--": ""}


def summarize(config: SummaryConfig) -> ModelSummary:
    """Build the model without weights and count it.

    Raises ModelError for an unknown model, and for images that it can't read, with the smallest size that it can.
    """
    with readable_or_explain(config.model):
        return count_module(build_for_counting(config.model), config)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """Counts of one pass through the model."""

    statistics: torchinfo.ModelStatistics
    forward_flops: int
    forward_bytes_moved: int
    tally: FlopTally
    """Forward and backward pass."""


def count_module(model: nn.Module, config: SummaryConfig) -> ModelSummary:
    """Count any classifier that maps float images [B, 3, H, W] to logits.

    The model moves to the meta device and into evaluation mode, where dropout and stochastic depth do nothing and
    batch normalisation accepts a single image. Its gradients are set.
    Raises the model's own errors on images that it can't read.
    """
    model = to_meta(model).eval()
    side, batch = config.model.img_size, config.batch
    step = _run(model, torch.empty(batch, 3, side, side, device="meta"), backward=True)
    # One image is not the batch divided by its size: some models do work once per batch (SwinV2's position bias).
    image = step if batch == 1 else _run(model, torch.empty(1, 3, side, side, device="meta"), backward=False)
    unused = {id(p) for p in model.parameters() if p.requires_grad and p.grad is None}
    total = _values(model.parameters())
    unused_params = _values(p for p in model.parameters() if id(p) in unused)
    return ModelSummary(
        label=config.model.label,
        config=config.model,
        batch=batch,
        total_params=total,
        trainable_params=_values(p for p in model.parameters() if p.requires_grad),
        unused_params=unused_params,
        unused_parts=tuple(_unused_parts(model, unused)),
        unused_remedy="--trim-backbone" if unused_params and config.model.name == "hybrid" else None,
        macs_per_image=image.statistics.total_mult_adds,
        macs_per_batch=step.statistics.total_mult_adds,
        forward_flops_per_image=image.forward_flops,
        forward_flops_per_batch=step.forward_flops,
        train_step_flops_per_batch=step.tally.flops,
        forward_bytes_moved_per_batch=step.forward_bytes_moved,
        memory=_memory(model, unused, step.statistics),
        largest_layers=_largest_layers(model, unused, total, config.top),
        layers=layer_rows(step.statistics.summary_list, depth=config.depth),
        uncounted_operators=step.tally.uncounted,
    )


def _run(model: nn.Module, images_BCHW: Tensor, *, backward: bool) -> _Pass:
    """Run one forward pass through torchinfo and the FLOP counter, and the backward pass if asked."""
    outputs: list[object] = []

    def record_gradients(module: nn.Module, inputs: object) -> None:
        torch.set_grad_enabled(True)  # torchinfo disables gradients during the pass and restores the mode after it

    hooks = (
        model.register_forward_pre_hook(record_gradients),
        model.register_forward_hook(lambda module, inputs, output: outputs.append(output)),
    )
    tally = FlopTally()
    try:
        with tally:
            statistics = torchinfo.summary(model, input_data=images_BCHW, mode="eval", verbose=0)
            forward_flops, forward_bytes = tally.flops, tally.bytes_moved
            if backward:
                model.zero_grad(set_to_none=True)
                logits = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
                torch.autograd.backward(logits, [torch.empty_like(leaf) for leaf in logits])
    finally:
        for hook in hooks:
            hook.remove()
    return _Pass(statistics=statistics, forward_flops=forward_flops, forward_bytes_moved=forward_bytes, tally=tally)


def _unused_parts(model: nn.Module, unused: set[int]) -> Iterator[UnusedPart]:
    """The topmost modules without any used parameter, and single unused parameters of other modules."""
    covered: list[str] = []
    for path, module in model.named_modules():
        parameters = list(module.parameters())
        if not parameters or any(path.startswith(prefix) for prefix in covered):
            continue
        if all(id(p) in unused for p in parameters):
            covered.append(f"{path}.")
            yield UnusedPart(path=path, params=_values(parameters))
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in unused:
                yield UnusedPart(path=f"{path}.{name}".lstrip("."), params=parameter.numel())


def _largest_layers(model: nn.Module, unused: set[int], total: int, top: int) -> tuple[LargeLayer, ...]:
    """Modules with the most parameters of their own, largest first, ties in the model's order.

    A parameter that two modules share counts for the first.
    """
    layers, seen = [], set[int]()
    for path, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(map(id, own))
        if own:
            params = _values(own)
            layers.append(
                LargeLayer(
                    path=path or "(model)",
                    kind=kind_of(module),
                    params=params,
                    share_of_params=params / total,
                    unused=all(id(p) in unused for p in own),
                )
            )
    return tuple(sorted(layers, key=lambda layer: -layer.params)[:top])


def _values(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _memory(model: nn.Module, unused: set[int], statistics: torchinfo.ModelStatistics) -> TrainingMemory:
    def size(tensors: Iterator[Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    gradients = size(p for p in model.parameters() if p.requires_grad and id(p) not in unused)
    return TrainingMemory(
        weight_bytes=size(model.parameters()),
        buffer_bytes=size(model.buffers()),
        gradient_bytes=gradients,
        adam_bytes=2 * gradients,
        activation_bytes=int(statistics.total_output_bytes),
    )


def layer_rows(infos: Sequence[LayerInfo], *, depth: int) -> tuple[LayerRow, ...]:
    """torchinfo's rows down to `depth`; the columns still add up to torchinfo's totals."""
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
    """A module's class and what decides its size: "Linear 4096→128", "Conv2d 320→1280 1×1"."""
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
    """A shape, or () where a module doesn't take or return exactly one tensor: torchinfo's list is nested or empty."""
    return tuple(side for side in size if isinstance(side, int))
