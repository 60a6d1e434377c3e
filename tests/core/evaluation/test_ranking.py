from __future__ import annotations

import torch

from cifar_cli.core.evaluation.ranking import mistakes, most_doubtful, suspects
from tests.core.evaluation.made_up import made_up, predictions_of


def test_the_most_doubtful_label_has_the_lowest_probability_whatever_the_other_classes_have() -> None:
    probabilities = torch.tensor([[0.3, 0.1, 0.6], [0.7, 0.2, 0.1], [0.25, 0.4, 0.35]], dtype=torch.float64)
    assert most_doubtful(probabilities, torch.tensor([0, 0, 0])).tolist() == [2, 0, 1]


def test_a_swapped_label_is_the_first_suspect_and_the_first_mistake() -> None:
    labels = torch.arange(30) % 3
    logits = 8.0 * torch.nn.functional.one_hot(labels, 3) + torch.rand(
        30, 3, generator=torch.Generator().manual_seed(0)
    )
    labels[17] = (labels[17] + 1) % 3
    made = predictions_of(logits, labels)
    (suspect, *_), (mistake,) = suspects(made), mistakes(made)
    assert suspect == mistake
    assert (suspect.index, suspect.true) == (17, made.classes[int(labels[17])])
    assert suspect.confidence > 0.99
    assert suspect.true_probability < 0.01


def test_mistakes_are_all_wrong_predictions_from_the_most_confident_down() -> None:
    made = made_up()
    ranked = mistakes(made)
    assert len(ranked) == int((~made.correct_N).sum())
    assert all(each.true != each.predicted for each in ranked)
    assert [each.confidence for each in ranked] == sorted((each.confidence for each in ranked), reverse=True)
    assert mistakes(made, most=3) == ranked[:3]


def test_suspects_rank_every_image() -> None:
    made = made_up()
    ranked = suspects(made)
    assert sorted(each.index for each in ranked) == list(range(len(made)))
    doubts = [each.true_probability for each in ranked]
    assert doubts == sorted(doubts)


def test_probabilities_that_float32_rounds_to_one_are_still_told_apart() -> None:
    logits = torch.tensor([[40.0, 0.0], [45.0, 0.0], [42.0, 0.0]])
    labels = torch.tensor([1, 1, 1])
    made = predictions_of(logits, labels)
    assert made.probabilities_NK[:, 1].unique().numel() == 3
