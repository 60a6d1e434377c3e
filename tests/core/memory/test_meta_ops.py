from typing import Any

import pytest
import torch

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.meta_ops import MetaOperators
from cifar_cli.core.memory.trace import trace_steps
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig

ATEN = torch.ops.aten
HYBRID = ModelConfig(name="hybrid", weights="none")


class Uncached(MetaOperators):
    """Runs every operator itself, except the fused ones, which torch has not got for meta tensors."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func._schema.name.startswith("aten::_fused_"):
            return super().run(func, args, kwargs)
        return func(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        MemoryConfig(model=HYBRID),
        MemoryConfig(model=HYBRID, step=StepConfig(precision="bf16", optimizer="muon")),
        MemoryConfig(model=HYBRID, step=StepConfig(precision="16", optimizer="adamw", ema_decay=0.9)),
    ],
)
def test_caching_changes_no_event_and_no_size(config: MemoryConfig) -> None:
    model = build_untrained(HYBRID)
    cached = trace_steps(model, 6, config)
    uncached = trace_steps(model, 6, config, operators=Uncached())
    assert cached.events == uncached.events
    assert cached.sizes_bytes == uncached.sizes_bytes


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def twice(func: Any, *args: Any) -> tuple[Any, Any]:
    operators = MetaOperators()
    return operators.run(func, args, {}), operators.run(func, args, {})


def test_a_cached_result_is_a_new_tensor_with_the_same_metadata() -> None:
    first, again = twice(ATEN.mm.default, meta(3, 4), meta(4, 5))
    assert again.shape == first.shape == (3, 5)
    assert again.untyped_storage()._cdata != first.untyped_storage()._cdata


def test_a_view_shares_its_operands_memory_every_time() -> None:
    operand = meta(3, 4)
    for view in twice(ATEN.view.default, operand, [12]):
        assert view.untyped_storage()._cdata == operand.untyped_storage()._cdata


def test_equal_numbers_of_different_types_are_cached_apart() -> None:
    operators, whole = MetaOperators(), meta(2, dtype=torch.int64)
    assert operators.run(ATEN.mul.Scalar, (whole, 2), {}).dtype == torch.int64
    assert operators.run(ATEN.mul.Scalar, (whole, 2.0), {}).dtype == torch.float32


def test_operators_on_cpu_data_always_run() -> None:
    counter, operators = torch.zeros(()), MetaOperators()
    for _ in range(3):
        operators.run(ATEN.add_.Tensor, (counter, 1), {})
    assert counter.item() == 3


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("side", [1, 8])
@pytest.mark.parametrize(("images_last", "weight_last"), [(False, False), (True, False), (False, True)])
def test_a_convolution_returns_the_layout_of_a_real_one(
    groups: int, side: int, images_last: bool, weight_last: bool
) -> None:
    def laid_out(device: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, weight = torch.ones(2, 16, side, side), torch.ones(16, 16 // groups, 3, 3)
        if images_last:
            images = torch.ones(2, side, side, 16).permute(0, 3, 1, 2)
        if weight_last:
            weight = weight.contiguous(memory_format=torch.channels_last)
        return tuple(torch.empty_strided(t.shape, t.stride(), device=device) for t in (images, weight))  # type: ignore

    rest = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups)
    real = ATEN.convolution.default(*laid_out("cpu"), *rest)
    for answer in twice(ATEN.convolution.default, *laid_out("meta"), *rest):
        assert answer.shape == real.shape
        assert answer.stride() == real.stride()
