"""The batched pipeline: shapes, range, reproducible draws, and an evaluation transform without random draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_cli.core.augment.batched import BatchedPipeline, EvalTransform
from cifar_cli.core.augment.policy import COURSE, POLICIES, policy_of
from cifar_cli.core.transform import BatchSlice
from cifar_cli.errors import ConfigError

LEVELS = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # output values equal pixel levels
seeds = st.integers(0, 2**63 - 1)
policies = st.sampled_from(list(POLICIES.values()))
some = settings(max_examples=30, deadline=None)


def images(count, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def batch_of(count, seed):
    return [BatchSlice.complete(seed=seed, count=count)]


@some
@given(policy=policies, count=st.integers(0, 9), side=st.integers(8, 40), size=st.integers(8, 48), seed=seeds)
def test_output_has_the_batch_size_image_size_dtype_and_range(policy, count, side, size, seed):
    before = images(count, side)
    given_images = before.clone()
    made = BatchedPipeline(policy, size, *LEVELS)(given_images, batch_of(count, seed))
    assert made.shape == (count, 3, size, size)
    assert made.dtype == torch.float32
    assert torch.equal(given_images, before)  # the store's images stay as they are
    if count:
        assert -1e-3 <= made.min() <= made.max() <= 255.001
        assert (made - made.round()).abs().max() < 1e-3  # integer levels


@some
@given(policy=policies, seed=seeds, first=st.integers(0, 11))
def test_a_slice_equals_the_same_images_of_the_complete_batch(policy, seed, first):
    pipeline = BatchedPipeline(policy, 32, *LEVELS)
    batch = images(12)
    end_of_batch = BatchSlice(seed=seed, first=first, count=12 - first, total=12)
    assert torch.equal(pipeline(batch[first:], [end_of_batch]), pipeline(batch, batch_of(12, seed))[first:])


def test_several_slices_in_one_call_are_made_as_in_a_call_each():
    pipeline = BatchedPipeline(COURSE, 32, *LEVELS)
    batch, slices = images(12), [BatchSlice(seed=seed, first=1, count=6, total=9) for seed in (3, 4)]
    each = [pipeline(part, [one]) for part, one in zip(batch.split(6), slices, strict=True)]
    assert torch.equal(pipeline(batch, slices), torch.cat(each))


@some
@given(seeds, seeds, st.integers(1, 64))
def test_the_evaluation_transform_does_not_depend_on_the_seed(one, other, size):
    batch = images(4)
    transform = EvalTransform(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert torch.equal(transform(batch, batch_of(4, one)), transform(batch, batch_of(4, other)))
    assert torch.equal(transform(batch[2:3]), transform(batch)[2:3])  # independent of the rest of the batch


def test_the_evaluation_transform_subtracts_the_mean_and_divides_by_the_standard_deviation():
    batch = images(3)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    expected = ((batch.double() / 255 - mean) / std).permute(0, 3, 1, 2).float()
    made = EvalTransform(32, mean.tolist(), std.tolist())(batch)
    assert torch.allclose(made, expected, atol=1e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_a_trace_ends_with_the_images_of_a_call():
    pipeline = BatchedPipeline(COURSE, 32, *LEVELS)
    traced = pipeline.trace(images(12), seed=3)
    assert torch.allclose(traced[-1][0].permute(0, 3, 1, 2).float(), pipeline(images(12), batch_of(12, 3)), atol=1e-3)
    before = images(12)
    for after, fired in traced:
        assert torch.equal(after[~fired], before[~fired])
        before = after


@pytest.mark.parametrize("size", [32, 64, 224])
def test_lengths_of_a_policy_scale_with_the_image_size(size):
    crop, _, _, dropout = COURSE.scaled(size)
    assert crop.padded == size * 36 // 32
    assert (dropout.smallest, dropout.largest) == (size // 8, size // 4)


def test_an_unknown_policy_name_is_an_error_that_suggests_the_nearest():
    with pytest.raises(ConfigError, match="no augmentation policy named 'crop'") as caught:
        policy_of("crop")
    assert "crop-flip" in caught.value.remedy
