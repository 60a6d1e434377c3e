"""The FLOP counter against costs calculated by hand and by torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_cli.core.counting.flops import FlopTally, operator_group

BATCH, TOKENS, WIDTH, HEADS = 2, 6, 8, 2


class Attention(nn.Module):
    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.fused = fused

    def forward(self, x_BTC: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BTC).reshape(BATCH, TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def step_flops(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """FLOPs of the forward pass and of the training step."""
    with FlopTally() as tally:
        y = model(x)
        forward = tally.flops
        y.sum().backward()
    return forward, tally.flops


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("fused", [True, False])
def test_fused_and_explicit_attention_have_equal_counts_on_every_device(device: str, fused: bool) -> None:
    model = Attention(fused=fused).to(device)
    forward, step = step_flops(model, torch.zeros(BATCH, TOKENS, WIDTH, device=device))
    linear = 2 * BATCH * TOKENS * WIDTH * 3 * WIDTH
    products = 2 * (2 * BATCH * TOKENS * TOKENS * WIDTH)  # scores, then their sum over values
    assert forward == linear + products
    assert step == forward + linear + 2 * products  # the input needs no gradient, the products' both sides do


@pytest.mark.parametrize("training", [True, False])
def test_torch_s_multihead_attention_has_equal_counts_in_training_and_evaluation_mode(training: bool) -> None:
    model = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).train(training)
    x = torch.zeros(BATCH, TOKENS, WIDTH)
    with FlopTally() as tally:
        model(x, x, x, need_weights=False)
    projections = 4 * 2 * BATCH * TOKENS * WIDTH * WIDTH
    assert tally.flops == projections + 2 * (2 * BATCH * TOKENS * TOKENS * WIDTH)


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("stride", [1, 2])
def test_backward_flops_of_an_ungrouped_convolution_equal_torch_s(layer: type[nn.Conv2d], stride: int) -> None:
    model = layer(4, 6, 3, stride=stride, padding=1)
    x = torch.zeros(2, 4, 9, 9, requires_grad=True)
    with FlopCounterMode(display=False) as theirs:
        model(x).sum().backward()
    assert step_flops(model, x)[1] == theirs.get_total_flops()


@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_convolution_costs_the_sum_of_its_groups(groups: int) -> None:
    channels, side = 8, 5
    grouped = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
    alone = nn.Conv2d(channels // groups, channels // groups, 3, padding=1)
    of_all = step_flops(grouped, torch.zeros(2, channels, side, side, requires_grad=True))
    of_one = step_flops(alone, torch.zeros(2, channels // groups, side, side, requires_grad=True))
    assert of_all == (groups * of_one[0], groups * of_one[1])
    assert of_all[1] == 3 * of_all[0]


def test_bytes_moved_are_inputs_weights_and_outputs_once_per_operator_without_views() -> None:
    linear = nn.Linear(3, 5, bias=False)
    x = torch.zeros(2, 3)
    with torch.no_grad(), FlopTally() as tally:
        linear(x).view(5, 2).t()
    assert tally.bytes_moved == 4 * (2 * 3 + 3 * 5 + 2 * 5)


def test_operators_without_a_flop_formula_are_listed_by_kind_unless_they_only_move_data() -> None:
    x = torch.zeros(1, 4, 4, 4)
    with FlopTally() as tally:
        F.max_pool2d(F.gelu(F.layer_norm(x, (4,))), 2).softmax(-1).mean().clone()
    assert {(op.name, op.group) for op in tally.uncounted} == {
        ("native_layer_norm", "normalisation"),
        ("gelu", "elementwise"),
        ("max_pool2d_with_indices", "pooling"),
        ("_softmax", "softmax"),
        ("mean", "reduction"),
    }
    assert tally.flops == 0


def test_a_custom_operator_is_listed_first_as_unknown() -> None:
    @torch.library.custom_op("cifar_test::mystery", mutates_args=())
    def mystery(x: Tensor) -> Tensor:
        return x.clone()

    with FlopTally() as tally:
        mystery(torch.zeros(3)).relu()
    assert [(op.name, op.group, op.calls) for op in tally.uncounted] == [
        ("cifar_test::mystery", "unknown", 1),
        ("relu", "elementwise", 1),
    ]


def test_operators_of_linear_algebra_without_a_formula_are_unknown() -> None:
    assert operator_group(torch.ops.aten.linalg_inv_ex.default) == "unknown"
    assert operator_group(torch.ops.aten._fft_r2c.default) == "unknown"
    assert operator_group(torch.ops.aten.hardswish_backward.default) == "elementwise"
    assert operator_group(torch.ops.aten.copy_.default) is None
