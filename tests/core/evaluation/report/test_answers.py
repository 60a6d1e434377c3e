"""The report's answers: runs that go differently are told apart, and each sentence is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_cli.core.evaluation.report.answers import answers_of
from cifar_cli.core.evaluation.report.facts import facts_of
from cifar_cli.core.evaluation.report.recorded import Epoch
from cifar_cli.core.evaluation.report.rules import decline_of, judge
from tests.core.evaluation.report import histories
from tests.core.evaluation.report.histories import CLASSES, EPOCHS, write_run

HISTORIES: dict[str, tuple[Callable[[], list[Epoch]], bool]] = {
    "balanced": (histories.healthy, True),
    "over-fitting": (histories.overfitting, True),
    "under-fitting": (histories.underfitting, True),
    "diverged": (histories.diverging, True),
    "chance": (histories.guessing, False),
}


@pytest.fixture(scope="module")
def sentences(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The answers by history and question."""
    folder = tmp_path_factory.mktemp("histories")
    return {
        name: {
            answer.key: answer.sentence
            for answer in answers_of(facts_of(write_run(folder / name, history(), data_dir=data_dir)))
        }
        for name, (history, _) in HISTORIES.items()
    }


@pytest.mark.parametrize("name", HISTORIES)
def test_every_history_gets_its_verdict(name: str) -> None:
    history, better = HISTORIES[name]
    judgement = judge(history(), classes=len(CLASSES), chance=0.1, better_than_chance=better, train_accuracy=None)
    assert judgement.verdict == name
    assert judgement.reason
    assert judgement.rule.endswith(".")


def test_a_wide_gap_on_plain_images_is_over_fitting_even_if_augmented_ones_hide_it() -> None:
    assert (
        judge(histories.healthy(), classes=10, chance=0.1, better_than_chance=True, train_accuracy=0.99).verdict
        == "over-fitting"
    )


def test_a_loss_of_nan_is_divergence_and_its_epoch_is_named() -> None:
    judgement = judge(histories.broken(), classes=10, chance=0.1, better_than_chance=True, train_accuracy=None)
    assert judgement.verdict == "diverged"
    assert "epoch 4" in judgement.reason


def test_two_epochs_are_too_few_for_a_verdict() -> None:
    judged = judge(histories.healthy()[:2], classes=10, chance=0.1, better_than_chance=True, train_accuracy=None)
    assert judged.verdict == "too short"


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        ((2.0, 1.5, 1.2, 1.0), "steady"),
        ((2.0, 1.5, 1.55, 1.0), "steady"),
        ((2.0, 1.0, 1.3, 0.9), "uneven"),
        ((1.0, 1.2, 1.1, 1.3), "none"),
        ((1.0, 1.0, 1.0), "none"),
        ((1.0, math.inf), "broken"),
    ],
)
def test_a_decline_is_steady_uneven_or_none(losses: tuple[float, ...], kind: str) -> None:
    assert decline_of(losses).kind == kind


def test_different_histories_get_different_sentences(sentences: dict[str, dict[str, str]]) -> None:
    for key in ("losses", "accuracy", "fit", "chance", "best-epoch"):
        assert len({answers[key] for answers in sentences.values()}) >= 4, key
    assert len({answers["fit"] for answers in sentences.values()}) == len(sentences)


def test_the_sentences_are_right(sentences: dict[str, dict[str, str]]) -> None:
    healthy, over, under = (sentences[name] for name in ("balanced", "over-fitting", "under-fitting"))
    assert healthy["losses"].startswith(
        "The training loss falls steadily, from 1.350 to 0.601; it never rose. The validation loss "
    )
    assert healthy["fit"].startswith("Neither: ")
    assert healthy["best-epoch"].startswith("Epoch 10 of 10 has the highest validation accuracy, 79.87%")
    assert healthy["learning-rate"] == "It was 0.001 in every step (adam, schedule constant)."
    assert healthy["time"] == "10 min 0 s for 10 epochs, about 1 min 0 s each, validation included."
    assert healthy["chance"].startswith("Yes: 80.00% (71.12% to 86.66%) of 100 test images are right, 8.0 times chance")
    assert healthy["pairs"].startswith("Most often confused, as true → predicted (images): circle → square (2), ")
    assert healthy["mistakes"] == (
        "20 of 100 test images are predicted wrong, 20 of them with a probability of 90% or more for the wrong class."
    )
    assert "validation loss does not fall on the whole" in over["losses"]
    assert over["losses"].endswith("; it rose in 6 of 9 epochs.")
    assert over["fit"].startswith("It over-fits: accuracy on training images without augmentation is ")
    assert "the validation loss has risen by" in over["fit"]
    assert over["accuracy"].endswith("It ends lower, at 60.00%.")
    assert under["fit"].startswith("It under-fits: the model gets only 32.0% of the training images")
    assert "still fell by" in under["fit"]
    assert "diverged" in sentences["diverged"]["fit"]
    assert sentences["chance"]["chance"].startswith("No: ")
    assert sentences["chance"]["accuracy"].startswith("No: ")
    assert sentences["chance"]["fit"].startswith("That can't be said: ")


def test_a_falling_and_a_rising_and_falling_rate_are_described(data_dir: Path, tmp_path: Path) -> None:
    for name, rates, words in (
        ("cycle", [(1, 0.01), (30, 0.1), (60, 0.001)], "from 0.01 up to 0.1 and ended at 0.001"),
        ("falling", [(1, 0.1), (60, 0.001)], "It fell from 0.1 to 0.001"),
    ):
        facts = facts_of(write_run(tmp_path / name, histories.healthy(), data_dir=data_dir, rates=rates))
        assert words in answers_of(facts)[0].sentence


def test_an_unfinished_run_answers_what_is_known(data_dir: Path, tmp_path: Path) -> None:
    facts = facts_of(write_run(tmp_path / "run", histories.healthy()[:4], data_dir=data_dir, finished=False))
    told = {answer.key: answer.sentence for answer in answers_of(facts)}
    assert "validation images are right" in told["chance"]
    assert told["mistakes"] == "No predictions of the test images were kept."
    assert f"{EPOCHS}" not in told["best-epoch"]
    empty = facts_of(write_run(tmp_path / "empty", [], data_dir=data_dir, finished=False))
    answers = {answer.key: answer.sentence for answer in answers_of(empty)}
    assert answers["losses"] == answers["best-epoch"] == "This run holds no record of it."
    assert answers["fit"] == "That can't be said yet: no epoch is recorded."
    assert answers["size"].startswith("null has 545,098 parameters")


def test_a_run_whose_dataset_is_gone_keeps_its_other_answers(tmp_path: Path) -> None:
    facts = facts_of(write_run(tmp_path / "run", histories.healthy(), data_dir=tmp_path / "gone"))
    told = {answer.key: answer.sentence for answer in answers_of(facts)}
    assert told["samples"] == "The dataset is not where it was, so no image can be shown."
    assert " test images are right" in told["chance"]


def test_a_model_that_is_little_better_than_the_most_frequent_class_is_under_fitting() -> None:
    history = [replace(epoch, val_accuracy=0.92, train_accuracy=0.92) for epoch in histories.healthy()]
    verdicts = [
        judge(history, classes=2, chance=chance, better_than_chance=True, train_accuracy=0.92).verdict
        for chance in (0.5, 0.9)
    ]
    assert verdicts == ["balanced", "under-fitting"]
