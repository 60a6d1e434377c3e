"""The training step: forward, cross-entropy, backward, clipping, optimizer, averaged weights.

Everything that trains or imitates training runs this step: the loop, the precision trial, the measured and the traced
step of the memory profiler, and the public LightningModule.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.optim import Optimizer

from cifar_cli.core.choices import OptimizerName, Precision
from cifar_cli.core.data.loader import MODEL_DRAWS, derive_seed
from cifar_cli.core.models.head import freeze_backbone, frozen_in_evaluation, head_parameters
from cifar_cli.core.models.training_form import LAYOUTS
from cifar_cli.core.suggest import nearest
from cifar_cli.core.training.average import Average
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.muon import Muon, MuonSGD
from cifar_cli.errors import ConfigError

MOMENTUM = 0.9
AUTOCAST_DTYPES: dict[Precision, torch.dtype | None] = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}

Stage = Literal["forward", "backward", "optimizer", "average"]
OnStage = Callable[[Stage], None]


def _adam(model: nn.Module, config: StepConfig, options: dict[str, Any]) -> Optimizer:
    return torch.optim.Adam(groups_of(model, config), lr=config.learning_rate, **options)


def _adamw(model: nn.Module, config: StepConfig, options: dict[str, Any]) -> Optimizer:
    return torch.optim.AdamW(groups_of(model, config), lr=config.learning_rate, **options)


def _sgd(model: nn.Module, config: StepConfig, options: dict[str, Any]) -> Optimizer:
    groups = groups_of(model, config)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=MOMENTUM, nesterov=True, **options)


def _muon(model: nn.Module, config: StepConfig, options: dict[str, Any]) -> Optimizer:
    return Muon(model, lr=config.learning_rate, weight_decay=config.weight_decay)  # has no fused kernel


def _muon_sgd(model: nn.Module, config: StepConfig, options: dict[str, Any]) -> Optimizer:
    return MuonSGD(
        model,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        bias_lr=config.bias_lr,
        head_lr=config.head_lr,
        momentum=config.momentum,
    )


OPTIMIZERS: dict[OptimizerName, Callable[[nn.Module, StepConfig, dict[str, Any]], Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
    "muon": _muon,
    "muon-sgd": _muon_sgd,
}


def make_optimizer(model: nn.Module, config: StepConfig, **options: Any) -> Optimizer:
    """The optimizer over every trained parameter, with one fused kernel where torch has one.

    options: keywords of torch's constructors in place of `fused`, for example `foreach`. Gradient scaling (float16)
    unscales inside a fused optimizer, after which gradients can't be clipped; it gets none.
    Raises ConfigError for an unknown name.
    """
    if config.optimizer not in OPTIMIZERS:
        raise ConfigError(
            f"there is no optimizer named {config.optimizer!r}", remedy=nearest(config.optimizer, OPTIMIZERS)
        )
    # torch's fused SGD does not take sharded weights.
    takes = config.optimizer != "sgd" or not any(isinstance(weight, DTensor) for weight in model.parameters())
    fused = config.precision != "16" and takes
    # Without it torch chooses: lists of tensors on CUDA. `fused=False` would make it update one after the other.
    return OPTIMIZERS[config.optimizer](model, config, options or ({"fused": True} if fused else {}))


def groups_of(model: nn.Module, config: StepConfig) -> list[dict[str, Any]]:
    """The parameter groups of a step; with `head_first` those of the head, then the others, which "wait" for it."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not config.head_first:
        return parameter_groups(trained.values(), config.weight_decay)
    head = head_parameters(model)
    return [
        group | {"waits": waits}
        for waits in (False, True)
        for group in parameter_groups(
            (parameter for name, parameter in trained.items() if (name not in head) == waits), config.weight_decay
        )
    ]


def parameter_groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels with weight decay, biases and normalisation weights without; no group is empty."""
    trained = list(parameters)
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def autocast(precision: Precision, device_type: str) -> AbstractContextManager[Any]:
    """The context of a forward pass in a precision. Raises ConfigError for an unknown precision."""
    if precision not in AUTOCAST_DTYPES:
        raise ConfigError(f"there is no precision {precision!r}", remedy=nearest(precision, get_args(Precision)))
    dtype = AUTOCAST_DTYPES[precision]
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype)


def clip_gradients(model: nn.Module, norm: float) -> None:
    """Scale all gradients in place so that their common L2 norm is at most `norm`."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    # For `null` on a CPU, torch's multi-tensor kernels take four times as long as one tensor after another.
    nn.utils.clip_grad_norm_(model.parameters(), norm, foreach=False if on_cpu else None)


