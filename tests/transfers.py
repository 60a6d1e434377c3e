"""What goes from the host to a pretended device. Its tensors are torch's meta tensors, of which nothing can be read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Transfers(TorchDispatchMode):
    """Records the uploads in its block: the operators by which tensors of the host reach the device."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[str] = []
        self.blocking: list[str] = []
        """Those for which the host waits."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        to_device = isinstance(made, Tensor) and made.device.type == "meta"
        if to_device and function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[0] if function.overloadpacket is torch.ops.aten._to_copy else args[1]
            if isinstance(source, Tensor) and source.device.type == "cpu":
                self.uploads.append(str(function))
                if not kwargs.get("non_blocking", len(args) > 2 and args[2]):
                    self.blocking.append(str(function))
        return made
