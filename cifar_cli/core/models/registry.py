"""The models this tool knows, as data: a name, what it is, its source, its builder."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ModelError

TIMM_PREFIX = "timm:"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One entry of the registry.

    builder: `module:function`, so that naming the models loads none of them.
    weights: what `--weights` admits besides a path; the first is the default.
    learning_rate: the course recipe's default for this model.
    """

    name: str
    summary: str
    source: str
    builder: str
    weights: tuple[str, ...]
    learning_rate: float


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="null",
            summary="two convolutions and two linear layers, the baseline",
            source="after LeNet-5: LeCun et al. 1998, Gradient-based learning applied to document recognition",
            builder="cifar_cli.core.models.null:build",
            weights=("none",),
            learning_rate=1e-3,
        ),
        ModelSpec(
            name="cnn",
            summary="a timm classifier with ImageNet weights and a new head (efficientnet_b0 unless --backbone)",
            source="Tan & Le 2019, EfficientNet; weights from timm",
            builder="cifar_cli.core.models.cnn:build",
            weights=("imagenet", "none", "bundled"),
            learning_rate=1e-4,
        ),
        ModelSpec(
            name="hybrid",
            summary="ResNet18 features (64 channels) read by a SimpleViT",
            source="He et al. 2015, ResNet; Beyer et al. 2022, Better plain ViT baselines",
            builder="cifar_cli.core.models.hybrid:build",
            weights=("imagenet", "none"),
            learning_rate=1e-4,
        ),
    )
}

_TIMM = ModelSpec(
    name="timm",
    summary="any timm classifier, as timm:NAME",
    source="Wightman 2019, PyTorch Image Models",
    builder="cifar_cli.core.models.cnn:build",
    weights=("imagenet", "none"),
    learning_rate=1e-4,
)


def spec_of(name: str) -> ModelSpec:
    """Look a model up. Raises ModelError for a name that is neither registered nor `timm:NAME`.

    Whether timm knows NAME is checked when the model is built, because asking loads timm.
    """
    if name.startswith(TIMM_PREFIX) and len(name) > len(TIMM_PREFIX):
        return _TIMM
    if name not in MODELS:
        raise ModelError(
            f"there is no model named {name!r}",
            remedy=f"{nearest(name, MODELS)} (any timm classifier goes as timm:NAME)",
        )
    return MODELS[name]
