"""Training with what memory and counting add: the batch size before it, the utilization after it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.results import ModelSummary
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.group import this_place
from cifar_cli.core.training.growth import growth_of
from cifar_cli.core.training.listeners import SILENT, Listeners
from cifar_cli.core.training.loop import REAL, Seams, fit
from cifar_cli.core.training.machine import fast_kernels, matmul_flops_per_second, prepared_device
from cifar_cli.core.training.prepare import prepare
from cifar_cli.core.training.ranks import Ranks
from cifar_cli.core.training.results import TrainResult
from cifar_cli.core.training.run_dir import require_free
from cifar_cli.core.training.step import AUTOCAST_DTYPES
from cifar_cli.core.training.train import ranks_of, resume, serve
from cifar_cli.core.workflow.batch_size import with_batch_found
from cifar_cli.core.workflow.config import TrainRequest
from cifar_cli.core.workflow.results import TrainReport, Utilization
from cifar_cli.core.workflow.suggestion import finetune_suggested
from cifar_cli.core.write import write_whole
from cifar_cli.errors import CifarError, Interrupted


def train_and_report(request: TrainRequest, listeners: Listeners = SILENT, *, seams: Seams = REAL) -> TrainReport:
    """Train once for each seed.

    Raises what `prepare` and `fit` raise, and CheckpointError before anything is trained when the run directory of a
    seed is taken.
    """
    # Of several processes rank 0 alone writes, and the lock of a directory is for one.
    run_dirs = _run_dirs(request.config, request.seeds) if this_place().rank == 0 else {}
    with ranks_of(request.config) as ranks:
        if ranks.is_first:
            results = _train_all(request, run_dirs, listeners, seams, ranks)
        else:
            results = serve(ranks, seams=seams)
    report = TrainReport(results=tuple(results), utilization=utilization_of(*results))
    if ranks.is_first and len(results) > 1:
        _write_seeds(report, listeners)
    return report


def _write_seeds(report: TrainReport, listeners: Listeners) -> None:
    """Write seeds.json beside the runs; runs without a folder of their own give it the first one's name too."""
    first = report.results[0]
    name = "seeds.json" if first.run_dir.name == f"seed-{first.seed}" else f"{first.run_dir.name}-seeds.json"
    path = first.run_dir.parent / name
    with suppress(OSError):  # the runs are trained, and each has its own summary.json
        write_whole(path, (json.dumps(report.over_seeds(), indent=2) + "\n").encode())
        listeners.on_note(f"mean and standard deviation over the seeds: {path}")


def _train_all(
    request: TrainRequest, run_dirs: dict[int, Path | None], listeners: Listeners, seams: Seams, ranks: Ranks
) -> list[TrainResult]:
    first = next(iter(run_dirs))
    prepared = prepare(replace(request.config, seed=first), listeners, ranks=ranks)
    if not request.model_chosen and (told := finetune_suggested(prepared)):
        listeners.on_note(told)
    if request.batch_auto:
        prepared = with_batch_found(prepared, keep_steps=request.keep_steps, listeners=listeners)
    results: list[TrainResult] = []
    for seed, run_dir in run_dirs.items():
        left = list(run_dirs)[len(results) :]
        if results and results[-1].asked_to_stop:
            raise _ended_at(None, Interrupted("interrupted"), results, left)
        try:
            if seed != first:
                prepared = prepared.with_seed(seed, began=time.monotonic())
            prepared = replace(prepared, config=replace(prepared.config, run_dir=run_dir))
            results.append(fit(prepared, listeners, seams=seams))
        except CifarError as error:
            if len(run_dirs) == 1:
                raise
            raise _ended_at(seed, error, results, left[1:]) from error
    return results


def resume_and_report(asked: ResumeConfig, listeners: Listeners = SILENT, *, seams: Seams = REAL) -> TrainReport:
    """Continue a run. Raises what `resume` raises."""
    result = resume(asked, listeners, seams=seams)
    # The speed of a finished run was measured at another time than the matrix product would be now.
    return TrainReport(results=(result,), utilization=None if result.already_finished else utilization_of(result))


def _run_dirs(config: TrainConfig, seeds: tuple[int, ...]) -> dict[int, Path | None]:
    """The run directory of each seed; None for a new one. Raises CheckpointError when one of them is taken."""
    root = config.run_dir
    if root is None:
        return dict.fromkeys(seeds or (config.seed,))
    run_dirs = {seed: root / f"seed-{seed}" for seed in seeds} or {config.seed: root}
    for run_dir in run_dirs.values():
        require_free(run_dir)
    return dict(run_dirs)


def _ended_at(seed: int | None, error: CifarError, results: list[TrainResult], left: list[int]) -> CifarError:
    """The error that ended a seed, with which seeds are done and which are left. seed: None between two of them."""
    summed_up = copy(error)
    parts = [error.what if seed is None or isinstance(error, Interrupted) else f"seed {seed}: {error.what}"]
    parts += [f"seed {result.seed} is done in {result.run_dir}: {result.test_accuracy:.2%} test" for result in results]
    remedies = [] if error.remedy is None else [error.remedy]
    if left:
        remedies.append(f"train the others with --seeds {','.join(map(str, left))}")
    summed_up.what, summed_up.remedy = "; ".join(parts), ", then ".join(remedies) or None
    return summed_up


def _summarize(config: SummaryConfig) -> ModelSummary:
    from cifar_cli.core.counting.summary import summarize  # training itself needs no torchinfo

    return summarize(config)


def utilization_of(
    *results: TrainResult, count: Callable[[SummaryConfig], ModelSummary] = _summarize
) -> Utilization | None:
    """The rate of the training steps, as a mean over the seeds, and of a matrix product; None where one can't be had.

    Several processes get None: the matrix product would be that of one of them.
    """
    result = results[-1]
    if result.processes > 1:
        return None
    batch, rate = result.config.recipe.batch, fmean(each.images_per_second for each in results)
    rate *= growth_of(result.config).mean_area  # small images have fewer operations
    with suppress(CifarError, RuntimeError, ImportError):
        counted = count(SummaryConfig(model=result.config.model, batch=batch))
        device = prepared_device(result.config.device)
        with fast_kernels(device):
            highest = matmul_flops_per_second(AUTOCAST_DTYPES[result.precision], device)
        return Utilization(
            achieved_flops_per_second=counted.train_step_flops_per_batch / batch * rate,
            matmul_flops_per_second=highest,
        )
    return None
