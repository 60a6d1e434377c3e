"""The processes of a run, as the rest of the training sees them: one alone, or several that train together.

Rank 0 prepares the run, reports to the listeners, writes all files, and decides by its clock. The others wait for its
orders, take their slice of every batch, and print nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cifar_cli.core.data.loader import Batch, BatchLoader
from cifar_cli.errors import ResourceError

MEETING_SECONDS = 3600.0  # of a wait for a process that may download, import, compile, or write to a slow disk


class LostProcessError(ResourceError):
    """Another process of the run ended without giving a reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What all processes do after the same step."""

    signal: int = 0
    """Number of a signal that asked any of them to stop; 0 for none."""
    time_is_up: bool = False
    """By the clock of rank 0, like those below."""
    progress_is_due: bool = False
    checkpoint_is_due: bool = False
    planned_steps: int = 0
    """Steps of the whole run, once they are decided; 0 before."""


class Ranks:
    """A process that trains alone. Every method is what one process needs: next to nothing."""

    rank = 0
    world_size = 1
    local_rank = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes, and talks to the listeners."""
        return self.rank == 0

    def images_of(self, batch: int) -> int:
        """How many images of a batch are this process's."""
        return batch * (self.rank + 1) // self.world_size - batch * self.rank // self.world_size

    def own_batches(self, loader: BatchLoader) -> Iterable[Batch]:
        """The batches of an evaluation that are this process's: every `world_size`-th, so that each is scored once."""
        return loader

    def parallel(self, model: nn.Module, *, shards: bool = False) -> Callable[[Tensor], Tensor]:
        """What to call in a training step, so that the backward pass averages the gradients over all processes.

        shards: keep a part of the model's weights in each process. The model is then changed in place.
        """
        return model

    def agree(self, own: Agreement) -> Agreement:
        """What all do next, from what each would."""
        return own

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0."""
        return value

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add the tensors of all processes, in place."""
        return tensor

    def same_weights(self, model: nn.Module) -> None:
        """Give the model the weights and buffers of rank 0's."""

    def meet(self, limit_seconds: float | None = None) -> None:
        """Wait for all, however long rank 0 takes. Raises CifarError when one of them failed.

        limit_seconds: that rank 0 waits for the others; None where they have nothing to do but to wait for it.
        """

    def order(self, what: Any) -> None:
        """Tell the others what to do. Rank 0 only."""

    def next_order(self) -> Any:
        """Wait for what rank 0 orders; None when there is nothing more to do. Not for rank 0."""

    def explained(self, error: Exception) -> Exception:
        """A broken connection as the error that broke it; any other error itself."""
        return error


ALONE = Ranks()
