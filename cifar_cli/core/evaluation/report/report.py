"""`cifar report`: reads runs, answers the questions, writes the page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from cifar_cli.core.evaluation.explain import require_captum
from cifar_cli.core.evaluation.report.answers import answers_of
from cifar_cli.core.evaluation.report.comparison import compare
from cifar_cli.core.evaluation.report.config import ReportConfig
from cifar_cli.core.evaluation.report.facts import facts_of
from cifar_cli.core.evaluation.report.page import page
from cifar_cli.core.evaluation.report.results import ReportResult, RunAnswers
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.training.launch import place_of
from cifar_cli.core.training.results import TrainResult
from cifar_cli.core.write import write_whole
from cifar_cli.errors import ResourceError


def report(config: ReportConfig, *, on_progress: OnProgress = silent) -> ReportResult:
    """Write the page.

    Raises CheckpointError for a folder that holds no run, ResourceError where the page can't be written or a package
    is missing.
    """
    if config.explain:
        require_captum()
    runs = []
    for done, path in enumerate(config.runs):
        on_progress(Progress(task="reading runs", done=done, total=len(config.runs), detail=str(path)))
        runs.append(facts_of(path, explain=config.explain, on_progress=on_progress))
    answers = [answers_of(facts) for facts in runs]
    comparison = compare(runs) if len(runs) > 1 else None
    try:
        config.page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(config.page, page(runs, answers, comparison).encode())
    except OSError as error:
        raise ResourceError(
            f"the report {config.page} can't be written ({error.strerror or error})",
            remedy="pass --out FILE.html in a folder you may write to",
        ) from error
    return ReportResult(
        page=config.page,
        comparison=comparison,
        runs=tuple(
            RunAnswers(
                run_dir=facts.run.path,
                model=facts.run.config.model.label,
                finished=facts.run.summary is not None,
                notice=facts.notice,
                answers=each,
            )
            for facts, each in zip(runs, answers, strict=True)
        ),
    )


def report_after_training(
    results: Sequence[TrainResult],
    note: Callable[[str], None],
    *,
    write: Callable[[ReportConfig], ReportResult] = report,
) -> None:
    """Write the report of runs that have just ended, in the first one of the processes that trained together.

    A failure is noted: the training stands without it.
    """
    first, runs = results[0], tuple(result.run_dir for result in results)
    if first.fast_dev_run or first.already_finished or place_of(os.environ).rank > 0:
        return
    # Runs with different seeds have a folder to themselves only if it was given.
    shared = len(runs) > 1 and first.run_dir.name != f"seed-{first.seed}"
    out = first.run_dir.with_name(f"{first.run_dir.name}-seeds.html") if shared else None
    try:
        note(f"report: {write(ReportConfig(runs=runs, out=out)).page}")
    except Exception as error:  # whatever it is, the run is trained and saved
        note(f"the report was not written ({type(error).__name__}: {error}); the run is complete without it")
