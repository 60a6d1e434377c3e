from typing import Any

import pytest
import torch

from cifar_cli.core.memory.config import StepConfig
from cifar_cli.core.memory.meta_ops import Shapes
from cifar_cli.core.memory.trace import trace_steps
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig

ATEN = torch.ops.aten


@pytest.mark.parametrize(
    "step",
    [
        StepConfig(),
        StepConfig(physics="cpu", precision="bf16", optimizer="adamw"),
        StepConfig(optimizer="sgd", momentum=0.9, nesterov=True, foreach=False, keep_gradients=True, clip_norm=None),
    ],
)
def test_remembering_changes_no_event_and_no_size(step: StepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_untrained(ModelConfig(name="hybrid", weights="none"))
    remembered = trace_steps(model, 6, img_size=32, classes=10, step=step)
    monkeypatch.setattr(Shapes, "run", lambda self, func, args, kwargs: func(*args, **kwargs))
    asked = trace_steps(model, 6, img_size=32, classes=10, step=step)
    assert remembered.events == asked.events
    assert remembered.sizes_bytes == asked.sizes_bytes


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def twice(func: Any, *args: Any) -> tuple[Any, Any]:
    shapes = Shapes()
    return shapes.run(func, args, {}), shapes.run(func, args, {})


def test_a_remembered_result_is_a_new_tensor_of_the_same_kind() -> None:
    first, again = twice(ATEN.mm.default, meta(3, 4), meta(4, 5))
    assert again.shape == first.shape == (3, 5)
    assert again.untyped_storage()._cdata != first.untyped_storage()._cdata


def test_a_view_shares_its_operands_memory_every_time() -> None:
    operand = meta(3, 4)
    for view in twice(ATEN.view.default, operand, [12]):
        assert view.untyped_storage()._cdata == operand.untyped_storage()._cdata


def test_numbers_that_are_equal_but_of_other_types_are_told_apart() -> None:
    shapes, whole = Shapes(), meta(2, dtype=torch.int64)
    assert shapes.run(ATEN.mul.Scalar, (whole, 2), {}).dtype == torch.int64
    assert shapes.run(ATEN.mul.Scalar, (whole, 2.0), {}).dtype == torch.float32


def test_data_on_the_cpu_is_really_computed() -> None:
    counter, shapes = torch.zeros(()), Shapes()
    for _ in range(3):
        shapes.run(ATEN.add_.Tensor, (counter, 1), {})
    assert counter.item() == 3


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("side", [1, 8])
@pytest.mark.parametrize(("images_last", "weight_last"), [(False, False), (True, False), (False, True)])
def test_a_convolution_answers_in_the_layout_of_a_real_one(
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
