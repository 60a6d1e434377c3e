"""Optimizers, from a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cifar_cli.core.training.recipe import Recipe

MOMENTUM = 0.9
MUON_MOMENTUM = 0.95
# Beside Muon, Adam moves what is no hidden matrix; its rate in parts of Muon's.
ADAM_SHARE_OF_MUON = 0.1


def make_optimizer(
    model: nn.Module, recipe: Recipe, *, learning_rate: float, fused: bool = True
) -> torch.optim.Optimizer:
    """The recipe's optimizer over every parameter that is trained.

    Weight decay takes matrices and kernels, not biases and the weights of normalisations. fused: one kernel for all
    parameters where torch has one; gradient scaling (float16) can't clip the gradients of such an optimizer.
    """
    groups = parameter_groups(model, recipe.weight_decay)
    match recipe.optimizer:
        case "adam":
            return torch.optim.Adam(groups, lr=learning_rate, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)
        case "sgd":
            return torch.optim.SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True, fused=fused)
    return Muon(model, lr=learning_rate, weight_decay=recipe.weight_decay)


def clip_gradients(model: nn.Module, norm: float) -> None:
    """Scale all gradients down, in place, so that their common L2 norm is at most `norm`."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    # Of `null`, torch's kernels for many tensors at once take four times as long on a CPU as one after another.
    nn.utils.clip_grad_norm_(model.parameters(), norm, foreach=False if on_cpu else None)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay; groups without a parameter are left out."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Muon(torch.optim.Optimizer):
    """Muon for hidden matrices and kernels, Adam for the rest (biases, normalisations, the last layer).

    A kernel [O, I, h, w] counts as a matrix [O, I*h*w]. lr: Muon's; Adam takes a tenth of it.
    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks. torch.optim.Muon takes
    matrices only.
    """

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        hidden, last = matrices[:-1], matrices[-1:]
        rest = last + [parameter for parameter in trained if parameter.ndim <= 1]
        groups = [
            {"params": hidden, "lr": lr, "weight_decay": weight_decay, "muon": True},
            {"params": rest, "lr": lr * ADAM_SHARE_OF_MUON, "weight_decay": 0.0, "muon": False},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                move = self._orthogonal(parameter) if group["muon"] else self._adam(parameter)
                parameter.add_(move, alpha=-group["lr"])
        return loss

    def _orthogonal(self, parameter: Tensor) -> Tensor:
        """The Nesterov momentum of the gradient, its singular values all brought near one."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - MUON_MOMENTUM)
        ahead = gradient.lerp(momentum, MUON_MOMENTUM)
        matrix = orthogonalised(ahead.flatten(1))
        rows, columns = matrix.shape
        scaled: Tensor = matrix.view_as(ahead) * max(1.0, rows / columns) ** 0.5
        return scaled

    def _adam(self, parameter: Tensor) -> Tensor:
        """Adam's direction (Kingma & Ba 2015) with betas 0.9 and 0.999."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state.update(step=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 0.1)
        square = state["square"].lerp_(gradient.square(), 0.001)
        deviation = (square / (1 - 0.999 ** state["step"])).sqrt_().add_(1e-8)
        moved: Tensor = (mean / (1 - 0.9 ** state["step"])).div_(deviation)
        return moved


def orthogonalised(matrix_MN: Tensor, *, iterations: int = 5) -> Tensor:
    """Bring the singular values of a matrix near one (0.7..1.2), keeping its singular vectors; float32 [M, N].

    Source: the quintic Newton-Schulz iteration of Jordan et al. 2024; bfloat16 is enough for it.
    """
    tall = matrix_MN.shape[0] > matrix_MN.shape[1]
    wide = (matrix_MN.T if tall else matrix_MN).to(torch.bfloat16)
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    near_one: Tensor = (wide.T if tall else wide).float()
    return near_one
