"""What a run says of itself before its first epoch."""

from __future__ import annotations

import pytest

from cifar_cli.core.models.build import build_model
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.introduction import lost_detail


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "cnn", "backbone": "resnet18"}, True),
        ({"name": "timm:test_efficientnet", "img_size": 48}, True),
        ({"name": "cnn", "backbone": "resnet18", "small_images": True}, False),
        ({"name": "cnn", "backbone": "resnet18", "img_size": 64}, False),
        ({"name": "timm:test_vit", "img_size": 32}, False),  # patches don't overlap: --small-images refuses it
        ({"name": "null"}, False),
    ],
    ids=str,
)
def test_small_images_are_suggested_where_they_change_something(options: dict[str, object], told: bool) -> None:
    config = ModelConfig(weights="none", **options)  # type: ignore[arg-type]
    said = lost_detail(config, build_model(config))
    assert (said is not None) is told
    if said:
        assert said.startswith(f"the first layer of {config.label} divides the side of images of {config.img_size}")
        assert "--small-images" in said
