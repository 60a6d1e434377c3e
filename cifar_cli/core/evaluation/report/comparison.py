"""How several runs compare: the course's table of its models, and its answer in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from cifar_cli.core.evaluation.metrics import mcnemar
from cifar_cli.core.evaluation.predictions import same_images
from cifar_cli.core.evaluation.report.answers import duration, share
from cifar_cli.core.evaluation.report.facts import Facts
from cifar_cli.core.evaluation.report.results import ComparedRun, Comparison
from cifar_cli.core.evaluation.results import McNemar
from cifar_cli.core.evaluation.runs import distinct_names

CARD = "RTX 3090"  # the course's
UNKNOWN = "–"


def compare(runs: Sequence[Facts]) -> Comparison:
    """The figures of two or more runs side by side, McNemar's test for each pair, and the answer in sentences."""
    names = distinct_names([facts.run.path for facts in runs])
    compared = tuple(_compared(name, facts) for name, facts in zip(names, runs, strict=True))
    tests = _tests(names, runs)
    return Comparison(runs=compared, tests=tests, sentences=_sentences(compared, tests))


def table(comparison: Comparison) -> list[tuple[str, tuple[str, ...]]]:
    """The figures as text: a row for each figure, with the value of each run."""
    rows: list[tuple[str, Callable[[ComparedRun], str]]] = [
        ("model", lambda run: run.model),
        ("dataset", lambda run: run.dataset),
        ("parameters", lambda run: _number(run.parameters)),
        ("MFLOPs per image", lambda run: _number(run.forward_flops_per_image, 1e6, ",.1f")),
        ("batch", lambda run: _number(run.batch)),
        ("memory of a step, MiB", lambda run: _number(run.memory_bytes, 2**20, ",.0f")),
        *(
            (f"largest batch, {card}", lambda run, card=card: _number(run.largest_batch.get(card)))
            for card in dict.fromkeys(card for run in comparison.runs for card in run.largest_batch)
        ),
        ("validation accuracy", lambda run: UNKNOWN if run.val_accuracy is None else share(run.val_accuracy)),
        ("test accuracy", lambda run: "not tested" if run.test_accuracy is None else share(run.test_accuracy)),
        ("95 % interval", _interval),
        ("best epoch", lambda run: UNKNOWN if run.best_epoch is None else f"{run.best_epoch} of {run.epochs}"),
        ("time", lambda run: UNKNOWN if run.train_seconds is None else duration(run.train_seconds)),
        ("images/s", lambda run: _number(run.images_per_second)),
        ("device", lambda run: run.device or UNKNOWN),
        ("over- or under-fitting", lambda run: run.verdict),
    ]
    return [(label, tuple(map(text, comparison.runs))) for label, text in rows]


def _compared(name: str, facts: Facts) -> ComparedRun:
    run, score = facts.run, facts.score
    tested = score if score is not None and score.split == "test" else None
    return ComparedRun(
        name=name,
        model=run.config.model.label,
        dataset=run.config.data.dataset,
        parameters=facts.counted.total_params if facts.counted else None,
        forward_flops_per_image=facts.counted.forward_flops_per_image if facts.counted else None,
        batch=run.config.recipe.batch,
        memory_bytes=facts.memory.device_bytes if facts.memory else None,
        largest_batch=dict(facts.memory.largest) if facts.memory else {},
        val_accuracy=run.best.val_accuracy if run.best else None,
        test_accuracy=tested.accuracy if tested else run.said("test_accuracy"),  # where the dataset is gone
        test_accuracy_interval=tested.interval if tested else None,
        best_epoch=run.best.epoch if run.best else None,
        epochs=len(run.epochs),
        train_seconds=run.said("train_seconds") or (run.epochs[-1].elapsed_seconds if run.epochs else None),
        images_per_second=run.said("images_per_second") or (run.epochs[-1].images_per_second if run.epochs else None),
        device=_device(run.told),
        verdict=facts.judgement.verdict,
    )


