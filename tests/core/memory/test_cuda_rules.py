"""What CUDA's autocast casts and which kernels CUDA runs, on tensors without data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cifar_cli.core.memory.autocast import autocast_lists
from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.cuda_operators import attention_kernel
from cifar_cli.core.memory.trace import tensors_of, trace_steps
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig

BF16 = torch.bfloat16


@contextmanager
def autocast_cuda() -> Iterator[None]:
    """torch's own, which `torch.autocast` leaves disabled without a GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", BF16)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def off(device: str) -> Any:
    return torch.autocast(device, enabled=False)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda half, full: F.linear(half, full),
    "square": lambda half, full: half.square(),
    "norm": lambda half, full: half.norm(),
    "norm over a dimension": lambda half, full: half.norm(dim=-1, keepdim=True),
    "normalize": lambda half, full: F.normalize(half, dim=-1),
    "rms norm": lambda half, full: F.rms_norm(half, (8,)),
    "layer norm": lambda half, full: F.layer_norm(half, (8,)),
    "softmax": lambda half, full: half.softmax(-1),
    "sum": lambda half, full: half.sum(-1),
    "mean": lambda half, full: half.mean(-1),
    "prod": lambda half, full: half.prod(-1),
    "einsum": lambda half, full: torch.einsum("ij,kj->ik", half, full),
    "addcmul": lambda half, full: torch.addcmul(half, half, full),
    "upsample": lambda half, full: F.interpolate(half[None, None], scale_factor=2, mode="nearest"),
    "gelu": lambda half, full: F.gelu(half),
    "a region without autocast": lambda half, full: _without(half, full),
    "a float64 operand": lambda half, full: full.double() @ full.double(),
}


def _without(half: Tensor, full: Tensor) -> Tensor:
    with off(half.device.type):
        return half.float() @ full


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_result_has_the_type_that_autocast_gives_it_on_cuda(operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    with FakeTensorMode(), autocast_cuda():
        expected = operation(torch.empty(8, 8, dtype=BF16, device="cuda"), torch.empty(8, 8, device="cuda"))
    with tensors_of("cuda"), torch.autocast("meta", dtype=BF16):
        found = operation(torch.empty(8, 8, dtype=BF16, device="meta"), torch.empty(8, 8, device="meta"))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


def test_the_attention_of_timm_s_efficientvit_is_in_float32_as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm leaves autocast's exception out on tensors without data."""
    from timm.models.efficientvit_mit import LiteMLA

    seen: list[torch.dtype] = []
    attention = LiteMLA._attn

    def recorded(layer: Any, query: Tensor, key: Tensor, value: Tensor) -> Any:
        seen.append((key.float().transpose(-1, -2) @ value.float()).dtype)
        return attention(layer, query, key, value)

    monkeypatch.setattr(LiteMLA, "_attn", recorded)
    with torch.device("meta"):
        layer = LiteMLA(16, 16)
    with tensors_of("cuda"), torch.autocast("meta", dtype=BF16):
        assert layer(torch.empty(2, 16, 8, 8, device="meta")).dtype == BF16
    assert seen == [torch.float32]
    assert LiteMLA._attn is recorded


def test_the_lists_are_those_of_the_dispatcher() -> None:
    listed = {f"aten::{name.removesuffix('.default')}" for names in autocast_lists().values() for name in names}
    known = {
        name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA")
    }
    # Two signatures of norm are registered apart; the others are refused under autocast, or exist with cuDNN only.
    apart = {"aten::norm.Scalar", "aten::norm.ScalarOpt_dim", "aten::binary_cross_entropy", "aten::linalg_matrix_sqrth"}
    assert listed <= known
    assert {name for name in known - listed - apart if "cudnn" not in name} == set()


def test_outside_of_a_trace_nothing_is_cast() -> None:
    with tensors_of("cuda"):
        pass
    assert F.linear(torch.ones(2, 8), torch.ones(8, 8)).dtype == torch.float32
    with pytest.raises(RuntimeError, match="unsupported"):
        torch.autocast("meta")


def heads(size: int, dtype: torch.dtype = BF16, *, tokens: int = 50, count: int = 2) -> Tensor:
    return torch.empty(2, count, tokens, size, dtype=dtype, device="meta", requires_grad=True)


@pytest.mark.parametrize(
    ("query", "mask", "kernel"),
    [
        (heads(64), None, "flash"),
        (heads(36), None, "flash"),  # padded to 40
        (heads(64), torch.empty(50, 50, device="meta"), "efficient"),
        (heads(36), torch.empty(50, 50, device="meta"), "math"),
        (heads(64, torch.float32), None, "efficient"),
        (heads(66, torch.float32), None, "math"),
        (heads(208), None, "efficient"),  # the flash kernel has no backward pass for this size
        (heads(512), None, "efficient"),
        (torch.empty(2, 50, 64, dtype=BF16, device="meta"), None, "math"),
        (heads(64).transpose(2, 3), None, "math"),
    ],
)
def test_attention_runs_the_kernel_that_cuda_chooses(query: Tensor, mask: Tensor | None, kernel: str) -> None:
    assert attention_kernel(query, query, query, mask) == kernel


@pytest.mark.parametrize(
    ("size", "dtype", "masked", "kept"),
    [
        (64, BF16, False, 2 * 2 * 50 * 64 * 2 + 2 * 2 * 50 * 4),  # the result and the sums of the flash kernel
        (64, torch.float32, False, 2 * 2 * 50 * 64 * 4 + 2 * 2 * 64 * 4),  # sums in rows of 32
        (64, BF16, True, 2 * 2 * 50 * 64 * 2 + 2 * 2 * 64 * 4 + 50 * 56 * 2),  # and the mask once, padded to 56
    ],
)
def test_fused_attention_keeps_its_result_and_no_scores(size: int, dtype: torch.dtype, masked: bool, kept: int) -> None:
    saved: dict[int, int] = {}
    query = heads(size, dtype)
    mask = torch.empty(50, 50, dtype=dtype, device="meta") if masked else None

    def keep(tensor: Tensor) -> Tensor:
        if tensor is not query and tensor.numel() > 8:
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with tensors_of("cuda"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
        result.sum().backward()
    saved.pop(query.untyped_storage()._cdata, None)
    assert sum(saved.values()) == kept
    assert query.grad is not None


class Recomputing(nn.Module):
    """Activation checkpointing of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3 * 32 * 32, 64), nn.GELU(), nn.Linear(64, 10))

    def forward(self, images_BCHW: Tensor) -> Any:
        return checkpoint(self.inner, images_BCHW.flatten(1), use_reentrant=False)


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_recomputed_activations_are_traced_in_every_precision(precision: Any) -> None:
    config = MemoryConfig(model=ModelConfig(name="null"), step=StepConfig(precision=precision))
    assert trace_steps(Recomputing(), 4, config).events


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(96, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 10)

    def forward(self, images_BCHW: Tensor) -> Any:
        return self.head(self.rows(images_BCHW.permute(0, 2, 1, 3).flatten(2))[0].mean(1))


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("backend", ["cuda", "cpu"])
def test_an_lstm_is_traced_in_every_precision(precision: Any, backend: Any) -> None:
    config = MemoryConfig(model=ModelConfig(name="null"), step=StepConfig(precision=precision), backend=backend)
    assert trace_steps(Recurrent(), 4, config).events
