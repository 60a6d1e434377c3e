"""Which layers of a model are its head, and which its pretrained backbone."""

from __future__ import annotations

import torch
from torch import nn

from cifar_cli.errors import ModelError


def head_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the layers whose output size is the number of classes.

    A timm model names them, and some have two (distilled models) or none that is linear; of other models it is the last
    linear layer.
    """
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    layers = (named,) if isinstance(named, str) else tuple(named)
    return layers or tuple(name for name, module in model.named_modules() if isinstance(module, nn.Linear))[-1:]


def head_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that pretrained weights don't bring: all outside of a part named as the backbone, or the
    last layer's.

    Raises ModelError for a model without such a layer.
    """
    backbone: str | None = getattr(model, "backbone_prefix", None)
    layers = tuple(f"{layer}." for layer in head_layers(model))
    names = [name for name, _ in model.named_parameters()]
    head = {name for name in names if (name.startswith(layers) if backbone is None else not name.startswith(backbone))}
    if not head:
        raise ModelError(
            "this model has no layer that is its head", remedy="leave out --freeze and pass --head-first 0"
        )
    return head


@torch.no_grad()
def begin_at_zero(model: nn.Module) -> None:
    """Set a new last layer to zero, so that training begins with equal logits and a loss of ln(K).

    timm initialises it by the number of classes: with three of them, pretrained features begin with a loss above 3.
    Source: Kolesnikov et al. 2020, Big Transfer (BiT), section 3.3.
    """
    layers = tuple(f"{layer}." for layer in head_layers(model))
    for name, parameter in model.named_parameters():
        if name.startswith(layers):
            parameter.zero_()


def freeze_backbone(model: nn.Module) -> None:
    """Let training change the head only: the other parameters get no gradient. Raises ModelError as above."""
    head = head_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)


def frozen_in_evaluation(model: nn.Module) -> None:
    """Put the modules that are not trained in evaluation mode: their batch statistics stay, and they draw nothing."""
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
