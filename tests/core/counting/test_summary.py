"""Counts of complete models against published figures, other counters and sums by hand."""

from __future__ import annotations

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.results import ModelSummary
from cifar_cli.core.counting.summary import count_module, summarize
from cifar_cli.core.models.build import build_untrained
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.errors import ConfigError, ModelError


def count(name: str, *, batch: int = 128, depth: int = 3, top: int = 5, **model: object) -> ModelSummary:
    config = ModelConfig(name=name, weights="none", **model)  # type: ignore[arg-type]
    return summarize(SummaryConfig(model=config, batch=batch, depth=depth, top=top))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "trim", "params", "unused", "macs_per_batch", "flops_per_image"),
    [
        ("null", False, 545_098, 0, 790_807_808, 12_257_792),
        ("cnn", False, 4_020_358, 0, 1_085_977_344, 16_949_696),
        ("hybrid", False, 13_350_730, 11_019_008, 5_016_995_072, 144_282_624),
        ("hybrid", True, 2_331_722, 0, 1_794_622_720, 93_950_976),
    ],
)
def test_counts_equal_the_published_figures(
    name: str, trim: bool, params: int, unused: int, macs_per_batch: int, flops_per_image: int
) -> None:
    summary = count(name, trim_backbone=trim)
    assert summary.total_params == summary.trainable_params == params
    assert summary.unused_params == unused
    assert summary.macs_per_batch == macs_per_batch
    assert summary.forward_flops_per_image == flops_per_image
    assert summary.forward_flops_per_batch == 128 * flops_per_image
    assert summary.weight_bytes == 4 * params


@pytest.mark.slow
def test_largest_layers_are_the_published_ones() -> None:
    null = count("null").largest_layers[0]
    assert (null.path, null.kind, null.params) == ("head.1", "Linear 4096→128", 4096 * 128 + 128)
    cnn = count("cnn").largest_layers[0]
    assert (cnn.path, cnn.params) == ("conv_head", 409_600)
    hybrid = count("hybrid").largest_layers[0]
    assert hybrid.path.startswith("backbone.layer4.")
    assert hybrid.unused


def test_top_limits_the_largest_layers_and_shares_of_all_sum_to_one() -> None:
    assert len(count("null", top=2).largest_layers) == 2
    everything = count("hybrid", top=10_000)
    assert sum(layer.params for layer in everything.largest_layers) == everything.total_params
    assert sum(layer.share_of_params for layer in everything.largest_layers) == pytest.approx(1)


def test_hybrid_lists_its_unused_layers_and_the_flag_that_leaves_them_out() -> None:
    summary = count("hybrid", batch=1)
    assert [part.path for part in summary.unused_parts] == ["backbone.layer2", "backbone.layer3", "backbone.layer4"]
    assert sum(part.params for part in summary.unused_parts) == summary.unused_params
    assert summary.unused_remedy == "--trim-backbone"
    assert count("hybrid", batch=1, trim_backbone=True).unused_remedy is None


def test_unused_parameters_cost_neither_gradients_nor_optimizer_memory() -> None:
    full, trimmed = count("hybrid", batch=4), count("hybrid", batch=4, trim_backbone=True)
    assert full.memory.gradient_bytes == trimmed.memory.gradient_bytes == 4 * 2_331_722
    assert full.memory.adam_bytes == 8 * 2_331_722
    assert full.memory.total_bytes == (
        full.memory.weight_bytes
        + full.memory.buffer_bytes
        + full.memory.gradient_bytes
        + full.memory.adam_bytes
        + full.memory.activation_bytes
    )


class Shared(nn.Module):
    """Runs one layer twice, ties another's weight, and has an unused and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.embed = nn.Linear(3 * 4 * 4, 8, bias=False)
        self.again = nn.Linear(8, 8, bias=False)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.again.weight
        self.forgotten = nn.Parameter(torch.zeros(5))
        self.frozen = nn.Parameter(torch.zeros(7), requires_grad=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.tied(self.again(self.again(self.embed(self.flatten(images_BCHW)))))
        return logits_BK + self.frozen.sum()


def test_shared_unused_and_frozen_parameters_are_counted_separately() -> None:
    config = SummaryConfig(model=ModelConfig(name="null", img_size=4), batch=2, top=9)
    summary = count_module(Shared(), config)
    assert summary.total_params == 48 * 8 + 8 * 8 + 5 + 7
    assert summary.trainable_params == summary.total_params - 7
    assert [(part.path, part.params) for part in summary.unused_parts] == [("forgotten", 5)]
    assert summary.forward_flops_per_batch == 2 * 2 * (48 * 8 + 3 * 8 * 8)
    assert sum(layer.params for layer in summary.largest_layers) == summary.total_params
    assert [row.recurs for row in summary.layers if row.name == "again"] == [False, True]


@pytest.mark.slow
def test_work_done_once_per_batch_counts_fully_for_one_image() -> None:
    """SwinV2 computes its position bias with a small network whose cost doesn't depend on the batch."""
    summary = count("timm:swinv2_tiny_window8_256", batch=8, img_size=64, depth=0)
    assert summary.forward_flops_per_batch < 8 * summary.forward_flops_per_image


