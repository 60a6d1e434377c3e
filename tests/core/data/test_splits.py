"""The validation split: stratified, complete, reproducible."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifar_cli.core.data.splits import stratified_split
from cifar_cli.errors import ConfigError, DataError


@given(counts=st.lists(st.integers(2, 60), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_every_class_gives_its_rounded_share_and_no_image_is_lost_or_used_twice(counts, seed):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    split = stratified_split(labels, fraction=0.1, seed=seed)
    both = torch.cat([split.train_indices, split.val_indices])
    assert both.sort().values.tolist() == list(range(len(labels)))
    assert split.train_indices.tolist() == sorted(split.train_indices.tolist())
    held = torch.bincount(labels[split.val_indices], minlength=len(counts)).tolist()
    assert held == [max(1, round(0.1 * count)) for count in counts]


def test_cifar10_holds_out_500_images_of_each_class_chosen_by_the_seed():
    labels = torch.arange(50_000) % 10
    split = stratified_split(labels)
    assert torch.bincount(labels[split.val_indices]).tolist() == [500] * 10
    assert torch.equal(split.val_indices, stratified_split(labels, seed=42).val_indices)
    assert not torch.equal(split.val_indices, stratified_split(labels, seed=43).val_indices)


def test_the_only_image_of_a_class_is_trained_on():
    assert stratified_split(torch.tensor([0, 0, 1])).train_indices.tolist()[-1] == 2
    with pytest.raises(DataError, match="no class has two training images"):
        stratified_split(torch.tensor([0, 1]))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_that_leaves_no_images_is_rejected(fraction):
    with pytest.raises(ConfigError, match="leaves no images for training or for validation"):
        stratified_split(torch.tensor([0, 0]), fraction=fraction)
