"""CUDA's autocast for tensors without data, by the dispatcher's own lists.

torch has no autocast for meta tensors, and a fake CUDA tensor can't run a backward pass without a GPU. The lists of
AutocastCUDA are macros in a header that every wheel of torch contains (`ATen/autocast_mode.h`). They are read from
there and registered for a dispatch key that no installed backend uses. The dispatcher then casts in the same places as
on a GPU: in operators that other operators call, in nested regions with `enabled=False`, and in recomputed activations.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache, partial, reduce
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

DEVICE = "hpu"  # the stand-in: the dispatcher knows its autocast, which is above that of `cuda_operators`
_KEY: Any = getattr(torch._C.DispatchKey, "AutocastHPU")  # noqa: B009 - torch's stubs lack it
_MEANT = ("meta", "cuda", None)  # device types in a model's code that mean the stand-in during a trace
_AFTER_HEADER = re.compile(r"#define AT_FORALL_(\w+)\(_\)((?:[^\n]*\\\n)+[^\n]*)")
_NAME = re.compile(r"_\((\w+)(?:, (\w+))?\)")


class _Casts(threading.local):
    """Weights that were cast in the current region, by their id."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Tensor, Tensor]] = {}


_casts = _Casts()


def autocast_lists() -> dict[str, tuple[str, ...]]:
    """Operators by AutocastCUDA's policy, in torch's spelling: LOWER_PRECISION_FP, FP32, FP32_SET_OPT_DTYPE, PROMOTE.

    Source: the macros AT_FORALL_* of the installed torch's `ATen/autocast_mode.h`.
    """
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    macros = dict(_AFTER_HEADER.findall(header.read_text(encoding="utf-8")))
    return {
        policy: tuple(f"{name}.{overload or 'default'}" for name, overload in _NAME.findall(body))
        for policy, body in macros.items()
        if policy in _POLICIES
    }


@contextlib.contextmanager
def cuda_autocast_on_meta() -> Iterator[None]:
    """Let `torch.autocast("meta", …)` and `torch.autocast("cuda", …)` cast meta tensors as AutocastCUDA would."""
    _register()

    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(device: str | None = None, *rest: Any) -> Any:
            if isinstance(device, bool):  # set_autocast_enabled(True) means CUDA
                return function(DEVICE, device)
            return function(DEVICE if device in _MEANT else device, *rest)

        return call

    places = [(torch._C, "_is_autocast_available")] + [
        (torch, name)
        for name in ("is_autocast_enabled", "set_autocast_enabled", "get_autocast_dtype", "set_autocast_dtype")
    ]
    with contextlib.ExitStack() as entered:
        for owner, name in places:
            entered.enter_context(patch.object(owner, name, named(getattr(owner, name))))
        entered.enter_context(patch.object(torch, "clear_autocast_cache", _forget(torch.clear_autocast_cache)))
        entered.enter_context(torch._C._IncludeDispatchKeyGuard(_KEY))
        entered.enter_context(_timm_as_on_cuda())
        yield


@contextlib.contextmanager
def _timm_as_on_cuda() -> Iterator[None]:
    """timm's efficientvit computes its attention in float32 within autocast, but not on meta tensors."""
    module = sys.modules.get("timm.models.efficientvit_mit")
    if module is None:
        yield
        return
    attention = module.LiteMLA._attn

    def in_float32(*args: Any) -> Any:
        with torch.autocast("cuda", enabled=False):
            return attention(*args)

    with patch.object(module.LiteMLA, "_attn", in_float32):
        yield


