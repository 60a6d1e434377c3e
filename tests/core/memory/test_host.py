import gc
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from cifar_cli.core.choices import Precision
from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, tensor_peak_bytes
from cifar_cli.core.memory.host import Call, call_of, scratch_bytes, watched_allocations
from cifar_cli.core.memory.real_steps import measure, run_on_host, try_steps
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import StepConfig

BF16 = torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["null", "cnn", "hybrid"])
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("batch", [6, 24])
def test_predicted_peak_is_within_one_percent_of_the_hosts_allocator(
    name: str, precision: Precision, batch: int
) -> None:
    config = MemoryConfig(
        model=ModelConfig(name=name, weights="none"), step=StepConfig(precision=precision), backend="cpu"
    )
    measured = measure(config, batch).peak_allocated_bytes
    assert tensor_peak_bytes(Tracer(config).at(batch)) == pytest.approx(measured, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_fused_attention_is_predicted_to_one_percent(precision: Precision) -> None:
    model = ModelConfig(name="timm:test_vit", img_size=160, weights="none")
    config = MemoryConfig(model=model, step=StepConfig(precision=precision), backend="cpu")
    measured = measure(config, 2).peak_allocated_bytes
    assert tensor_peak_bytes(Tracer(config).at(2)) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_wide_classifier_is_predicted_to_one_percent(precision: Precision) -> None:
    """Without bf16 instructions oneDNN multiplies into a float32 copy of the result."""
    model = ModelConfig(name="timm:test_resnet", classes=20_000, img_size=64, weights="none")
    config = MemoryConfig(model=model, step=StepConfig(precision=precision), backend="cpu")
    measured = measure(config, 4).peak_allocated_bytes
    assert tensor_peak_bytes(Tracer(config).at(4)) == pytest.approx(measured, rel=0.01)


@pytest.mark.slow
def test_blocks_that_were_allocated_before_are_not_subtracted_from_the_peak() -> None:
    config = MemoryConfig(model=ModelConfig(name="null"), backend="cpu")
    clean = measure(config, 2).peak_allocated_bytes

    def collecting(*arguments: Any, **options: Any) -> float:
        gc.collect()
        return try_steps(*arguments, **options)

    with watched_allocations():
        first = [torch.zeros(1_000_000) for _ in range(50)]
    addresses = {tensor.data_ptr() for tensor in first}
    del first
    left: list[Any] = [torch.zeros(1_000_000) for _ in range(50)]
    assert addresses & {tensor.data_ptr() for tensor in left}
    left.append(left)
    del left
    assert run_on_host(config, None, 2, run=collecting).peak_allocated_bytes == clean


def convolution(images: torch.Tensor) -> Call | None:
    weight = torch.empty(16, 16, 3, 3, dtype=images.dtype, device="meta")
    args = images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    return call_of(torch.ops.aten.convolution.default, args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_batch_norm_holds_a_second_copy_of_its_result(dtype: torch.dtype) -> None:
    model = torch.nn.BatchNorm2d(16)
    images = torch.randn(8, 16, 32, 32, dtype=dtype, requires_grad=True)
    held = images.numel() * images.element_size()
    call = call_of(
        torch.ops.aten.native_batch_norm_backward.default,
        (images, images, model.weight.to(dtype), None, None, model.weight.to(dtype), model.weight.to(dtype), True, 1e-5,
         [True, True, True]),
    )  # fmt: skip
    assert call is not None
    (scratch,) = scratch_bytes([call])
    assert held <= scratch < 1.1 * held


def test_equal_calls_compare_equal_and_operators_without_scratch_are_left_out() -> None:
    images = torch.empty(2, 16, 32, 32, device="meta")
    assert convolution(images) == convolution(images.clone())
    assert convolution(images) != convolution(images.bfloat16())
    assert convolution(images) != convolution(images.contiguous(memory_format=torch.channels_last))
    assert call_of(torch.ops.aten.relu.default, (images,)) is None


def test_scratch_excludes_operands_and_results() -> None:
    images, result_bytes = torch.empty(4, 16, 8, 8, dtype=BF16, device="meta"), 4 * 16 * 4
    mean = call_of(torch.ops.aten.mean.dim, (images, [2, 3]))
    assert mean is not None
    # torch sums 16-bit values in float32: a copy of the images, and the sums before they are rounded again.
    (scratch,) = scratch_bytes([mean])
    assert images.numel() * 4 <= scratch <= images.numel() * 4 + result_bytes
    whole, half = convolution(images), convolution(images[:2])
    assert whole is not None
    assert half is not None
    assert scratch_bytes([half, whole, half])[::2] == scratch_bytes([half]) * 2
    assert scratch_bytes([]) == []


def test_a_trace_for_a_gpu_runs_no_operator_on_the_host() -> None:
    tracer = Tracer(MemoryConfig(model=ModelConfig(name="null")))
    with watched_allocations() as watched:
        tracer.at(64)
    assert watched.peak_bytes() < 64 * 3 * 32 * 32 * 4  # not even one batch of images


ON_AN_OLDER_PROCESSOR = """
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.memory.estimate import Tracer, tensor_peak_bytes
from cifar_cli.core.memory.real_steps import measure
from cifar_cli.core.training.config import StepConfig

config = MemoryConfig(model=ModelConfig(name="null"), step=StepConfig(precision="bf16"), backend="cpu")
print(tensor_peak_bytes(Tracer(config).at(16)), measure(config, 16).peak_allocated_bytes)
"""


@pytest.mark.slow
def test_bf16_is_predicted_without_16_bit_instructions_too() -> None:
    older = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", ON_AN_OLDER_PROCESSOR], env=older, capture_output=True, text=True, check=True
    )
    predicted, measured = map(int, done.stdout.split())
    assert predicted == pytest.approx(measured, rel=0.01)