def _device(told: Mapping[str, Any]) -> str | None:
    """The device that a run trained on; with the threads of a CPU, on which its speed depends."""
    name = told.get("device_name") or told.get("device")
    if name is None:
        return None
    threads = told.get("threads") if told.get("device") == "cpu" else None
    return f"{name}, {threads} thread{'s' if threads != 1 else ''}" if threads else str(name)


def _tests(names: Sequence[str], runs: Sequence[Facts]) -> tuple[McNemar, ...]:
    """For each pair whose test predictions are of the same images."""
    return tuple(
        mcnemar(first, second, names=(names[one], names[other]))
        for one, other in combinations(range(len(runs)), 2)
        if (first := runs[one].predicted) is not None
        and (second := runs[other].predicted) is not None
        and same_images(first, second)
    )


def _sentences(runs: Sequence[ComparedRun], tests: Sequence[McNemar]) -> tuple[str, ...]:
    said = [
        _accuracy(runs, tests),
        _extremes(runs, lambda run: run.parameters, "has the fewest parameters, {}", "the most, {}", _number),
        _extremes(
            runs,
            lambda run: run.forward_flops_per_image,
            "takes the fewest FLOPs for an image, {} million",
            "the most, {} million",
            lambda flops: _number(flops, 1e6, ",.1f"),
        ),
        _extremes(
            runs,
            lambda run: run.largest_batch.get(CARD),
            f"fits the smallest batch on an {CARD}, about {{}} images",
            "the largest, about {}",
            _number,
        ),
        _speed(runs),
    ]
    return tuple(sentence for sentence in said if sentence)


def _accuracy(runs: Sequence[ComparedRun], tests: Sequence[McNemar]) -> str:
    scored = sorted((run for run in runs if run.test_accuracy is not None), key=lambda run: -(run.test_accuracy or 0.0))
    if len(scored) < 2:
        return "Fewer than two of the runs have been tested, so their accuracies can't be compared."
    if len(datasets := {run.dataset for run in runs}) > 1:
        return f"The runs used different datasets ({', '.join(sorted(datasets))}), so accuracies can't be compared."
    best, second = scored[:2]
    start = f"{_called(best)} has the highest test accuracy, {share(best.test_accuracy or 0.0)}"
    follows = f"{_called(second)} follows with {share(second.test_accuracy or 0.0)}"
    if best.test_accuracy == second.test_accuracy:
        return f"{_called(best)} and {_called(second)} have the same test accuracy, {share(best.test_accuracy or 0.0)}."
    test = next((test for test in tests if {test.first, test.second} == {best.name, second.name}), None)
    if test is None:
        return f"{start}; {follows}, but on other images or without kept predictions, so the difference is not tested."
    significant = "significant" if test.p_value < 0.05 else "not significant"
    return f"{start}; {follows}, and the difference is {significant} ({test.p_text}, McNemar)."


def _extremes(
    runs: Sequence[ComparedRun],
    value: Callable[[ComparedRun], float | None],
    least: str,
    most: str,
    text: Callable[[float | None], str],
) -> str:
    """ "A has the fewest parameters, 1; B has the most, 2." Nothing where the runs don't differ, or one is unknown."""
    known = [(found, run) for run in runs if (found := value(run)) is not None]
    if len(known) < len(runs):
        return ""
    (low, lowest), (high, highest) = (choose(known, key=lambda each: each[0]) for choose in (min, max))
    if low == high:
        return ""
    return f"{_called(lowest)} {least.format(text(low))}; {_called(highest)} {most.format(text(high))}."


def _speed(runs: Sequence[ComparedRun]) -> str:
    if len({run.device for run in runs}) > 1:
        return "The runs used different devices, so their times and speeds can't be compared."
    return _extremes(
        runs, lambda run: run.images_per_second, "trained slowest, at {} images/s", "fastest, at {} images/s", _number
    )


def _called(run: ComparedRun) -> str:
    return run.name if run.model in run.name else f"{run.name} ({run.model})"


def _interval(run: ComparedRun) -> str:
    found = run.test_accuracy_interval
    return UNKNOWN if found is None else f"{share(found.low)} to {share(found.high)}"


def _number(value: float | None, unit: float = 1, form: str = ",.0f") -> str:
    return UNKNOWN if value is None else format(value / unit, form)
