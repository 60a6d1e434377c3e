"""What `cifar train` is asked as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_cli.core.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """A training run to start, with what is decided before it and how often it is repeated."""

    config: TrainConfig
    batch_auto: bool = False
    """Find the batch size first."""
    keep_steps: bool = True
    """With `batch_auto`: change the number of epochs so that the number of steps stays."""
    seeds: tuple[int, ...] = ()
    """Train once with each, into run_dir/seed-N where a run_dir is given. Empty for the config's seed."""
    model_chosen: bool = True
    """Whether the user has named a model; if not, a better one for photographs is suggested."""
