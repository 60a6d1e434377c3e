"""A traced step whose batch several GPUs share: DDP's buckets of gradients, and FSDP's parts of the weights.

The memory is that of the first GPU, whose part of every tensor is the largest. Both run torch's own code: DDP's rule
for buckets, and `fully_shard` with a process group that has no other processes and collectives that send nothing.
"""

from __future__ import annotations

import contextlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter
from torch.utils._python_dispatch import _disable_current_modes

from cifar_cli.core.memory.config import MIB, MemoryConfig
from cifar_cli.core.training.sharded import shard

Mark = Callable[[Iterable[Tensor], Any], None]
FIRST_BUCKET_BYTES = MIB  # torch's dist._DEFAULT_FIRST_BUCKET_BYTES
BUCKET_BYTES = 25 * MIB  # DistributedDataParallel's bucket_cap_mb
# The parts of torch's FSDP that refuse tensors without data, or that need a stream of a real device.
_FSDP = "torch.distributed.fsdp._fully_shard"
_PROPAGATOR = "torch.distributed.tensor._sharding_prop.ShardingPropagator._propagate_tensor_meta_non_cached"


def shared_between_gpus(model: nn.Module, config: MemoryConfig, mark: Mark) -> Callable[[Tensor], Tensor]:
    """What to call in place of the model, as `Ranks.parallel`. mark: sets the category of tensors."""
    if config.devices == 1:
        return model
    if not config.shards:
        return Bucketed(model, mark)
    shard(model, dist.group.WORLD, device_type="cpu")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(_AllGather())
            module.set_custom_reduce_scatter(_ReduceScatter())
    return model


class Bucketed:
    """Calls a model, and holds the buckets into which DDP copies the gradients to average them.

    One bucket holds all gradients of the first step. Before the second, buckets of limited size are made in the order
    in which the gradients came (torch's DistributedDataParallel and its Reducer). A model with
    parameters that get no gradient keeps its first ones; together they are as large.
    """

    def __init__(self, model: nn.Module, mark: Mark) -> None:
        self._model, self._mark = model, mark
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._arrived: list[Tensor] = []
        self._rebuilt = False
        self.buckets: list[Tensor] = []
        for parameter in self._trained:
            parameter.register_post_accumulate_grad_hook(self._arrive)  # type: ignore[no-untyped-call]

    def _arrive(self, parameter: Tensor) -> None:
        if not self._rebuilt:
            self._arrived.append(parameter)

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        if not self.buckets:
            self._make([sum(parameter.nbytes for parameter in self._trained)])
        elif not self._rebuilt and len(self._arrived) == len(self._trained):
            self._rebuilt = True
            self._make(bucket_bytes(self._arrived))
        logits_BK: Tensor = self._model(images_BCHW)
        return logits_BK

    def _make(self, sizes: Iterable[int]) -> None:
        self.buckets.clear()  # before the new ones are made
        device = self._trained[0].device
        self.buckets.extend(torch.empty(size, dtype=torch.uint8, device=device) for size in sizes)
        self._mark(self.buckets, "gradient buckets")


def bucket_bytes(parameters: Sequence[Tensor]) -> list[int]:
    """The sizes of DDP's buckets for gradients that arrive in the order of these parameters."""
    groups, _ = dist._compute_bucket_assignment_by_size(  # type: ignore[attr-defined]
        list(parameters), [FIRST_BUCKET_BYTES, BUCKET_BYTES], [False] * len(parameters)
    )
    return [sum(parameters[at].numel() * parameters[at].element_size() for at in group) for group in groups]


@contextlib.contextmanager
def several_gpus(config: MemoryConfig, resized: Callable[[torch.UntypedStorage, int], None]) -> Iterator[None]:
    """Let `shard` work on meta tensors, as on the first of several GPUs. resized: is told of storages that are resized.

    Without FSDP it changes nothing.
    """
    if not config.shards:
        yield
        return
    resize = torch.UntypedStorage.resize_

    def and_tell(storage: torch.UntypedStorage, size: int) -> Any:
        resized(storage, size)
        return resize(storage, size)

    with contextlib.ExitStack() as entered:
        entered.enter_context(patch.object(torch.UntypedStorage, "resize_", and_tell))
        entered.enter_context(patch(f"{_FSDP}._fsdp_param_group.FSDPParamGroup._validate_no_meta_params", _nothing))
        entered.enter_context(
            patch(f"{_FSDP}._fsdp_collectives.record_grad_output_stream", _nothing, create=True)  # not in every version
        )
        entered.enter_context(_unseen(_PROPAGATOR))
        entered.enter_context(_alone_among(config.devices))
        yield


@contextlib.contextmanager
def _alone_among(processes: int) -> Iterator[None]:
    """Be the first process of a group whose others don't exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _unseen(method: str) -> Iterator[None]:
    """Hide the tensors that a method makes from the recorder: DTensor computes with copies of the shapes."""
    owner, _, name = method.rpartition(".")
    target = pkgutil.resolve_name(owner)
    original = getattr(target, name)

    def hidden(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return original(*args, **kwargs)

    with patch.object(target, name, hidden):
        yield


def _nothing(*_: Any, **__: Any) -> None:
    return None


class _WithoutData:
    """Allocates on the device of the parts, which have no data."""

    def allocate(self, size: Sequence[Any], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    def __call__(self, *_: Any, **__: Any) -> None:
        """Send nothing."""


class _AllGather(_WithoutData, AllGather): ...


class _ReduceScatter(_WithoutData, ReduceScatter): ...
