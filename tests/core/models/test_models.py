"""Building every model, and loading its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import MODELS, spec_of
from cifar_cli.core.models.weights import load_state, read_state
from cifar_cli.errors import CheckpointError, ConfigError, ModelError, WeightsError


def config(name: str, **options: object) -> ModelConfig:
    return ModelConfig(name=name, **({"weights": "none"} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "parameters"),
    [
        (config("null"), 545_098),
        (config("cnn"), 4_020_358),
        (config("hybrid"), 13_350_730),
        (config("hybrid", trim_backbone=True), 2_331_722),
        (config("null", classes=100), 545_098 + 90 * 129),
    ],
)
def test_parameter_counts_are_the_published_ones(wanted: ModelConfig, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in build_model(wanted).parameters()) == parameters


@pytest.mark.parametrize(
    "wanted",
    [
        config("null", classes=7),
        config("cnn", classes=7),
        config("cnn", classes=7, backbone="resnet18"),
        config("hybrid", classes=7),
        config("hybrid", classes=7, patch_size=4),
        config("hybrid", classes=7, img_size=64),
        config("null", classes=7, img_size=28),
        config("timm:vit_tiny_patch16_224", classes=7),
    ],
)
def test_every_model_returns_one_logit_per_class(wanted: ModelConfig) -> None:
    model = build_model(wanted).eval()
    with torch.no_grad():
        logits_BK = model(torch.zeros(2, 3, wanted.img_size, wanted.img_size))
    assert logits_BK.shape == (2, 7)


@pytest.mark.parametrize("name", [*MODELS, "timm:resnet18"])
def test_every_registered_model_builds_and_has_a_summary_a_source_and_default_weights(name: str) -> None:
    spec = spec_of(name)
    assert all((spec.summary, spec.source, spec.weights, spec.learning_rate > 0))
    assert ModelConfig(name=name).source_of_weights == spec.weights[0]
    with torch.no_grad():
        assert build_model(config(name))(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_trimming_the_backbone_keeps_the_logits_for_the_same_seed() -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    full = build_model(config("hybrid"), seed=3).eval()
    trimmed = build_model(config("hybrid", trim_backbone=True), seed=3).eval()
    with torch.no_grad():
        assert torch.equal(full(images), trimmed(images))


@pytest.mark.parametrize("from_trimmed", [True, False])
def test_checkpoints_of_the_full_and_the_trimmed_backbone_load_into_each_other(from_trimmed: bool) -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    donor = build_model(config("hybrid", trim_backbone=from_trimmed), seed=3).eval()
    other = build_model(config("hybrid", trim_backbone=not from_trimmed), seed=4).eval()
    load_state(other, donor.state_dict(), origin="donor")
    with torch.no_grad():
        assert torch.equal(donor(images), other(images))


def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones() -> None:
    def first_weight(seed: int) -> torch.Tensor:
        return next(build_model(config("null"), seed=seed).parameters())

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))


def test_unknown_model_suggests_the_nearest_name() -> None:
    with pytest.raises(ModelError, match="hybird") as caught:
        ModelConfig(name="hybird")
    assert "did you mean hybrid?" in str(caught.value)


def test_unknown_backbone_suggests_the_nearest_timm_name() -> None:
    with pytest.raises(ModelError, match="timm has no model for --backbone resnet43") as caught:
        build_model(config("cnn", backbone="resnet43"))
    assert "resnet34" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "--classes must be at least 1, not 0"),
        ({"img_size": 0}, "--img-size must be at least 1, not 0"),
        ({"patch_size": 3}, "--patch-size 3 is not offered"),
        ({"weights": "imagnet"}, "--weights imagnet is neither a file nor one of none"),
    ],
)
def test_bad_model_values_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config("null", **options)


def test_errors_for_image_sizes_name_a_size_that_works() -> None:
    with pytest.raises(ModelError, match="3-pixel images") as small:
        build_model(config("null", img_size=3))
    assert "--img-size 4" in str(small.value)
    with pytest.raises(ModelError, match="30-pixel images") as odd:
        build_model(config("hybrid", img_size=30))
    assert "--img-size 32" in str(odd.value)


@pytest.mark.parametrize("name", ["cnn", "hybrid", "timm:resnet34"])
def test_imagenet_weights_without_network_are_an_error_with_three_remedies(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="the model hub can't be reached") as caught:
        build_model(ModelConfig(name=name))
    for remedy in ("--weights none", "--weights PATH", "fill the hub cache"):
        assert remedy in str(caught.value)


def test_weights_from_a_file_are_loaded_except_a_head_with_another_number_of_classes(tmp_path: Path) -> None:
    donor = build_model(config("null", classes=100), seed=1)
    path = tmp_path / "donor.safetensors"
    save_file(donor.state_dict(), path)
    model = build_model(config("null", weights=str(path)), seed=2)
    own, theirs = model.state_dict(), donor.state_dict()
    assert torch.equal(own["features.0.weight"], theirs["features.0.weight"])
    assert own["head.3.weight"].shape == (10, 128)


def test_weights_of_another_model_are_refused_with_the_first_missing_key(tmp_path: Path) -> None:
    path = tmp_path / "null.pt"
    torch.save(build_model(config("null")).state_dict(), path)
    with pytest.raises(WeightsError, match=r"this model: it lacks backbone\.conv1\.weight \(\d+ keys in total\)"):
        build_model(config("hybrid", weights=str(path)))


def test_bundled_weights_fit_efficientnet_lite0_in_parameter_order() -> None:
    bundled = config("cnn", backbone="tf_efficientnet_lite0", weights="bundled")
    trained, random = build_model(bundled, seed=1), build_model(config("cnn", backbone="tf_efficientnet_lite0"), seed=1)
    # Batch norms have a running mean of 0 until they are trained.
    assert trained.state_dict()["bn1.running_mean"].abs().sum() > 0
    assert random.state_dict()["bn1.running_mean"].abs().sum() == 0
    assert trained.get_submodule("classifier").weight.shape == (10, 1280)


def test_bundled_weights_are_for_one_backbone_only() -> None:
    with pytest.raises(WeightsError, match="no weights are bundled for efficientnet_b0"):
        build_model(config("cnn", weights="bundled"))


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


def test_a_hostile_checkpoint_is_refused_and_executes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pt"
    torch.save({"state_dict": Hostile()}, path)
    with pytest.raises(CheckpointError, match=r"hostile\.pt holds an object of the type __builtin__\.exec"):
        read_state(path)


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state(path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_state(tmp_path / "absent.pt")
