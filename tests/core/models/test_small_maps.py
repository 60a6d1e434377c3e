"""Convolutions of small maps as products: equal to torch's own."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifar_cli.core.models import small_maps
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.onednn import OneDNNSequential
from cifar_cli.core.models.small_maps import SmallMapConv2d
from cifar_cli.core.models.training_form import training_form, trains_in_onednn

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03}
MAPS = [(1, 1), (2, 1), (1, 3), (2, 2), (3, 6), (5, 5)]
KERNELS: list[Any] = [1, 3, (3, 2), 5]


def passed(layer: nn.Module, maps: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients, of the maps and of the parameters."""
    maps = maps.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        made = layer(maps)
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    (made.float() * weights).sum().backward()
    assert made.dtype == dtype
    return [made.detach(), *(each.grad for each in (maps, *layer.parameters()) if each.grad is not None)]


def as_products(layer: nn.Conv2d) -> nn.Module:
    assert SmallMapConv2d.takes(layer)
    return training_form(copy.deepcopy(layer), "channels-last")


def assert_as_torch(layer: nn.Conv2d, maps: Tensor, dtype: torch.dtype) -> None:
    """Assert that output and gradients are those of torch's own convolution in float32."""
    expected, found = passed(layer, maps, torch.float32), passed(as_products(layer), maps, dtype)
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert (one - other.float()).norm() <= TOLERANCE[dtype] * one.norm() + 1e-6, (layer, maps.shape, one.shape)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_every_geometry_has_equal_outputs_and_gradients(kernel: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    done = 0
    for sides, stride, padding, channels in product(MAPS, (1, 2, (2, 3)), (0, 1, (2, 0)), (3, 16)):
        layer = nn.Conv2d(channels, 8, kernel, stride=stride, padding=padding, bias=channels == 3)
        maps = torch.randn(7, channels, *sides)
        try:
            layer(maps)
        except RuntimeError:
            continue  # the kernel is larger than the map with its padding
        assert_as_torch(layer, maps, dtype)
        done += 1
    assert done >= 20


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_weights_gradient_is_added_up_in_parts(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_maps, "COLUMN_VALUES", 9 * 4 * 9 * 5)  # five images at a time
    torch.manual_seed(0)
    assert_as_torch(nn.Conv2d(4, 8, 3, padding=1), torch.randn(13, 4, 3, 3), dtype)


def test_gradients_in_bfloat16_are_finite_where_those_of_torch_may_not_be() -> None:
    """torch 2.15's own gradient of the weights reads memory that nothing has set in maps of one column."""
    torch.manual_seed(0)
    for _ in range(20):
        assert_as_torch(nn.Conv2d(16, 8, 3, stride=2, padding=1), torch.randn(2, 16, 2, 1), torch.bfloat16)


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_the_maps_is_kept(side: int, layout: torch.memory_format) -> None:
    """Other layers choose their kernels by the strides, also of a single position."""
    plain = nn.Conv2d(4, 8, 3, padding=1).to(memory_format=layout)
    maps = torch.empty(2, 4, side, side).to(memory_format=layout).fill_(1).requires_grad_()
    if layout == torch.channels_last and side == 1:
        maps = torch.ones(2, 1, 1, 4).permute(0, 3, 1, 2).requires_grad_()
    made = as_products(plain)(maps)
    channels_last = layout == torch.channels_last
    assert (made.stride(3) != 1) == channels_last
    made.sum().backward()
    assert maps.grad is not None
    assert (maps.grad.stride(3) != 1) == channels_last


def test_only_what_needs_a_gradient_gets_one() -> None:
    layer = as_products(nn.Conv2d(4, 8, 3, padding=1))
    layer(torch.randn(2, 4, 2, 2)).sum().backward()
    assert all(each.grad is not None for each in layer.parameters())
    layer.requires_grad_(False)
    maps = torch.randn(2, 4, 2, 2, requires_grad=True)
    layer(maps).sum().backward()
    assert maps.grad is not None


@pytest.mark.parametrize(
    ("maps", "products"),
    [
        (torch.zeros(2, 4, 2, 2), True),
        (torch.zeros(2, 4, 2, 2, dtype=torch.float64), False),
        (torch.zeros(2, 4, 32, 32), False),
        (torch.zeros(2, 4, 2, 2, device="meta"), False),
        (torch.zeros(4, 2, 2), False),
        (torch.zeros(0, 4, 2, 2), False),
    ],
    ids=["small", "float64", "large", "another device", "one image", "no image"],
)
def test_others_are_convolved_by_torch(maps: Tensor, products: bool) -> None:
    layer = as_products(nn.Conv2d(4, 8, 3, padding=1)).to(maps.device, maps.dtype)
    names = {type(node).__name__ for node in nodes_of(layer(maps))}
    assert ("_ConvolutionBackward" in names) == products


def nodes_of(made: Tensor) -> list[Any]:
    found, left = [], [made.grad_fn]
    while left:
        node = left.pop()
        if node is not None:
            found.append(node)
            left += [before for before, _ in node.next_functions]
    return found


def test_layers_that_compute_something_else_are_left_alone() -> None:
    class Own(nn.Conv2d):
        pass

    others: list[nn.Module] = [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        Own(4, 4, 3),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Linear(4, 4),
    ]
    model = training_form(nn.ModuleList(others), "channels-last")
    assert [type(layer) for layer in model.children()] == [type(layer) for layer in others]


def test_the_form_of_a_model_has_them_with_the_same_parameters_and_hooks() -> None:
    plain = build_model(ModelConfig(name="airbench", weights="none"), seed=0)
    called = []
    plain.blocks[1][0].register_forward_hook(lambda *_: called.append(True))  # type: ignore[index]
    names = plain.state_dict().keys()
    formed = training_form(plain, "channels-last")
    assert formed.state_dict().keys() == names
    assert {type(layer) for layer in formed.modules() if isinstance(layer, nn.Conv2d)} == {SmallMapConv2d}
    formed(torch.zeros(2, 3, 32, 32))
    assert called


@pytest.mark.skipif(
    not trains_in_onednn(build_model(ModelConfig(name="null", weights="none"), seed=0), torch.device("cpu")),
    reason="this torch was built without oneDNN",
)
def test_layers_in_onednns_layout_stay_as_they_are() -> None:
    formed = training_form(build_model(ModelConfig(name="null", weights="none"), seed=0), "onednn")
    inside = [layer for each in formed.modules() if isinstance(each, OneDNNSequential) for layer in each]
    assert inside
    assert not any(isinstance(layer, SmallMapConv2d) for layer in inside)
