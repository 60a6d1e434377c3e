"""Count a model: its layer table, parameters, multiply-adds, FLOPs, and the parameters that never reach the logits.

The model runs on torch's meta device, where a tensor has a shape but no data. A batch of any size takes no memory and
little time, and no weights are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import takewhile

import torch
import torchinfo
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchinfo.layer_info import LayerInfo

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.flops import FlopTally
from cifar_cli.core.counting.image_size import SHAPE_ERRORS, build_for_counting, smallest_readable_side, to_meta
from cifar_cli.core.counting.results import LargeLayer, LayerRow, ModelSummary, TrainingMemory, UnusedPart
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.errors import ModelError

_TRAINABLE = {"True": "yes", "False": "no", "Partial": "part", "--": ""}


def summarize(config: SummaryConfig, *, on_progress: OnProgress = silent) -> ModelSummary:
    """Build the model without weights and count it.

    Raises ModelError for an unknown model, and for images that it can't read, with the smallest size that it can.
    """
    model = config.model
    if model.is_from_timm:
        from cifar_cli.core.models.cnn import timm_name

        timm_name(model)  # raises ModelError with the nearest names if timm lacks the model
    try:
        return count_module(build_for_counting(model), config)
    except SHAPE_ERRORS as error:
        smallest = smallest_readable_side(model, on_progress=on_progress)
        if smallest is None:
            if isinstance(error, ModelError):
                raise
            cause = error.__cause__ or error  # torchinfo wraps what the model raised
            why = next(iter(str(cause).splitlines()), type(cause).__name__)
            raise ModelError(
                f"{model.label} can't be counted at {model.img_size} pixels ({why})",
                remedy="pass another --img-size; many models need a multiple of 32",
            ) from error
        raise ModelError(
            f"{model.label} can't read {model.img_size}-pixel images",
            remedy=f"pass --img-size {smallest}, the smallest that works above {model.img_size}",
        ) from error


def count_module(model: nn.Module, config: SummaryConfig) -> ModelSummary:
    """Count any classifier that maps float images [B, 3, H, W] to logits.

    A copy of the model is counted on the meta device and in evaluation mode, where dropout and stochastic depth do
    nothing and batch normalisation accepts a single image.
    Raises the model's own errors on images that it can't read.
    """
    model = to_meta(model).eval()
    with FlopTally() as step:
        statistics, logits = _forward(model, config.batch, config.model.img_size)
        forward_flops, forward_bytes = step.flops, step.bytes_moved
        torch.autograd.backward(logits, [torch.empty_like(leaf) for leaf in logits])
    with FlopTally() as image:
        # One image is not the batch divided by its size: some models do work once per batch (SwinV2's position bias).
        image_statistics, _ = _forward(model, 1, config.model.img_size)
    unused = {id(p) for p in model.parameters() if p.requires_grad and p.grad is None}
    total = _values(model.parameters())
    unused_params = _values(p for p in model.parameters() if id(p) in unused)
    return ModelSummary(
        label=config.model.label,
        config=config.model,
        batch=config.batch,
        total_params=total,
        trainable_params=_values(p for p in model.parameters() if p.requires_grad),
        unused_params=unused_params,
        unused_parts=tuple(_unused_parts(model, unused)),
        unused_remedy="--trim-backbone" if unused_params and config.model.name == "hybrid" else None,
        macs_per_image=image_statistics.total_mult_adds,
        macs_per_batch=statistics.total_mult_adds,
        forward_flops_per_image=image.flops,
        forward_flops_per_batch=forward_flops,
        train_step_flops_per_batch=step.flops,
        forward_bytes_moved_per_batch=forward_bytes,
        memory=_memory(model, unused, statistics),
        largest_layers=_largest_layers(model, unused, total, config.top),
        layers=tuple(_layer_rows(statistics.summary_list, config.depth)),
        uncounted_operators=step.uncounted,
    )


def _forward(model: nn.Module, batch: int, img_size: int) -> tuple[torchinfo.ModelStatistics, list[Tensor]]:
    """Run one forward pass; return torchinfo's counts, and the logits with their graph."""
    outputs: list[object] = []

    def record_gradients(module: nn.Module, inputs: object) -> None:
        torch.set_grad_enabled(True)  # torchinfo disables gradients during the pass and restores the mode after it

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        outputs.append(output)

    images_BCHW = torch.empty(batch, 3, img_size, img_size, device="meta")
    with model.register_forward_pre_hook(record_gradients), model.register_forward_hook(keep):
        statistics = torchinfo.summary(model, input_data=images_BCHW, mode="eval", verbose=0)
    return statistics, [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]


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


def _layer_rows(infos: Sequence[LayerInfo], depth: int) -> Iterator[LayerRow]:
    """torchinfo's rows down to a depth. Every parameter and every multiply-add is in exactly one of them.

    A parameter counts in the first row whose module holds it, unless a row below that one holds it too. That includes
    modules that no row shows, because only their parent calls their parameters. Multiply-adds of rows that are too
    deep to be shown count in the row above them.
    """
    counted: set[int] = set()
    for place, info in enumerate(infos):
        if info.depth > depth:
            continue
        below = takewhile(partial(_is_below, info), infos[place + 1 :])
        shown_below = [other for other in below if other.depth <= depth]
        held_below = {id(p) for other in shown_below for p in other.module.parameters()}
        own = [p for p in info.module.parameters() if id(p) not in counted and id(p) not in held_below]
        counted.update(map(id, own))
        hidden = takewhile(lambda other: other.depth > depth, infos[place + 1 :])
        macs = sum(other.macs for other in (info, *hidden) if other.is_leaf_layer)
        yield LayerRow(
            name=info.var_name,
            kind=info.class_name,
            depth=info.depth,
            input_shape=_shape(info.input_size),
            output_shape=_shape(info.output_size),
            params=_values(own) or None,
            trainable=_TRAINABLE[info.trainable],
            macs=macs or None,
            recurs=info.is_recursive,
        )


def _is_below(container: LayerInfo, info: LayerInfo) -> bool:
    return bool(info.depth > container.depth)


def kind_of(module: nn.Module) -> str:
    """A module's class and its dimensions: "Linear 4096→128", "Conv2d 320→1280 1×1"."""
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        return f"{kind} {module.in_features}→{module.out_features}"
    if isinstance(module, nn.modules.conv._ConvNd):
        kernel = "×".join(str(side) for side in module.kernel_size)
        groups = f" groups {module.groups}" if module.groups > 1 else ""
        return f"{kind} {module.in_channels}→{module.out_channels} {kernel}{groups}"
    return kind


def _shape(size: Sequence[object]) -> tuple[int, ...]:
    """A shape, or () where a module doesn't take or return exactly one tensor: torchinfo's list is nested or empty."""
    return tuple(side for side in size if isinstance(side, int))
