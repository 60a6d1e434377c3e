"""The batched pipeline, for any batch: shapes, range, a function of seed and position, evaluation never random."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_cli.core.augment.batched import BatchedPipeline, EvalTransform
from cifar_cli.core.augment.policy import COURSE, POLICIES, policy_of
from cifar_cli.errors import ConfigError

LEVELS = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # so that the output's values are the pixels' levels
seeds = st.integers(0, 2**63 - 1)
policies = st.sampled_from(list(POLICIES.values()))
some = settings(max_examples=30, deadline=None)


def images(count, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


@some
@given(policy=policies, count=st.integers(0, 9), side=st.integers(8, 40), size=st.integers(8, 48), seed=seeds)
def test_any_batch_keeps_its_count_and_gets_the_size_the_type_and_the_range(policy, count, side, size, seed):
    before = images(count, side)
    given_images = before.clone()
    made = BatchedPipeline(policy, size, *LEVELS)(given_images, seed=seed)
    assert made.shape == (count, 3, size, size)
    assert made.dtype == torch.float32
    assert torch.equal(given_images, before)  # the store's images stay as they are
    if count:
        assert -1e-3 <= made.min() <= made.max() <= 255.001
        assert (made - made.round()).abs().max() < 1e-3  # whole levels


@some
@given(policy=policies, seed=seeds, first=st.integers(0, 11))
def test_a_slice_of_a_batch_is_made_as_in_the_whole(policy, seed, first):
    pipeline = BatchedPipeline(policy, 32, *LEVELS)
    batch = images(12)
    assert torch.equal(pipeline(batch[first:], seed=seed, first=first, of=12), pipeline(batch, seed=seed)[first:])


@some
@given(seeds, seeds, st.integers(1, 64))
def test_the_evaluation_transform_is_never_random(one, other, size):
    batch = images(4)
    transform = EvalTransform(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert torch.equal(transform(batch, seed=one), transform(batch, seed=other))
    assert torch.equal(transform(batch[2:3]), transform(batch)[2:3])  # whatever else is in the batch


def test_the_evaluation_transform_takes_the_mean_off_and_divides_by_the_deviation():
    batch = images(3)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    expected = ((batch.double() / 255 - mean) / std).permute(0, 3, 1, 2).float()
    made = EvalTransform(32, mean.tolist(), std.tolist())(batch)
    assert torch.allclose(made, expected, atol=1e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_a_trace_ends_with_what_a_call_gives():
    pipeline = BatchedPipeline(COURSE, 32, *LEVELS)
    traced = pipeline.trace(images(12), seed=3)
    assert torch.allclose(traced[-1][0].permute(0, 3, 1, 2).float(), pipeline(images(12), seed=3), atol=1e-3)
    before = images(12)
    for after, fired in traced:
        assert torch.equal(after[~fired], before[~fired])
        before = after


@pytest.mark.parametrize("size", [32, 64, 224])
def test_lengths_of_a_policy_grow_with_the_images(size):
    crop, _, _, dropout = COURSE.scaled(size)
    assert crop.padded == size * 36 // 32
    assert (dropout.smallest, dropout.largest) == (size // 8, size // 4)


def test_an_unknown_policy_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="no augmentation policy named 'crop'") as caught:
        policy_of("crop")
    assert "crop-flip" in caught.value.remedy
