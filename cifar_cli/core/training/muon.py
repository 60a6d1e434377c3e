"""Muon, for matrices and convolution kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MUON_MOMENTUM = 0.95
SGD_MOMENTUM = 0.85
ADAM_SHARE = 0.1  # learning rate of the parameters that Adam updates, as a share of Muon's


class Muon(torch.optim.Optimizer):
    """Muon for hidden matrices and kernels, Adam for biases, normalisation weights and the last layer.

    A kernel [O, I, h, w] is treated as a matrix [O, I*h*w]. lr: Muon's learning rate; Adam uses a tenth of it.
    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks. torch.optim.Muon accepts
    matrices only.
    """

    momentum = MUON_MOMENTUM

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float) -> None:
        hidden, last, vectors = _parts(model)
        groups = [
            {"params": hidden, "lr": lr, "weight_decay": weight_decay, "muon": True},
            {"params": last + vectors, "lr": lr * ADAM_SHARE, "weight_decay": 0.0, "muon": False},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                self._decay(parameter, group)
                update = self._orthogonal(parameter) if group["muon"] else self._of_rest(parameter)
                if isinstance(group["lr"], Tensor):  # of a step that is captured as a CUDA graph
                    parameter.sub_(update * group["lr"])
                else:
                    parameter.add_(update, alpha=-group["lr"])
        return loss

    def _decay(self, parameter: Tensor, group: dict[str, Any]) -> None:
        parameter.mul_(1 - group["lr"] * group["weight_decay"])

    def _orthogonal(self, parameter: Tensor) -> Tensor:
        """The Nesterov momentum of the gradient with all singular values near one."""
        gradient = parameter.grad
        assert gradient is not None
        momentum = self._buffer(parameter).lerp_(gradient, 1 - self.momentum)
        ahead = gradient.lerp(momentum, self.momentum)
        matrix = orthogonalised(ahead.flatten(1))
        rows, columns = matrix.shape
        scaled: Tensor = matrix.view_as(ahead) * max(1.0, rows / columns) ** 0.5
        return scaled

    def _buffer(self, parameter: Tensor) -> Tensor:
        """The momentum of a parameter, zeros before its first step."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum

    def _of_rest(self, parameter: Tensor) -> Tensor:
        """Adam's update (Kingma & Ba 2015) with betas 0.9 and 0.999."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state.update(step=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 0.1)
        square = state["square"].lerp_(gradient.square(), 0.001)
        deviation = (square / (1 - 0.999 ** state["step"])).sqrt_().add_(1e-8)
        update: Tensor = (mean / (1 - 0.9 ** state["step"])).div_(deviation)
        return update


class MuonSGD(Muon):
    """Muon for hidden matrices and kernels, Nesterov SGD with rates of their own for biases and the last layer.

    Every kernel is brought back to the norm sqrt(O) before its update, so that Muon's rate says by which share it
    changes. Weight decay shrinks the others by lr * weight_decay in a step, whatever their own rates are.
    lr: Muon's rate, and that of the others where they have none. momentum: None for SGD_MOMENTUM; Muon's is lower,
    because it has few steps. Source: Jordan 2024, arXiv 2404.00498 (decoupled rates), and the author's later variant
    of it with Muon.
    """

    momentum = 0.6

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        weight_decay: float,
        bias_lr: float | None = None,
        head_lr: float | None = None,
        momentum: float | None = None,
    ) -> None:
        hidden, last, vectors = _parts(model)
        self._sgd_momentum = SGD_MOMENTUM if momentum is None else momentum
        rates = {"muon": lr, "bias": bias_lr or lr, "head": head_lr or lr}
        groups = [
            {"params": part, "lr": rate, "weight_decay": weight_decay * lr / rate, "muon": name == "muon"}
            for (name, rate), part in zip(rates.items(), (hidden, vectors, last), strict=True)
        ]
        torch.optim.Optimizer.__init__(self, [group for group in groups if group["params"]], {})

    def _decay(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if group["muon"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm().clamp(min=1e-7))
        else:
            super()._decay(parameter, group)

    def _of_rest(self, parameter: Tensor) -> Tensor:
        """Nesterov SGD's update, without dampening."""
        gradient = parameter.grad
        assert gradient is not None
        momentum = self._buffer(parameter).mul_(self._sgd_momentum).add_(gradient)
        return gradient.add(momentum, alpha=self._sgd_momentum)


def _parts(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The trained parameters: hidden matrices and kernels, the last of them, and the vectors."""
    trained: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    return matrices[:-1], matrices[-1:], [parameter for parameter in trained if parameter.ndim <= 1]


def orthogonalised(matrix_MN: Tensor, *, iterations: int = 5) -> Tensor:
    """Bring the singular values of a matrix near one (0.7 to 1.2) and keep its singular vectors.

    Takes and returns float32 [M, N].
    Source: the quintic Newton-Schulz iteration of Jordan et al. 2024, for which bfloat16 is precise enough.
    """
    tall = matrix_MN.shape[0] > matrix_MN.shape[1]
    wide = (matrix_MN.T if tall else matrix_MN).to(torch.bfloat16)
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    near_one: Tensor = (wide.T if tall else wide).float()
    return near_one
