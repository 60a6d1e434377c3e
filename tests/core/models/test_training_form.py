from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cifar_cli.core.models.blocked import Blocked
from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.training_form import training_form

DTYPES = [torch.float32, torch.bfloat16]
POOLINGS = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)]


def passed(model: nn.Module, images: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The outputs, and the gradients of images and parameters."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs = model(images)
    (outputs.float() * torch.arange(outputs.shape[-1])).sum().backward()
    found = [each.grad for each in (images, *model.parameters()) if each.grad is not None]
    assert all(each.count_nonzero() for each in found)
    return [outputs.detach(), *found]


def same_as_formed(plain: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The training form, once its outputs and gradients were seen to be those of the plain one."""
    formed = training_form(copy.deepcopy(plain))
    assert formed.state_dict().keys() == plain.state_dict().keys()
    for one, other in zip(passed(plain, images, dtype), passed(formed, images, dtype), strict=True):
        difference = (one.float() - other.float()).norm() / one.float().norm()
        assert difference < {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    return formed


def identity(channels: int) -> nn.Conv2d:
    kernel = nn.Conv2d(channels, channels, 1, bias=False)
    kernel.weight.data.copy_(torch.eye(channels)[:, :, None, None])
    return kernel


def levels() -> Tensor:
    """Images of few values [4, 3, 16, 16], with windows whose largest stands twice, and windows without a positive."""
    drawn = torch.randint(-2, 2, (4, 3, 16, 16), generator=torch.Generator().manual_seed(1)).float()
    windows = drawn.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert (windows.topk(2).values.diff().eq(0) & windows.amax(-1, keepdim=True).gt(0)).any()
    assert windows.amax(-1).le(0).any()
    return drawn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_null_in_its_training_form_gives_the_same_outputs_and_gradients(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
    model = build_model(ModelConfig(name="null", weights="none"), seed=3).to(memory_format=layout)
    features = same_as_formed(model, images, dtype).get_submodule("features")
    assert isinstance(features, Blocked)
    assert [type(layer).__name__ for layer in features] == ["Conv2d", "MaxPool2d", "ReLU"] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("blocked", [False, True])
def test_ties_and_windows_without_a_positive_value_are_treated_alike(
    blocked: bool, pooling: nn.MaxPool2d, dtype: torch.dtype
) -> None:
    first = identity(3) if blocked else nn.Identity()
    formed = same_as_formed(nn.Sequential(first, nn.ReLU(), pooling), levels(), dtype)
    assert isinstance(formed, Blocked) == blocked
    assert isinstance(list(formed.children())[1], nn.MaxPool2d)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 8, 3, stride=2, groups=2),
        nn.Conv2d(4, 6, (3, 1), padding=(1, 0), bias=False),
        nn.Conv2d(4, 5, 3, dilation=2, padding=2),
    ],
)
def test_a_blocked_convolution_is_the_same_with_stride_groups_dilation_and_without_bias(convolution: nn.Conv2d) -> None:
    images = torch.randn(3, 4, 20, 20, generator=torch.Generator().manual_seed(1))
    assert isinstance(same_as_formed(nn.Sequential(convolution, nn.MaxPool2d(2)), images), Blocked)


def test_a_frozen_kernel_gets_no_gradient() -> None:
    model = training_form(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)))
    model.get_parameter("0.weight").requires_grad_(False)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert model.get_parameter("0.weight").grad is None
    assert model.get_parameter("0.bias").grad is not None
    assert model.get_parameter("2.weight").grad is not None


@pytest.mark.parametrize(
    "layers",
    [
        (nn.GELU(), nn.MaxPool2d(2)),
        (nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
        (nn.ReLU(), nn.MaxPool2d(2, dilation=2)),
        (nn.ReLU(inplace=True), nn.MaxPool2d(2)),  # changes a tensor that others may hold
    ],
)
def test_pooling_stays_where_going_first_would_be_another_function(layers: tuple[nn.Module, ...]) -> None:
    assert list(training_form(nn.Sequential(*layers))) == list(layers)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 4, 3), nn.ReLU()),  # nothing to gain
        (nn.ReLU(), nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3, padding="same"), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, dilation=2)),
    ],
)
def test_other_layers_stay_in_torch_s_layout(layers: tuple[nn.Module, ...]) -> None:
    assert type(same_as_formed(nn.Sequential(*layers), torch.randn(2, 3, 12, 12))) is nn.Sequential


@pytest.mark.parametrize("why", ["switched off", "float64"])
def test_blocked_layers_run_as_plain_ones_where_onednn_doesn_t_compute(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "to_mkldnn", lambda *_, **__: pytest.fail("went to oneDNN"))
    dtype = torch.float64 if why == "float64" else torch.float32
    model = training_form(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2))).to(dtype)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", why == "float64")
    assert model(torch.randn(2, 3, 12, 12, dtype=dtype)).shape == (2, 4, 5, 5)
