"""The drawn dataset: the same on every call, balanced, and not to be solved by a linear classifier."""

import hashlib

import pytest
import torch
from torch import nn

from cifar_cli.core.data.sources.shapes import SHAPE_CLASSES, draw_shapes
from cifar_cli.errors import ConfigError


@pytest.fixture(scope="module")
def drawn():
    return draw_shapes(train_images=4000, test_images=1000)


def test_an_image_does_not_depend_on_how_many_are_drawn(drawn):
    train, test = draw_shapes(train_images=37, test_images=501)
    assert torch.equal(train.images_NHWC, drawn[0].images_NHWC[:37])
    assert torch.equal(test.images_NHWC, drawn[1].images_NHWC[:501])


def test_the_first_images_are_these(drawn):
    digest = hashlib.sha256(drawn[0].images_NHWC[:20].numpy().tobytes()).hexdigest()
    assert digest == "55157e79a1bd7d0867d763f638a8e859f3a1e4487e1464465459e2ebd3c7e4da"


def test_classes_are_balanced_and_parts_and_seeds_differ(drawn):
    train, test = drawn
    assert torch.bincount(train.labels_N).tolist() == [400] * 10
    assert len(SHAPE_CLASSES) == 10
    assert not torch.equal(train.images_NHWC[:10], test.images_NHWC[:10])
    other, _ = draw_shapes(train_images=10, test_images=1, seed=1)
    assert not torch.equal(other.images_NHWC, train.images_NHWC[:10])


def test_a_linear_softmax_stays_under_60_percent(drawn):
    train, test = drawn
    flat = [part.images_NHWC.reshape(len(part), -1).float() / 127.5 - 1 for part in drawn]
    torch.manual_seed(0)
    model = nn.Linear(3072, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(flat[0]), train.labels_N).backward()
        optimizer.step()
    assert (model(flat[1]).argmax(1) == test.labels_N).float().mean() < 0.6


def test_no_images_and_negative_seeds_are_refused():
    with pytest.raises(ConfigError, match="0 training images can't be drawn"):
        draw_shapes(train_images=0)
    with pytest.raises(ConfigError, match="seed -1 is negative"):
        draw_shapes(seed=-1)
