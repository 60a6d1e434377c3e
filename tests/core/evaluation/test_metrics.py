from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix as sklearn_matrix
from sklearn.metrics import log_loss, precision_recall_fscore_support, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_calibration_error

from cifar_cli.core.evaluation.metrics import (
    calibration,
    chance_level,
    class_scores,
    confused_pairs,
    confusion_matrix,
    mcnemar,
    top_accuracy,
    wilson_interval,
)
from tests.core.evaluation.made_up import made_up, predictions_of

SIZES = [(300, 7, 0), (500, 10, 1), (40, 2, 2), (60, 100, 3)]


@pytest.mark.parametrize(("images", "classes", "seed"), SIZES)
def test_scores_are_those_of_scikit_learn(images: int, classes: int, seed: int) -> None:
    made = made_up(images=images, classes=classes, seed=seed)
    true, predicted = made.labels_N.numpy(), made.predicted_N.numpy()
    matrix = confusion_matrix(made)
    np.testing.assert_array_equal(matrix, sklearn_matrix(true, predicted, labels=range(classes)))
    scores = class_scores(matrix, made.classes)
    expected = precision_recall_fscore_support(true, predicted, labels=range(classes), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        np.testing.assert_allclose([getattr(score, name) for score in scores], values, atol=1e-6, rtol=0)
    if classes > 5:
        top5 = top_k_accuracy_score(true, made.logits_NK.numpy(), k=5, labels=range(classes))
        assert top_accuracy(made) == pytest.approx(top5, abs=1e-6)
    else:
        assert top_accuracy(made) is None
    cross_entropy = float(torch.nn.functional.cross_entropy(made.logits_NK, made.labels_N))
    assert log_loss(true, made.probabilities_NK.numpy(), labels=range(classes)) == pytest.approx(
        cross_entropy, abs=1e-6
    )


@pytest.mark.parametrize(("images", "classes", "seed"), SIZES)
def test_the_calibration_error_is_the_weighted_distance_of_its_bins(images: int, classes: int, seed: int) -> None:
    made = made_up(images=images, classes=classes, seed=seed)
    found = calibration(made)
    assert len(found.bins) == 15
    assert sum(each.images for each in found.bins) == images
    expected = multiclass_calibration_error(made.probabilities_NK, made.labels_N, classes, n_bins=15)
    assert found.error == pytest.approx(float(expected), abs=1e-6)
    for each in found.bins:
        assert not each.images or each.low <= each.confidence <= each.high


def test_a_sure_and_right_model_is_calibrated_and_a_sure_and_wrong_one_is_not() -> None:
    labels = torch.arange(10) % 3
    sure = 1000.0 * torch.nn.functional.one_hot(labels, 3)
    assert calibration(predictions_of(sure, labels)).error == 0
    assert calibration(predictions_of(sure, (labels + 1) % 3)).error == pytest.approx(1)


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (10, 10), (1, 1), (93, 100), (9_345, 10_000), (5, 10)])
def test_the_interval_is_wilsons(correct: int, images: int) -> None:
    expected = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    found = wilson_interval(correct, images)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(only_first=st.integers(0, 400), only_second=st.integers(0, 400))
def test_mcnemars_test_is_the_exact_binomial_one(only_first: int, only_second: int) -> None:
    right = torch.tensor([[1.0, 0.0]])
    images = only_first + only_second + 3
    labels = torch.zeros(images, dtype=torch.long)
    first, second = right.repeat(images, 1), right.repeat(images, 1)
    second[:only_first] = right.flip(1)
    first[only_first : only_first + only_second] = right.flip(1)
    found = mcnemar(predictions_of(first, labels), predictions_of(second, labels), names=("a", "b"))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    differing = only_first + only_second
    expected = binomtest(only_first, differing).pvalue if differing else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_the_most_confused_pairs_come_first_and_right_answers_are_none() -> None:
    matrix = torch.tensor([[90, 3, 7], [20, 79, 1], [0, 0, 50]])
    pairs = confused_pairs(matrix, ("cat", "dog", "fox"), most=3)
    assert [(each.true, each.predicted, each.images) for each in pairs] == [
        ("dog", "cat", 20),
        ("cat", "fox", 7),
        ("cat", "dog", 3),
    ]
    assert pairs[0].share == pytest.approx(0.2)
    assert confused_pairs(torch.diag(torch.tensor([3, 4])), ("cat", "dog")) == ()


def test_the_chance_level_is_the_share_of_the_most_frequent_class() -> None:
    assert chance_level(torch.tensor([[8, 2], [1, 4]])) == pytest.approx(10 / 15)
    assert chance_level(torch.tensor([[5, 5], [5, 5]])) == 0.5
