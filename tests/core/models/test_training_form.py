"""The form of a model that is trained: equal results in every memory format."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cifar_cli.core.choices import MemoryFormat, names
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


def with_hook(layer: nn.Conv2d) -> nn.Conv2d:
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


def equal_in_onednn(plain: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Assert that the form in oneDNN's layout has equal outputs and gradients, and return it."""
    formed = training_form(copy.deepcopy(plain), "onednn")
    assert formed.state_dict().keys() == plain.state_dict().keys()
    wanted, found = passed(plain, images, dtype), passed(formed, images, dtype)
    for one, other in zip(wanted, found, strict=True):
        difference = (one.float() - other.float()).norm() / one.float().norm()
        assert difference < {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    return formed


class Conversions(TorchFunctionMode):
    """Records the precision of every tensor that is converted to oneDNN's layout."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.to_mkldnn:
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def converted() -> Iterator[list[torch.dtype]]:
    """The precision of every tensor that the test converts to oneDNN's layout."""
    with Conversions() as conversions:
        yield conversions.dtypes


def identity(channels: int) -> nn.Conv2d:
    kernel = nn.Conv2d(channels, channels, 1, bias=False)
    kernel.weight.data.copy_(torch.eye(channels)[:, :, None, None])
    return kernel


def levels() -> Tensor:
    """Images of few values [4, 3, 16, 16]: some windows have two equal maxima, some have no positive value."""
    drawn = torch.randint(-2, 2, (4, 3, 16, 16), generator=torch.Generator().manual_seed(1)).float()
    windows = drawn.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert (windows.topk(2).values.diff().eq(0) & windows.amax(-1, keepdim=True).gt(0)).any()
    assert windows.amax(-1).le(0).any()
    return drawn


def test_every_memory_format_has_a_layout_and_trains() -> None:
    assert {*LAYOUTS} == {*names(MemoryFormat)}
    for memory_format in LAYOUTS:
        model = training_form(build_model(ModelConfig(name="null", weights="none"), seed=3), memory_format)
        passed(model, images_of(32), torch.float32)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_before_relu_is_equal_for_ties_and_for_windows_without_a_positive_value(pooling: nn.MaxPool2d) -> None:
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
    layers = zip(formed.get_submodule("features").children(), [nn.Conv2d, nn.MaxPool2d, nn.ReLU] * 2, strict=True)
    assert all(isinstance(layer, kind) for layer, kind in layers)
    assert all(map(torch.equal, passed(plain, images, dtype), passed(formed, images, dtype)))


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, needs_bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_null_is_equal_in_onednn_s_layout(
    dtype: torch.dtype, layout: torch.memory_format, converted: list[torch.dtype]
) -> None:
    model = build_model(ModelConfig(name="null", weights="none"), seed=3)
    formed = equal_in_onednn(model, images_of(32).to(memory_format=layout), dtype)
    assert isinstance(formed.get_submodule("features"), OneDNNSequential)
    assert converted == [dtype] * 5  # images, two kernels, two biases


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, needs_bfloat16])
@pytest.mark.parametrize("relu", [nn.ReLU(), None])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_onednn_s_layout_is_equal_for_ties_and_for_windows_without_a_positive_value(
    pooling: nn.MaxPool2d, relu: nn.ReLU | None, dtype: torch.dtype, converted: list[torch.dtype]
) -> None:
    layers = (identity(3), *([] if relu is None else [relu]), pooling)
    equal_in_onednn(nn.Sequential(*layers), levels(), dtype)
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
def test_convolutions_in_onednn_s_layout_support_stride_groups_dilation_and_no_bias(
    convolution: Callable[[], nn.Conv2d], converted: list[torch.dtype]
) -> None:
    equal_in_onednn(nn.Sequential(convolution(), nn.MaxPool2d(2)), images_of(20))
    assert converted


@pytest.mark.slow
@needs_onednn
def test_a_vgg_trains_in_onednn_s_layout(converted: list[torch.dtype]) -> None:
    model = timm.create_model("vgg11", num_classes=10)
    model.pre_logits = nn.Identity()  # it needs 224 pixels
    model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    equal_in_onednn(model, images_of(32)[:2])
    assert len(converted) == 1 + 2 * 8


@needs_onednn
def test_a_model_in_onednn_s_layout_can_be_copied_partly_frozen_and_used_for_inference() -> None:
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
        (nn.ReLU(inplace=True), nn.MaxPool2d(2)),  # modifies a tensor that other layers may read
        (OtherReLU(), nn.MaxPool2d(2)),
    ],
)
def test_pooling_stays_after_relu_where_swapping_would_change_the_results(layers: tuple[nn.Module, ...]) -> None:
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
        (with_hook(nn.Conv2d(3, 4, 3)), nn.MaxPool2d(2)),
    ],
)
def test_other_layers_stay_in_torch_s_layout(layers: tuple[nn.Module, ...]) -> None:
    model = nn.Sequential(*layers)
    assert not trains_in_onednn(model, CPU)
    assert type(training_form(model, "onednn")) is nn.Sequential


def test_a_onednn_sequence_rejects_layers_that_onednn_lacks() -> None:
    with pytest.raises(AssertionError, match="BatchNorm2d"):
        OneDNNSequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4))


@needs_onednn
def test_only_a_cpu_trains_in_onednn_s_layout() -> None:
    model = build_model(ModelConfig(name="null", weights="none"))
    assert trains_in_onednn(model, CPU)
    assert not trains_in_onednn(model, torch.device("cuda"))


@pytest.mark.filterwarnings("ignore:TF32")  # torch's own switch of oneDNN warns about Intel GPUs
@pytest.mark.parametrize("case", ["oneDNN disabled", "float16", "float64", "one image"])
def test_a_onednn_sequence_runs_as_a_plain_one_on_inputs_that_onednn_does_not_support(
    case: str, converted: list[torch.dtype]
) -> None:
    images = images_of(12)[0] if case == "one image" else images_of(12)
    if case == "float64":
        images = images.double()
    model = training_form(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), "onednn").to(images.dtype)
    assert type(model) is OneDNNSequential
    with (
        torch.backends.mkldnn.flags(enabled=case != "oneDNN disabled"),
        torch.autocast("cpu", dtype=torch.float16, enabled=case == "float16"),
    ):
        assert model(images).shape[-3:] == (4, 5, 5)
    assert not converted


def test_bfloat16_stays_in_torch_s_layout_on_a_processor_without_it(
    converted: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    model = training_form(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), "onednn")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images_of(12)).dtype == torch.bfloat16
    assert not converted


def test_a_onednn_sequence_compiles_to_one_graph_without_onednn() -> None:
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        graphs.append(graph.print_readable(print_output=False))
        return graph.forward

    model = training_form(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), "onednn")
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    assert compiled(images_of(12)).shape == (8, 4, 5, 5)
    (graph,) = graphs
    assert "conv2d" in graph
    assert "mkldnn" not in graph
