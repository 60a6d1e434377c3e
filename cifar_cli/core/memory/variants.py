"""What a config asks of a step: recomputed activations, parts of the batch, a forward pass alone. Traced and real steps
share this.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cifar_cli.core.memory.config import MemoryConfig
from cifar_cli.core.training.step import TrainingStep
from cifar_cli.errors import ModelError


def with_checkpoints(model: nn.Module, config: MemoryConfig) -> nn.Module:
    """Let the model compute the activations of its blocks again in the backward pass, if the config asks for it.

    The argument is modified and returned. Raises ModelError for a model that can't.
    """
    if not config.grad_checkpointing:
        return model
    can = getattr(model, "set_grad_checkpointing", None)
    try:
        if can is None:
            raise AssertionError
        can()
    except AssertionError:  # timm's models say so in this way
        raise ModelError(
            f"{config.model.label} has no activation checkpointing",
            remedy="leave --grad-checkpointing out, or pass --model with a classifier of timm that has it",
        ) from None
    return model


def run_step(step: TrainingStep, config: MemoryConfig, images_BCHW: Tensor, labels_B: Tensor) -> None:
    """One step of the config. images_BCHW: those that are computed with at the same time."""
    if config.evaluate:
        score(step, images_BCHW)
    elif config.accumulate == 1:
        step(images_BCHW, labels_B)
    else:
        _accumulated(step, config.accumulate, images_BCHW, labels_B)


def score(step: TrainingStep, images_BCHW: Tensor) -> None:
    """A forward pass without gradients. The model is in training mode again afterwards."""
    step.evaluated.eval()
    with torch.no_grad(), step.autocast():
        step.evaluated(images_BCHW.to(memory_format=step.layout))
    step.train()


def _accumulated(step: TrainingStep, parts: int, images_BCHW: Tensor, labels_B: Tensor) -> None:
    """The training step of a batch in equal parts, whose gradients are added before the weights change."""
    step.optimizer.zero_grad()
    for _ in range(parts):
        step.on_stage("forward")
        loss, logits_BK = step.loss(images_BCHW, labels_B)
        step.on_stage("backward")
        step.backward(loss / parts)
        del loss, logits_BK
    step.on_stage("optimizer")
    step.update()
    if step.average is not None:
        step.on_stage("average")
        step.average.update(step.model)
    step.count()
