"""A model whose training step runs in several processes: averaged gradients, and batch norm over the whole batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from cifar_cli.core.training.sharded import shard


class Parallel:
    """Calls a model so that the backward pass averages the gradients over all processes.

    Batch norm takes mean and variance of the images of all of them. gradients, statistics: process groups. shards: keep
    a part of the weights in each process, in place of all.
    """

    def __init__(
        self, model: nn.Module, *, gradients: Any, statistics: Any, device_type: str, shards: bool = False
    ) -> None:
        self._model, self._gradients = model, gradients
        # Sharded at once, because the optimizer is to hold the parts.
        self._wrapped = shard(model, gradients, device_type=device_type) if shards else None
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
        self._batch_norm: Callable[[bool], AbstractContextManager[Any]] = lambda counted: nullcontext()
        if has_batch_norm:
            self._batch_norm = lambda counted: SyncedBatchNorm(statistics, counted=counted)

    def __call__(self, images_BCHW: Tensor, *, counted: bool = True) -> Tensor:
        """The logits [B, K] of this process's images, which are of the shape that later calls have.

        counted: whether the images are of the batch. A process that has none of it runs one for the others' sake.
        """
        if self._wrapped is None:
            self._wrapped = self._wrap(images_BCHW[:1])
        with self._batch_norm(counted):
            logits_BK: Tensor = self._wrapped(images_BCHW)
        return logits_BK

    def _wrap(self, images_BCHW: Tensor) -> nn.Module:
        # The layout of 1x1 kernels is ambiguous; a copy of their gradients takes no time.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        unused = has_unused_parameters(self._model, images_BCHW)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # a new name for broadcast_buffers
            return DistributedDataParallel(
                self._model,
                process_group=self._gradients,
                broadcast_buffers=False,  # they are equal: batch norm is synchronised
                find_unused_parameters=unused,
            )


def has_unused_parameters(model: nn.Module, images_BCHW: Tensor) -> bool:
    """Whether a trained parameter gets no gradient. Leaves the model as it is."""
    modes = {module: module.training for module in model.modules()}  # what is frozen has another one
    parameters = [each for each in model.parameters() if each.requires_grad]
    model.eval()  # keeps batch norm's statistics, and draws nothing
    logits_BK = model.forward(images_BCHW)
    for module, training in modes.items():
        module.training = training
    return None in torch.autograd.grad(logits_BK.sum(), parameters, allow_unused=True)


class SyncedBatchNorm(TorchFunctionMode):
    """While it is active, batch norm in training takes its statistics over a process group.

    torch's own SyncBatchNorm layers exist for CUDA only, and replacing layers would lose what timm's add to them.
    """

    def __init__(self, group: Any, *, counted: bool = True) -> None:
        super().__init__()
        self._group, self._counted = group, counted

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is not F.batch_norm:
            return function(*args, **kwargs or {})
        return self._batch_norm(*args, **kwargs or {})

    def _batch_norm(
        self,
        features: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(features, running_mean, running_var, weight, bias, training, momentum, eps)
        channels = features.shape[1]
        weight = features.new_ones(channels) if weight is None else weight
        bias = features.new_zeros(channels) if bias is None else bias
        size = dist.get_world_size(self._group)
        if features.is_cuda:
            own = features if self._counted else features[:0]
            ours: Tensor = SyncBatchNorm.apply(
                own, weight, bias, running_mean, running_var, eps, momentum, self._group, size
            )
            return ours if self._counted else features + ours.sum()  # the sum of nothing, for the backward pass
        normalised: Tensor = _Normalise.apply(
            features, weight, bias, running_mean, running_var, eps, momentum, self._group, self._counted
        )
        return normalised


class _Normalise(torch.autograd.Function):
    """Batch norm of features [B, C, ...] with the mean and variance over all processes of a group.

    Features that are not counted are normalised like the others' and change nothing.
    Source: Ioffe & Szegedy 2015; the gradient with both sums over the whole batch.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        running_mean_C: Tensor | None,
        running_var_C: Tensor | None,
        eps: float,
        momentum: float,
        group: Any,
        counted: bool,
    ) -> Tensor:
        values = features.to(torch.promote_types(features.dtype, torch.float32))
        dims = [dim for dim in range(values.ndim) if dim != 1]
        count = values.new_full((1,), values.numel() // values.shape[1])
        sums = torch.cat([values.sum(dims), count]) * counted
        dist.all_reduce(sums, group=group)
        images, mean_C = sums[-1], sums[:-1] / sums[-1]
        # Around the mean, not as a difference of squares, which loses digits.
        centred = values - _spread(mean_C, values)
        squares_C = centred.square().sum(dims) * counted
        dist.all_reduce(squares_C, group=group)
        inverse_C = (squares_C / images + eps).rsqrt()
        if running_mean_C is not None and running_var_C is not None:
            running_mean_C.lerp_(mean_C.to(running_mean_C.dtype), momentum)
            running_var_C.lerp_((squares_C / (images - 1)).to(running_var_C.dtype), momentum)
        normalised = centred * _spread(inverse_C, values)
        ctx.save_for_backward(normalised, weight_C, inverse_C, images)
        ctx.group, ctx.dims, ctx.counted = group, dims, counted
        scaled = normalised * _spread(weight_C, values) + _spread(bias_C, values)
        return scaled.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normalised, weight_C, inverse_C, images = ctx.saved_tensors
        values = gradient.to(normalised.dtype)
        bias_gradient_C, weight_gradient_C = values.sum(ctx.dims), (values * normalised).sum(ctx.dims)
        sums = torch.cat([bias_gradient_C, weight_gradient_C]) * ctx.counted
        dist.all_reduce(sums, group=ctx.group)
        mean_C, along_C = (sums / images).chunk(2)
        # Mean and variance don't depend on features that are not counted.
        through = values - (_spread(mean_C, values) + normalised * _spread(along_C, values)) * ctx.counted
        features_gradient = through * _spread(weight_C * inverse_C, values)
        parameters = (each.to(weight_C.dtype) for each in (weight_gradient_C, bias_gradient_C))
        return features_gradient.to(gradient.dtype), *parameters, None, None, None, None, None, None


def _spread(values_C: Tensor, like: Tensor) -> Tensor:
    """[C] shaped so that it is added to every pixel of [B, C, ...]."""
    return values_C.view(1, -1, *[1] * (like.ndim - 2))
