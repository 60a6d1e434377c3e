"""torch's FLOP counter with three corrections.

- Fused attention: whether torch counts it depends on torch's version and the device (pytorch issue 195460), and its
  backward pass counts the recomputed scores as well. Here attention always runs as explicit matrix products.
- Backward pass of a grouped convolution: torch ignores the groups, which makes a depthwise layer hundreds of times
  too expensive. Here `convolution_backward_flops` counts it.
- Operators without a FLOP formula: torch silently counts them as zero. Here they are listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from math import prod
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cifar_cli.core.counting.results import UncountedOperator

# Kinds of arithmetic by an operator's complete name.
_NAMES = {
    "elementwise": "hardswish hardsigmoid hardtanh glu prelu",  # torch doesn't tag these pointwise
    "reduction": "sum mean var_mean std_mean var std amax amin max min prod cumsum logsumexp argmax",
}
# Kinds of arithmetic by a part of an operator's name.
_PARTS = {
    "normalisation": "batch_norm layer_norm group_norm rms_norm vector_norm",
    "pooling": "pool",
    "softmax": "softmax",
    "resampling": "upsample interpolate grid_sampler",
}
# Operators that only move, create or look up values.
_NO_ARITHMETIC = frozenset(
    """
    arange as_strided as_strided_scatter assert_async assert_scalar bernoulli cat channel_shuffle clone col2im
    constant_pad_nd contiguous copy detach embedding embedding_dense empty empty_like empty_permuted empty_strided
    expand eye fill flip full full_like gather im2col index index_copy index_put index_select lift_fresh linspace
    local_scalar_dense masked_fill masked_select meshgrid native_dropout new_empty new_empty_strided new_full
    new_ones new_zeros normal ones ones_like pixel_shuffle pixel_unshuffle rand rand_like randn randn_like randperm
    reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad2d reshape_copy resize roll
    scalar_tensor scatter select select_scatter set slice slice_scatter split split_with_sizes stack to_copy tril
    triu unbind unfold uniform unsafe_index unsafe_index_put unsafe_split unsafe_view where zero zeros zeros_like
    """.split()  # noqa: SIM905
)


class FlopTally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context manager that counts every operator that runs inside it, in forward and backward passes."""

    bytes_moved: int = 0
    """Bytes read and written so far by all operators except views, each tensor once per operator, without fusion or
    cache."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = FlopCounterMode(
            display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward_flops}
        )
        self._uncounted: Counter[tuple[str, str]] = Counter()
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        # The counter is innermost: it splits composite operators before `__torch_dispatch__` sees them.
        for context in (sdpa_kernel(SDPBackend.MATH), self._counter):
            self._entered.enter_context(context)
        return self

    def __exit__(self, *details: Any) -> None:
        self._entered.close()
        super().__exit__(*details)  # type: ignore[no-untyped-call]

    @property
    def flops(self) -> int:
        """FLOPs so far, two for each multiply-add."""
        return int(self._counter.get_total_flops())

    @property
    def uncounted(self) -> tuple[UncountedOperator, ...]:
        """Operators that do arithmetic but have no FLOP formula: unknown ones first, then by number of calls."""
        found = (
            UncountedOperator(name=name, group=group, calls=calls) for (name, group), calls in self._uncounted.items()
        )
        return tuple(sorted(found, key=lambda item: (item.group != "unknown", -item.calls, item.name)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace == "prim" or func.overloadpacket.__name__.startswith(("empty", "new_empty")):
            return result
        self.bytes_moved += sum(
            leaf.numel() * leaf.element_size()
            for leaf in tree_leaves((args, kwargs, result))
            if isinstance(leaf, Tensor)
        )
        if func.overloadpacket not in self._counter.flop_registry:
            group = operator_group(func)
            if group is not None:
                self._uncounted[_name(func), group] += 1
        return result


def operator_group(func: Any) -> str | None:
    """Return the kind of arithmetic that an operator does; None for no arithmetic, "unknown" if in doubt.

    func: a torch.ops overload, such as torch.ops.aten.gelu.default.
    """
    forward = func.overloadpacket.__name__.strip("_").removesuffix("_data").removesuffix("_backward")
    if func.namespace != "aten":
        return "unknown"
    if forward in _NO_ARITHMETIC:
        return None
    for group, names in _NAMES.items():
        if forward in names.split():
            return group
    for group, parts in _PARTS.items():
        if any(part in forward for part in parts.split()):
            return group
    if torch.Tag.pointwise in func.tags or torch.Tag.pointwise in _forward_tags(forward):
        return "elementwise"
    return "unknown"


def _forward_tags(name: str) -> Sequence[Any]:
    """Tags of the plain forward operator `name`, because torch tags no in-place and backward variants; may be empty."""
    packet = getattr(torch.ops.aten, name, None)
    return [tag for overload in packet.overloads() for tag in getattr(packet, overload).tags] if packet else []


def _name(func: Any) -> str:
    name: str = func.overloadpacket.__name__
    return name if func.namespace == "aten" else f"{func.namespace}::{name}"


def convolution_backward_flops(
    grad_out_shape: Sequence[int], x_shape: Sequence[int], weight_shape: Sequence[int], *options: Any, **kwargs: Any
) -> int:
    """FLOPs of a convolution's backward pass, groups included.

    The gradient of the input and the gradient of the weight each take as many multiply-adds as the forward pass:
    one for each pair of an output value and a weight that contributed to it. weight_shape is
    [out, in/groups, …], transposed [in, out/groups, …], so its product accounts for the groups.
    options: torch's other arguments: bias sizes, stride, padding, dilation, transposed, output padding, groups, and
    which gradients are requested.
    """
    transposed, asked = options[4], options[7]
    pixels = prod((x_shape if transposed else grad_out_shape)[2:])
    forward = 2 * x_shape[0] * pixels * prod(weight_shape)
    return forward * (int(asked[0]) + int(asked[1]))