class TrainingStep:
    """One training step of a model, with its optimizer, gradient scaler and averaged weights.

    model: maps images [B, 3, H, W] to logits [B, K]; it has its training form already and is on its device.
    optimizer: None makes the config's. on_stage: called with the name of each stage as it begins. parallel: what is
    called in place of the model where several processes share the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        config: StepConfig,
        *,
        device_type: str,
        optimizer: Optimizer | None = None,
        on_stage: OnStage = lambda stage: None,
        parallel: Callable[[nn.Module], Callable[..., Tensor]] = lambda model: model,
    ) -> None:
        if config.freeze == "backbone":
            freeze_backbone(model)
        self.model = model
        self.average = None if config.ema_decay is None else Average(model, config.ema_decay)
        self.forward = parallel(model)
        if self.average is not None:
            parallel(self.average.module)  # whose weights are sharded if the model's are
        self.weight = 1.0
        """Factor of the loss before the backward pass. Processes whose slices of the batch differ in size need it, so
        that the average of their gradients is the gradient of the batch's mean loss."""
        self.config = config
        self._class_weights_K = None if config.class_weights is None else torch.tensor(config.class_weights)
        self.device_type = device_type
        self.optimizer = make_optimizer(model, config) if optimizer is None else optimizer
        if config.captured:
            self.make_capturable()
        self.on_stage = on_stage
        self.layout = LAYOUTS[config.memory_format]
        self.scaler = torch.amp.GradScaler(device_type, enabled=config.precision == "16" and device_type == "cuda")

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated and kept: the averaged weights where there are some."""
        return self.model if self.average is None else self.average.module

    def train(self) -> None:
        """Put the model in training mode, and what is frozen in evaluation mode."""
        self.model.train()
        if self.config.freeze == "backbone":
            frozen_in_evaluation(self.model)

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights once. Returns the mean loss (a scalar) and the logits [B, K]."""
        made = self.run(images_BCHW, labels_B)
        self.count()
        return made

    def make_capturable(self) -> None:
        """Let a CUDA graph count the optimizer's steps and read rates and shares on the device."""
        if self.average is not None:
            self.average.make_capturable()
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
            group.setdefault("highest_lr", float(group["lr"]))
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)

    def count(self) -> None:
        """What the host does in a step."""
        if self.average is not None:
            self.average.count()

    def run(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """What the device does in a step."""
        self.on_stage("forward")
        self.optimizer.zero_grad()
        loss, logits_BK = self.loss(images_BCHW, labels_B)
        self.on_stage("backward")
        self.backward(loss if self.weight == 1 else loss * self.weight)
        self.on_stage("optimizer")
        self.update()
        if self.average is not None:
            self.on_stage("average")
            self.average.update(self.model)
        return loss.detach(), logits_BK.detach()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass in the step's precision."""
        return autocast(self.config.precision, self.device_type)

    def loss(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Forward pass. Returns the mean smoothed cross-entropy (a scalar) and the logits [B, K].

        labels_B: int64 classes, or float32 shares of the classes [B, K]. With class weights, the term of each class is
        multiplied by its weight, and the sum is divided by the number of images: torch's mean would divide it by the
        weights in this process's part of the batch.
        """
        smoothing, weights_K = self.config.label_smoothing, self._class_weights_K
        with self.autocast():
            images_BCHW = images_BCHW.to(memory_format=self.layout)
            # Without weight, the images of several processes' step are not of the batch.
            logits_BK = self.forward(images_BCHW) if self.weight else self.forward(images_BCHW, counted=False)
            if weights_K is None:
                return F.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing), logits_BK
            weights_K = self._class_weights_K = weights_K.to(logits_BK.device, _precise(logits_BK))
            loss = F.cross_entropy(logits_BK, labels_B, weights_K, label_smoothing=smoothing, reduction="sum")
        return loss / len(labels_B), logits_BK

    def cross_entropy(self, loss: Tensor, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        """The mean cross-entropy of a step without label smoothing and class weights, as validation computes it.

        loss: the step's.
        """
        same = not self.config.label_smoothing and self._class_weights_K is None
        return loss if same else F.cross_entropy(logits_BK.to(_precise(logits_BK)), labels_B)

    def backward(self, loss: Tensor) -> None:
        """Set the gradients, scaled where the precision needs it."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Clip the gradients and update the weights."""
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self.clip(self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def clip(self, norm: float) -> None:
        """Clip the gradients to an L2 norm."""
        clip_gradients(self.model, norm)


def _precise(tensor: Tensor) -> torch.dtype:
    """float32, or float64 of a tensor that has it."""
    return torch.promote_types(tensor.dtype, torch.float32)


def seed_draws(seed: int, step: int, rank: int, *, device: torch.device) -> None:
    """Make what a model draws in a training step, such as dropout, a function of the run's seed, the step and the rank.

    A resumed run then draws what an uninterrupted one does. Sets the generators of Python, NumPy, torch and the device.
    """
    word = derive_seed(seed, MODEL_DRAWS, step, rank)
    random.seed(word)
    np.random.seed(word & 0xFFFFFFFF)
    torch.default_generator.manual_seed(word)  # torch.manual_seed takes 0.1 ms and more where CUDA is not used
    if device.type == "cuda":
        torch.cuda.manual_seed(word)
    elif device.type == "mps":
        torch.mps.manual_seed(word)
