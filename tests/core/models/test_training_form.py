from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.onednn import OneDNNSequential, computes
from cifar_cli.core.models.training_form import LAYOUTS, training_form, trains_in_onednn

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
POOLINGS = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)]

needs_onednn = pytest.mark.skipif(not computes(torch.float32), reason="this torch was built without oneDNN")
needs_bfloat16 = pytest.param(
    torch.bfloat16, marks=pytest.mark.skipif(not computes(torch.bfloat16), reason="this processor has no bfloat16")
)


class OtherReLU(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


def watched(layer: nn.Conv2d) -> nn.Conv2d:
    layer.register_forward_hook(lambda *_: None)
    return layer


def images_of(side: int) -> Tensor:
    return torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(1))


def passed(model: nn.Module, images: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The outputs, and the gradients of images and parameters."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs = model(images)
    (outputs.float() * torch.arange(outputs.shape[-1])).sum().backward()
    found = [each.grad for each in (images, *model.parameters()) if each.grad is not None]
    assert all(each.count_nonzero() for each in found)
    return [outputs.detach(), *found]


def same_in_onednn(plain: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The form in oneDNN's layout, once it was seen to compute there, and the same as the plain model does."""
    formed = training_form(copy.deepcopy(plain), "onednn")
    assert formed.state_dict().keys() == plain.state_dict().keys()
    wanted, found = passed(plain, images, dtype), passed(formed, images, dtype)
    for one, other in zip(wanted, found, strict=True):
        difference = (one.float() - other.float()).norm() / one.float().norm()
        assert difference < {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    return formed


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The precision of everything that is brought into oneDNN's layout."""
    dtypes: list[torch.dtype] = []
    original = Tensor.to_mkldnn

    def spied(self: Tensor) -> Tensor:
        dtypes.append(self.dtype)
        return original(self)

    monkeypatch.setattr(Tensor, "to_mkldnn", spied)
    return dtypes


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


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_before_relu_treats_ties_and_windows_without_a_positive_value_alike(pooling: nn.MaxPool2d) -> None:
    plain = nn.Sequential(nn.Identity(), nn.ReLU(), pooling)
    formed = training_form(copy.deepcopy(plain), "contiguous")
    assert isinstance(list(formed.children())[1], nn.MaxPool2d)
    wanted, found = (passed(model, levels(), torch.float32) for model in (plain, formed))
    assert all(map(torch.equal, wanted, found))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", ["channels-last", "contiguous"])
def test_null_in_its_training_form_gives_equal_outputs_and_gradients(dtype: torch.dtype, memory_format: str) -> None:
    images = images_of(32).to(memory_format=LAYOUTS[memory_format])
    plain = build_model(ModelConfig(name="null", weights="none"), seed=3).to(memory_format=LAYOUTS[memory_format])
    formed = training_form(copy.deepcopy(plain), memory_format)
    assert [type(layer).__name__ for layer in formed.get_submodule("features")] == ["Conv2d", "MaxPool2d", "ReLU"] * 2
    assert all(map(torch.equal, passed(plain, images, dtype), passed(formed, images, dtype)))


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, needs_bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_null_computes_the_same_in_onednn_s_layout(
    dtype: torch.dtype, layout: torch.memory_format, converted: list[torch.dtype]
) -> None:
    model = build_model(ModelConfig(name="null", weights="none"), seed=3)
    formed = same_in_onednn(model, images_of(32).to(memory_format=layout), dtype)
    assert isinstance(formed.get_submodule("features"), OneDNNSequential)
    assert converted == [dtype] * 5  # images, two kernels, two biases


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, needs_bfloat16])
@pytest.mark.parametrize("relu", [nn.ReLU(), None])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_in_onednn_s_layout_ties_and_windows_without_a_positive_value_are_treated_alike(
    pooling: nn.MaxPool2d, relu: nn.ReLU | None, dtype: torch.dtype, converted: list[torch.dtype]
) -> None:
    layers = (identity(3), *([] if relu is None else [relu]), pooling)
    same_in_onednn(nn.Sequential(*layers), levels(), dtype)
    assert converted == [dtype] * 2


@needs_onednn
@pytest.mark.parametrize(
    "convolution",
    [
        partial(nn.Conv2d, 3, 6, 3, stride=2, groups=3),
        partial(nn.Conv2d, 3, 6, (3, 1), padding=(1, 0), bias=False),
        partial(nn.Conv2d, 3, 5, 3, dilation=2, padding=2),
    ],
)
def test_a_convolution_in_onednn_s_layout_knows_stride_groups_dilation_and_no_bias(
    convolution: Callable[[], nn.Conv2d], converted: list[torch.dtype]
) -> None:
    same_in_onednn(nn.Sequential(convolution(), nn.MaxPool2d(2)), images_of(20))
    assert converted


@needs_onednn
def test_a_vgg_trains_in_onednn_s_layout(converted: list[torch.dtype]) -> None:
    model = timm.create_model("vgg11", num_classes=10)
    model.pre_logits = nn.Identity()  # which wants 224 pixels
    model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    same_in_onednn(model, images_of(32)[:2])
    assert len(converted) == 1 + 2 * 8


@needs_onednn
def test_what_runs_in_onednn_s_layout_can_be_copied_frozen_and_only_looked_at() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    formed = copy.deepcopy(training_form(model, "onednn"))
    formed.get_parameter("0.weight").requires_grad_(False)
    outputs = formed(images_of(16))
    outputs.sum().backward()
    assert formed.get_parameter("0.weight").grad is None
    assert formed.get_parameter("0.bias").grad is not None
    assert formed.get_parameter("2.weight").grad is not None
    with torch.inference_mode():
        assert torch.equal(formed(images_of(16)), outputs)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.GELU(), nn.MaxPool2d(2)),
        (nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
        (nn.ReLU(), nn.MaxPool2d(2, dilation=2)),
        (nn.ReLU(inplace=True), nn.MaxPool2d(2)),  # changes a tensor that others may hold
        (OtherReLU(), nn.MaxPool2d(2)),
    ],
)
def test_pooling_stays_where_going_first_would_be_another_function(layers: tuple[nn.Module, ...]) -> None:
    assert list(training_form(nn.Sequential(*layers), "contiguous").children()) == list(layers)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 4, 3), nn.ReLU()),  # nothing to gain
        (nn.ReLU(), nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3, padding="same"), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, dilation=2)),
        (nn.Conv2d(3, 4, 3), OtherReLU(), nn.MaxPool2d(2)),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.MaxPool2d(2)),
        (watched(nn.Conv2d(3, 4, 3)), nn.MaxPool2d(2)),
    ],
)
def test_other_layers_stay_in_torch_s_layout(layers: tuple[nn.Module, ...]) -> None:
    model = nn.Sequential(*layers)
    assert not trains_in_onednn(model, CPU)
    assert type(training_form(model, "onednn")) is nn.Sequential


def test_layers_that_onednn_doesn_t_have_can_t_be_put_into_its_sequence() -> None:
    with pytest.raises(AssertionError, match="BatchNorm2d"):
        OneDNNSequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4))


@needs_onednn
def test_only_a_cpu_trains_in_onednn_s_layout() -> None:
    model = build_model(ModelConfig(name="null", weights="none"))
    assert trains_in_onednn(model, CPU)
    assert not trains_in_onednn(model, torch.device("cuda"))


@pytest.mark.parametrize("why", ["no oneDNN", "no bfloat16", "float64", "one image", "compiling"])
def test_a_sequence_for_onednn_runs_as_a_plain_one_where_it_has_to(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "to_mkldnn", lambda *_: pytest.fail("went to oneDNN"))
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", why != "no oneDNN")
    if why == "no bfloat16":
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    if why == "compiling":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    images = images_of(12)[0] if why == "one image" else images_of(12)
    if why == "float64":
        images = images.double()
    model = training_form(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), "onednn").to(images.dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=why == "no bfloat16"):
        assert model(images).shape[-3:] == (4, 5, 5)
