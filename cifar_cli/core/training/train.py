"""A run from its config to its result: started, or continued where it was interrupted."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from pathlib import Path

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.group import joined, this_place
from cifar_cli.core.training.listeners import SILENT, Listeners
from cifar_cli.core.training.loop import REAL, Seams, fit
from cifar_cli.core.training.prepare import prepare, prepare_ordered, prepare_resumed, run_config
from cifar_cli.core.training.ranks import Ranks
from cifar_cli.core.training.results import TrainResult
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.training.run_lock import locked
from cifar_cli.errors import CheckpointError


def train(config: TrainConfig, listeners: Listeners = SILENT, *, seams: Seams = REAL) -> TrainResult:
    """Train a model, keep the weights with the highest validation accuracy, and score them once on the test split.

    Writes the run directory described in docs/training.md. With several devices, this process is rank 0 and starts the
    others; under a launcher, every process calls this function and gets the same result.
    Raises what `prepare` and `fit` raise.
    """
    with ranks_of(config) as ranks:
        if not ranks.is_first:
            return serve(ranks, seams=seams)[-1]
        return fit(prepare(config, listeners, ranks=ranks), listeners, seams=seams)


def resume(run: Path | ResumeConfig, listeners: Listeners = SILENT, *, seams: Seams = REAL) -> TrainResult:
    """Continue a run from its last checkpoint, with the batch that was next.

    A run that is finished, and gets neither more epochs nor more time, is left as it is; its recorded result is
    returned.

    Raises what `prepare_resumed` and `fit` raise.
    """
    asked = run if isinstance(run, ResumeConfig) else ResumeConfig(run_dir=run)
    with ranks_of(asked) as ranks:
        if not ranks.is_first:
            return serve(ranks, seams=seams)[-1]
        with locked(asked.run_dir):
            prepared, directory = prepare_resumed(asked, listeners, ranks=ranks)
            if isinstance(prepared, TrainResult):
                ranks.order(prepared)
                return prepared
            return fit(prepared, listeners, run=directory, seams=seams)


def ranks_of(asked: TrainConfig | ResumeConfig) -> AbstractContextManager[Ranks]:
    """The processes of a run. Raises what `joined` raises, and CheckpointError where there is nothing to continue."""
    if isinstance(asked, TrainConfig):
        return joined(devices=asked.devices, num_nodes=asked.num_nodes, device=asked.device)
    if this_place().world_size > 1:  # what the run began with says nothing about this launch
        device: DeviceChoice = "auto"
        with suppress(CheckpointError):  # on a node without the run, which rank 0 has
            device = run_config(asked.run_dir).device
        return joined(devices=asked.devices or 1, num_nodes=asked.num_nodes or 1, device=device)
    config = run_config(asked.run_dir)
    # A run of several nodes goes on with a single process, or the devices of this one, where no launcher starts more.
    return joined(devices=asked.devices or config.devices, num_nodes=asked.num_nodes or 1, device=config.device)


def serve(ranks: Ranks, *, seams: Seams = REAL) -> list[TrainResult]:
    """Train whatever rank 0 orders, until it has no more orders. Returns the results that rank 0 also has."""
    results: list[TrainResult] = []
    while (order := ranks.next_order()) is not None:
        if isinstance(order, TrainResult):  # of a run that is finished
            results.append(order)
        else:
            config, content = order
            prepared = prepare_ordered(config, ranks, content=content)
            results.append(fit(prepared, run=RunDir(config.run_dir), seams=seams))
    return results
