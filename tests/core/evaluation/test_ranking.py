from __future__ import annotations

import torch

from cifar_cli.core.evaluation.ranking import label_quality, mistakes, suspects
from tests.core.evaluation.made_up import made_up, predictions_of


def test_the_label_quality_is_the_normalised_margin() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.5, 0.5, 0.0]], dtype=torch.float64)
    quality = label_quality(probabilities, torch.tensor([0, 2, 1]))
    torch.testing.assert_close(quality, torch.tensor([0.75, 0.2, 0.5], dtype=torch.float64))


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
    assert suspect.label_quality < 0.01


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
    assert [each.label_quality for each in ranked] == sorted(each.label_quality for each in ranked)


def test_probabilities_that_float32_rounds_to_one_are_still_told_apart() -> None:
    logits = torch.tensor([[40.0, 0.0], [45.0, 0.0], [42.0, 0.0]])
    labels = torch.tensor([1, 1, 1])
    made = predictions_of(logits, labels)
    assert made.probabilities_NK[:, 1].unique().numel() == 3
