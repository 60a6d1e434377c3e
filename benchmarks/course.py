"""Writes the figures of docs/course.md from run directories, so that none is typed by hand.

    python benchmarks/course.py RUN_DIR RUN_DIR RUN_DIR --page docs/course.md

What stands between two marks of the page is replaced: below each question the answer that `cifar report` gives for
every run, and the comparison of the runs. A model of the course without a run is "not measured yet".
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_cli.core.evaluation.report.answers import answers_of
from cifar_cli.core.evaluation.report.comparison import compare, table
from cifar_cli.core.evaluation.report.facts import Facts, facts_of
from cifar_cli.core.evaluation.runs import distinct_names

MODELS = ("null", "cnn", "hybrid")  # of the course, in its order
MISSING = "not measured yet"
PART = re.compile(r"(<!-- ([\w-]+) begins -->\n).*?(<!-- \2 ends -->)", re.DOTALL)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR", help="a run of each model")
    parser.add_argument("--page", type=Path, default=Path("docs/course.md"), help="the page to rewrite")
    options = parser.parse_args(words)
    runs = dict(zip(distinct_names(options.runs), map(facts_of, options.runs), strict=True))
    text = filled(options.page.read_text(encoding="utf-8"), runs)
    options.page.write_text(text, encoding="utf-8")


def filled(page: str, runs: Mapping[str, Facts]) -> str:
    """The page with what the runs say between its marks. runs: by the names that the page gives them."""
    given = {facts.run.config.model.name for facts in runs.values()}
    missing = [f"- **{name}**: {MISSING}" for name in MODELS if name not in given]
    answers = {name: {each.key: each.sentence for each in answers_of(facts)} for name, facts in runs.items()}

    def part(key: str) -> list[str]:
        if key == "machine":
            return [f"- **{name}**: {conditions(facts)}" for name, facts in runs.items()] + missing
        if key == "comparison":
            return comparison(list(runs.values())) if len(runs) > 1 else [f"The comparison is {MISSING}."]
        return [f"- **{name}**: {answered[key]}" for name, answered in answers.items()] + missing

    return PART.sub(lambda match: "\n".join((match[1], *part(match[2]), "", match[3])), page)


def conditions(facts: Facts) -> str:
    """Model, recipe, device and versions of a run, and the dataset by the first digits of its checksum."""
    run = facts.run
    told, config = run.told, run.config
    data = told.get("data") or {}
    model = config.model.label + (f" ({config.model.backbone})" if config.model.name == "cnn" else "")
    device = str(told.get("device_name"))
    if told.get("device") == "cpu" and "threads" in told:
        device += f" with {told['threads']} threads"
    return (
        f"{model}, recipe {config.recipe.name}, at most {config.recipe.max_seconds / 60:g} minutes, batch "
        f"{config.recipe.batch}, precision {config.precision}, seed {config.seed}, on {device}; cifar "
        f"{told.get('version')}, torch {told.get('torch')}; {config.data.dataset} with the content checksum "
        f"{str(data.get('content_checksum'))[:19]}…"
    )


def comparison(runs: Sequence[Facts]) -> list[str]:
    """The runs side by side as a table, how they compare, and McNemar's test of each pair."""
    compared = compare(runs)
    names = [run.name for run in compared.runs]
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    lines += [f"| {label} | {' | '.join(values)} |" for label, values in table(compared)]
    lines += ["", *(f"- {sentence}" for sentence in compared.sentences)]
    return lines + [f"- {test.sentence}." for test in compared.tests]


if __name__ == "__main__":
    main()