@lru_cache(maxsize=1)
def _register() -> tuple[Any, ...]:
    """Register the casts once a process. They run only where `cuda_autocast_on_meta` includes their key."""
    libraries = kernels_for("AutocastHPU")
    aten = libraries[-1]
    for policy, names in autocast_lists().items():
        for name in names:
            packet, overload = name.split(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload)
            aten.impl(operator, partial(_POLICIES[policy], operator), "AutocastHPU")
    norms = (
        (torch.ops.aten.norm.Scalar, "ScalarOpt_dtype"),
        (torch.ops.aten.norm.ScalarOpt_dim, "ScalarOpt_dim_dtype"),
    )
    for operator, with_dtype in norms:
        aten.impl(operator, partial(_norm, operator, getattr(torch.ops.aten.norm, with_dtype)), "AutocastHPU")
    return libraries  # torch forgets the kernels of a library that is collected


def kernels_for(key: str) -> tuple[Any, Any]:
    """Libraries for kernels of an autocast key: one lets all operators pass, the other is for ATen's."""
    library: Any = torch.library.Library
    everything, aten = library("_", "IMPL"), library("aten", "IMPL")
    everything.fallback(torch.library.fallthrough_kernel, key)
    return everything, aten


def _lower(operator: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(operator, _cast(args, _dtype()), _cast(kwargs, _dtype()))


def _float32(operator: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(operator, _cast(args, torch.float32), _cast(kwargs, torch.float32))


def _result_float32(operator: Any, *args: Any, **kwargs: Any) -> Any:
    places = [argument.name for argument in operator._schema.arguments]
    at = places.index("dtype")
    given = args[at] if len(args) > at else kwargs.get("dtype")
    if given is None and _eligible(args[0]):
        args, kwargs = args[:at], kwargs | {"dtype": torch.float32}
    return _run(operator, args, kwargs)


def _widest(operator: Any, *args: Any, **kwargs: Any) -> Any:
    dtypes = [value.dtype for value in _flat((args, kwargs)) if _eligible(value)]
    return _run(operator, *(_cast(values, reduce(torch.promote_types, dtypes, _dtype())) for values in (args, kwargs)))


def _norm(operator: Any, with_dtype: Any, *args: Any, **kwargs: Any) -> Any:
    if not _eligible(args[0]):
        return _run(operator, args, kwargs)
    rest = {"p": 2, "dim": None, "keepdim": False} if operator is torch.ops.aten.norm.ScalarOpt_dim else {"p": 2}
    rest |= dict(zip(rest, args[1:], strict=False)) | kwargs
    return _run(with_dtype, (args[0], *rest.values()), {"dtype": torch.float32})


_POLICIES: dict[str, Callable[..., Any]] = {
    "LOWER_PRECISION_FP": _lower,
    "FP32": _float32,
    "FP32_SET_OPT_DTYPE": _result_float32,
    "PROMOTE": _widest,
}


def _run(operator: Any, args: Any, kwargs: Any) -> Any:
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_KEY)):
        return operator(*args, **kwargs)


def _dtype() -> torch.dtype:
    return torch.get_autocast_dtype(DEVICE)


def _eligible(value: Any) -> bool:
    on_device = isinstance(value, Tensor) and value.device.type == "meta"
    return on_device and value.is_floating_point() and value.dtype is not torch.float64


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast tensors; weights in float32 once per region, as torch's cache does."""
    if isinstance(value, (list, tuple)):
        return type(value)([_cast(item, dtype) for item in value])
    if isinstance(value, dict):
        return {name: _cast(item, dtype) for name, item in value.items()}
    if not _eligible(value) or value.dtype is dtype:
        return value
    cached = dtype is _dtype() and value.dtype is torch.float32 and value.requires_grad and value.is_leaf
    if not cached or value._is_view() or not torch.is_autocast_cache_enabled():
        return _converted(value, dtype)
    known = _casts.known
    if id(value) not in known:
        known[id(value)] = (value, _converted(value, dtype))
    return known[id(value)][1]


def _converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_KEY)):
        return value.to(dtype)


def _forget(clear: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        _casts.known.clear()
        clear()

    return both


def _flat(values: Any) -> Iterator[Any]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, (list, tuple, dict)):
            yield from _flat(value)
        else:
            yield value
