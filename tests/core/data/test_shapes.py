"""The synthetic dataset: reproducible, balanced, and too hard for a linear classifier."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.errors import ConfigError


@pytest.fixture(scope="module")
def drawn():
    return draw_shapes(train_images=4000, test_images=1000)


def test_an_image_does_not_depend_on_how_many_are_drawn(drawn):
    images = draw_shapes(train_images=37, test_images=501)
    assert np.array_equal(images.train_images, drawn.train_images[:37])
    assert np.array_equal(images.test_images, drawn.test_images[:501])


def test_the_first_images_have_a_known_checksum(drawn):
    digest = hashlib.sha256(drawn.train_images[:20].tobytes()).hexdigest()
    assert digest == "55157e79a1bd7d0867d763f638a8e859f3a1e4487e1464465459e2ebd3c7e4da"


def test_classes_are_balanced_and_images_differ_between_splits_and_seeds(drawn):
    assert np.bincount(drawn.train_labels).tolist() == [400] * 10
    assert len(drawn.classes) == 10
    assert not np.array_equal(drawn.train_images[:10], drawn.test_images[:10])
    other = draw_shapes(train_images=10, test_images=1, seed=1)
    assert not np.array_equal(other.train_images, drawn.train_images[:10])


@pytest.mark.slow
def test_a_linear_classifier_stays_under_60_percent(drawn):
    train, test = (
        torch.from_numpy(images).flatten(1).float() / 127.5 - 1 for images in (drawn.train_images, drawn.test_images)
    )
    train_labels, test_labels = torch.from_numpy(drawn.train_labels), torch.from_numpy(drawn.test_labels)
    torch.manual_seed(0)
    model = nn.Linear(3072, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train), train_labels).backward()
        optimizer.step()
    assert (model(test).argmax(1) == test_labels).float().mean() < 0.6


def test_zero_images_and_negative_seeds_are_rejected():
    with pytest.raises(ConfigError, match="0 training images can't be drawn"):
        draw_shapes(train_images=0)
    with pytest.raises(ConfigError, match="seed -1 is negative"):
        draw_shapes(seed=-1)
