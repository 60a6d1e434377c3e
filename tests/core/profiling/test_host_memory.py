import pytest
import torch
from torch import nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.profiling.autocast import Autocast
from cifar_cli.core.profiling.config import MemoryConfig, StepConfig
from cifar_cli.core.profiling.host import scratch_bytes
from cifar_cli.core.profiling.max_batch import Tracer
from cifar_cli.core.profiling.measure import measure
from cifar_cli.core.profiling.replay import tensor_peak_bytes

BF16 = torch.bfloat16


@pytest.mark.parametrize("batch", [3, 8])
def test_bf16_on_the_host_is_predicted_within_one_percent_for_null(batch: int) -> None:
    config = MemoryConfig(model=ModelConfig(name="null"), step=StepConfig(precision="bf16", physics="cpu"))
    seen = measure(config, batch, device="cpu").peak_allocated_bytes
    assert tensor_peak_bytes(Tracer(config).at(batch)) == pytest.approx(seen, rel=0.01)


def test_autocast_keeps_layer_norm_in_float32_on_cuda_and_not_on_the_cpu() -> None:
    images = torch.empty(2, 8, dtype=BF16, device="meta")
    norm = nn.LayerNorm(8, device="meta")
    with Autocast(BF16, physics="cuda"):
        assert norm(images).dtype == torch.float32
    with Autocast(BF16, physics="cpu"):
        assert norm(images.to(BF16)).dtype == BF16


@pytest.mark.parametrize("physics", ["cuda", "cpu"])
def test_autocast_lowers_linear_layers_and_keeps_the_loss_in_float32(physics: str) -> None:
    with Autocast(BF16, physics=physics):  # type: ignore[arg-type]
        logits = nn.Linear(8, 4, device="meta")(torch.empty(2, 8, device="meta"))
        loss = nn.functional.cross_entropy(logits, torch.empty(2, dtype=torch.long, device="meta"))
    assert (logits.dtype, loss.dtype) == (BF16, torch.float32)


def convolution(groups: int, side: int, dtype: torch.dtype) -> tuple[object, ...]:
    pad = side // 2
    images = torch.empty(2, 16, 32, 32, dtype=dtype, device="meta")
    weight = torch.empty(16, 16 // groups, side, side, dtype=dtype, device="meta")
    return images, weight, None, [1, 1], [pad, pad], [1, 1], False, [0, 0], groups


@pytest.mark.parametrize(
    ("groups", "side", "passing"),
    [(1, 3, (9 * 65536,)), (1, 1, (0,)), (4, 3, (16384 + 9 * 16384,)), (16, 1, (65536,))],
)
def test_without_a_16_bit_kernel_a_convolution_unfolds_its_input(
    groups: int, side: int, passing: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = torch.ops.aten.convolution.default
    monkeypatch.setattr("cifar_cli.core.profiling.host._has_own_kernel", lambda tensor: False)
    assert scratch_bytes(forward, convolution(groups, side, BF16)) == passing
    monkeypatch.undo()
    assert scratch_bytes(forward, convolution(groups, side, torch.float32)) == ()