def test_a_training_step_costs_three_forward_passes_minus_the_gradient_of_the_images() -> None:
    summary = count("null", batch=2)
    first_convolution = 2 * 2 * 32 * 32 * 32 * 27
    assert summary.train_step_flops_per_batch == 3 * summary.forward_flops_per_batch - first_convolution


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "regnety_002", "densenet121", "mobilenetv3_small_100"])
def test_multiply_adds_of_convolutional_networks_equal_those_of_fvcore(name: str) -> None:
    side = 64
    model = build_untrained(ModelConfig(name=f"timm:{name}", img_size=side, weights="none")).eval()
    theirs = FlopCountAnalysis(model, torch.zeros(1, 3, side, side))
    theirs.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    products = sum(theirs.by_operator()[kind] for kind in ("conv", "linear"))  # the rest is norms and pooling
    ours = count(f"timm:{name}", batch=1, img_size=side, depth=0)
    assert ours.forward_flops_per_image == 2 * products


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("resnet50", 4.11),
        ("vit_base_patch16_224", 17.58),
        ("swin_tiny_patch4_window7_224", 4.51),
        ("convnext_tiny", 4.47),
    ],
)
def test_gmacs_are_within_two_percent_of_timms_published_numbers(name: str, gmacs: float) -> None:
    summary = count(f"timm:{name}", batch=1, img_size=224, classes=1000, depth=0)
    assert summary.forward_flops_per_image / 2e9 == pytest.approx(gmacs, rel=0.02)


def test_counting_needs_no_memory_for_the_batch() -> None:
    assert count("null", batch=10_000_000).forward_flops_per_batch == 10_000_000 * 12_257_792


@pytest.mark.slow
def test_layer_columns_add_up_to_the_totals_at_every_depth() -> None:
    for name in ("null", "cnn", "hybrid"):
        for depth in (0, 1, 2, 9):
            summary = count(name, batch=2, depth=depth)
            assert sum(row.params or 0 for row in summary.layers) == summary.total_params
            assert sum(row.macs or 0 for row in summary.layers) == summary.macs_per_batch
            assert max(row.depth for row in summary.layers) <= depth


@pytest.mark.parametrize(
    ("name", "side", "smallest"),
    [
        ("null", 3, 4),
        ("hybrid", 6, 8),
        ("timm:vit_tiny_patch16_224", 8, 16),
        pytest.param("timm:inception_v3", 70, 75, marks=pytest.mark.slow),
    ],
)
def test_too_small_images_are_refused_with_the_smallest_size_that_works(name: str, side: int, smallest: int) -> None:
    with pytest.raises(ModelError, match=f"can't read {side}-pixel images") as caught:
        count(name, img_size=side)
    assert caught.value.remedy == f"pass --img-size {smallest}, the smallest that works above {side}"
    assert count(name, img_size=smallest, batch=1).forward_flops_per_image > 0


def test_unknown_timm_model_suggests_the_nearest_names() -> None:
    with pytest.raises(ModelError, match="timm:resnet51") as caught:
        count("timm:resnet51")
    assert "resnet50" in (caught.value.remedy or "")
    with pytest.raises(ModelError, match="--backbone efficientnet_b00") as caught:
        count("cnn", backbone="efficientnet_b00")
    assert "efficientnet_b0" in (caught.value.remedy or "")


@pytest.mark.parametrize("bad", [{"batch": 0}, {"depth": -1}, {"top": 0}])
def test_bad_values_are_refused_when_the_config_is_made(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(bad))} "):
        SummaryConfig(model=ModelConfig(name="null"), **bad)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("name", "side"), [("timm:crossvit_9_240", 240), ("timm:res2net50_14w_8s", 64)])
def test_tables_of_models_whose_parents_call_their_parameters_add_up_at_every_depth(
    name: str, side: int, depth: int
) -> None:
    model = ModelConfig(name=name, img_size=side, weights="none")
    summary = summarize(SummaryConfig(model=model, batch=2, depth=depth))
    assert sum(row.params or 0 for row in summary.layers) == summary.total_params
    assert sum(row.macs or 0 for row in summary.layers) == summary.macs_per_batch
