"""A training step with sharded weights: each process keeps a part of every weight, of its gradient and its states.

Source: Zhao et al. 2023, "PyTorch FSDP"; torch's `fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only


def shard(model: nn.Module, group: Any, *, device_type: str) -> nn.Module:
    """Replace every parameter by this process's part of it. The model is changed in place, and returned.

    Its blocks are sharded one by one, so that the weights of one block at a time are complete during a step. group: the
    process group that shares the weights, each of which has the same ones.
    """
    mesh = DeviceMesh.from_group(group, device_type)
    model.to(memory_format=torch.contiguous_format)  # the only one that can be sharded
    for block in list(_blocks(model)):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in sequences and lists that consist of several modules and can be called."""
    for child in module.children():
        is_listed = isinstance(module, nn.Sequential | nn.ModuleList)
        can_be_called = not isinstance(child, nn.ModuleList | nn.ModuleDict)
        has_weights = next(child.parameters(), None) is not None
        if is_listed and can_be_called and has_weights and next(child.children(), None) is not None:
            yield child
        else:
            yield from _blocks(child)


def own_part(tensor: Tensor) -> Tensor:
    """What this process keeps of a tensor: a part of one that is sharded, all of any other."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(values: Any, *, keep: bool = True) -> Any:
    """The same nested containers with complete tensors in place of sharded ones. Called by all processes.

    Each complete tensor is put into the memory of the host before the next one is made: a device may have no room for
    all of them. keep: False leaves them out, for a process that doesn't need them.
    """

    def complete(tensor: DTensor) -> Tensor | None:
        made: Tensor = tensor.full_tensor()
        return made.cpu() if keep else None

    return tree_map_only(DTensor, complete, values)


def load_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load complete tensors into a model, sharded or not. Raises RuntimeError where they don't fit."""
    parts = {key: own for key, own in model.state_dict().items() if isinstance(own, DTensor)}
    model.load_state_dict({key: _like(value, parts[key]) if key in parts else value for key, value in state.items()})


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load complete states into an optimizer of weights that are sharded or not."""
    optimizer.load_state_dict(state)
    for weight, states in optimizer.state.items():
        for name, value in states.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                states[name] = _like(value, weight)


def _like(value: Tensor, own: Tensor) -> Tensor:
    """A complete tensor, sharded and laid out in memory as another one is. Each process has it, so nothing is sent."""
    if isinstance(own, DTensor):
        complete = value.to(own.device).contiguous()
        return distribute_tensor(complete, own.device_mesh, own.placements, src_data_rank=None)
    # Fused optimizers take a weight and its states to have the same strides.
    return torch.empty_like(own, dtype=value.dtype).copy_(value)
