"""Policies that need complete batches: alternating flip, RandAugment, random erasing, mixup and cutmix."""

import pytest
import torch
from torchvision.transforms import v2

from cifar_cli.core.augment.batched import BatchedPipeline, apply
from cifar_cli.core.augment.config import PreviewConfig
from cifar_cli.core.augment.draws import OPERATIONS, Draw, draw
from cifar_cli.core.augment.mixing import BatchMixer, cut_mixed, mixer_of
from cifar_cli.core.augment.per_image import PerImagePipeline
from cifar_cli.core.augment.policy import POLICIES, AlternatingFlip, Mix, PadCrop, RandAugment, RandomErasing
from cifar_cli.core.augment.preview import preview
from cifar_cli.core.augment.rand_augment import operations
from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.transform import BatchSlice
from cifar_cli.errors import ConfigError
from tests.transfers import Transfers

LEVELS = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # output values equal pixel levels
COUNT = 64
IMAGES = torch.randint(0, 256, (COUNT, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
NEEDING_BATCHES = [policy for policy in POLICIES.values() if policy.needs_batches]


def loader(policy, *, rank=0, world_size=1, batch=16, shuffle=True):
    return BatchLoader(
        IMAGES,
        torch.arange(COUNT) % 10,
        torch.arange(COUNT),
        batch=batch,
        transform=BatchedPipeline(policy, 32, *LEVELS),
        seed=7,
        shuffle=shuffle,
        rank=rank,
        world_size=world_size,
        mixer=mixer_of(policy.mix),
        classes=10,
    )


def epoch_of(one, epoch):
    one.set_epoch(epoch)
    return list(one)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_batches_depend_on_seed_epoch_and_index_alone(policy):
    first, again = (epoch_of(loader(policy), 3) for _ in range(2))
    shares = [epoch_of(loader(policy, rank=rank, world_size=3), 3) for rank in range(3)]
    for index, (images, labels) in enumerate(first):
        assert torch.equal(images, again[index][0])
        assert torch.equal(images, torch.cat([share[index][0] for share in shares]))
        assert torch.equal(labels, torch.cat([share[index][1] for share in shares]))


def test_every_image_is_flipped_in_every_other_epoch_and_half_of_them_in_each():
    def flips(epoch):
        part = BatchSlice(seed=epoch, first=0, count=1000, total=1000, epoch=epoch, run_seed=5)
        (drawn,) = draw([AlternatingFlip()], [part], 32)
        return drawn.fires_B

    assert torch.equal(flips(0), ~flips(1))
    assert torch.equal(flips(0), flips(2))
    assert 420 <= flips(0).sum() <= 580  # standard deviation 16


def test_an_image_keeps_its_turn_where_the_batches_are_shuffled():
    policy = POLICIES["translate-alternate"]
    flip_only = type(policy)(name="flip", summary="", steps=(AlternatingFlip(),))
    plain = IMAGES.permute(0, 3, 1, 2).float()
    flipped_in = []
    for epoch in range(2):
        one = loader(flip_only)
        made = torch.cat([images for images, _ in epoch_of(one, epoch)]).round()
        order = one._ordered(epoch)[0]
        same = (made == plain[order]).flatten(1).all(dim=1)
        assert torch.equal(made[~same], plain[order][~same].flip(3))
        flipped_in.append(torch.zeros(COUNT, dtype=torch.bool).index_put_((order,), ~same))
    assert torch.equal(flipped_in[0], ~flipped_in[1])


def test_a_mirrored_border_is_that_of_torch():
    step = PadCrop(padded=40, border="reflect")
    values = {"top": torch.arange(COUNT) % 9, "left": torch.arange(COUNT) // 9 % 9}
    made = apply(IMAGES, [step], [Draw(fires_B=torch.ones(COUNT, dtype=torch.bool), values=values)])
    padded = torch.nn.functional.pad(IMAGES.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="reflect")
    for place in range(COUNT):
        top, left = int(values["top"][place]), int(values["left"][place])
        expected = padded[place, :, top : top + 32, left : left + 32]
        assert torch.equal(made[place].permute(2, 0, 1).float(), expected)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("number", range(OPERATIONS), ids=list(v2.RandAugment._AUGMENTATION_SPACE))
def test_operations_are_those_of_torchvision(number, magnitude):
    reference = v2.RandAugment(magnitude=magnitude)
    name, (strengths, signed) = list(reference._AUGMENTATION_SPACE.items())[number]
    table = strengths(31, 32, 32)
    images = IMAGES[:8]
    for negative in (False, True) if signed else (False,):
        strength = 0.0 if table is None else float(table[magnitude]) * (-1 if negative else 1)
        expected = reference._apply_image_or_video_transform(
            images.permute(0, 3, 1, 2), name, strength, interpolation=reference.interpolation, fill=reference._fill
        )
        everywhere = torch.ones(8, dtype=torch.bool)
        values = {"operation": torch.full((8, 1), number), "negative": torch.full((8, 1), negative)}
        step = RandAugment(operations=1, magnitude=magnitude)
        made = apply(images, [step], [Draw(fires_B=everywhere, values=values)])
        assert (made.int() - expected.permute(0, 2, 3, 1).int()).abs().max() <= 1
        assert operations(magnitude, 32)[number][2] == signed


def test_each_image_of_a_rand_augmented_batch_gets_its_own_operations():
    step = RandAugment()
    (drawn,) = draw([step], [BatchSlice.complete(seed=3, count=COUNT)], 32)
    together = apply(IMAGES, [step], [drawn])
    for place in range(COUNT):
        alone = Draw(
            fires_B=drawn.fires_B[place : place + 1],
            values={name: value[place : place + 1] for name, value in drawn.values.items()},
        )
        assert torch.equal(apply(IMAGES[place : place + 1], [step], [alone])[0], together[place])


def test_random_erasing_fills_the_drawn_rectangle_with_torchvision_s_distribution_of_areas():
    step = RandomErasing(p=1.0)
    white = torch.full((2000, 32, 32, 3), 255, dtype=torch.uint8)
    (drawn,) = draw([step], [BatchSlice.complete(seed=3, count=2000)], 32)
    made = apply(white, [step], [drawn])
    areas = (made == 0).all(dim=3).sum(dim=(1, 2))
    assert torch.equal(areas, drawn.values["height"] * drawn.values["width"])
    torch.manual_seed(3)
    reference = v2.RandomErasing(p=1.0)
    params = [reference.make_params([torch.empty(3, 32, 32)]) for _ in range(2000)]
    for name, short in (("height", "h"), ("width", "w"), ("top", "i"), ("left", "j")):
        ours, theirs = drawn.values[name].double(), torch.tensor([each[short] for each in params]).double()
        error = (ours.var() / 2000 + theirs.var() / 2000).sqrt()
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        assert (ours.min(), ours.max()) >= (0, 0)


def test_mixup_is_that_of_torchvision_for_the_same_share():
    images, labels = torch.rand(16, 3, 32, 32), torch.arange(16) % 10
    mixed, kept = BatchMixer(mix=Mix(kind="mixup", alpha=0.2))(images, images.roll(1, 0), seed=4)
    expected = v2.MixUp(num_classes=10).transform(images, {"labels": labels, "lam": kept, "batch_size": 16})
    assert torch.equal(mixed, expected)
    assert 0 <= kept <= 1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@pytest.mark.parametrize(("across", "down", "kept"), [(0.5, 0.5, 0.5), (0.0, 0.99, 0.1), (0.3, 0.8, 0.95)])
def test_cutmix_is_that_of_torchvision_for_the_same_rectangle(across, down, kept, height, width):
    images, labels = torch.rand(16, 3, height, width), torch.arange(16) % 10
    half_x, half_y = (int(0.5 * (1 - kept) ** 0.5 * side) for side in (width, height))
    x, y = int(across * width), int(down * height)
    box = (max(x - half_x, 0), max(y - half_y, 0), min(x + half_x, width), min(y + half_y, height))
    mixed, share = cut_mixed(images, images.roll(1, 0), kept, across=across, down=down)
    params = {"labels": labels, "box": box, "batch_size": 16}
    assert torch.equal(mixed, v2.CutMix(num_classes=10).transform(images, params))
    assert share == 1 - (box[2] - box[0]) * (box[3] - box[1]) / (height * width)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_labels_of_mixed_images_are_shares_of_the_two_classes(name):
    for _, labels_BK in epoch_of(loader(POLICIES[name], shuffle=False), 0):
        assert labels_BK.shape == (16, 10)
        assert torch.allclose(labels_BK.sum(dim=1), torch.ones(16))
        assert ((labels_BK > 0).sum(dim=1) <= 2).all()


@pytest.mark.parametrize("policy", NEEDING_BATCHES, ids=lambda policy: policy.name)
def test_the_albumentations_pipeline_refuses_policies_that_need_batches(policy):
    with pytest.raises(ConfigError, match=f"--policy {policy.name} works on complete batches") as caught:
        PreviewConfig(policy=policy.name, pipeline="albumentations")
    assert "--pipeline batched" in caught.value.remedy
    with pytest.raises(ConfigError):
        PerImagePipeline(policy, 32, *LEVELS)


@pytest.mark.parametrize("policy", NEEDING_BATCHES, ids=lambda policy: policy.name)
def test_every_policy_has_a_preview(policy):
    shown = preview(
        PreviewConfig(policy=policy.name, images=2, steps=True), IMAGES, torch.arange(COUNT) % 3, ("a", "b", "c")
    )
    assert [step.name for step in shown.steps] == [type(step).__name__ for step in policy.steps]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_nothing_is_read_from_the_device_while_batches_are_made(policy):
    # Meta tensors hold no values: reading one, or a shape that depends on one, is an error.
    one = loader(policy)
    one.images_NHWC, one.labels_N, one.indices = (
        each.to("meta") for each in (one.images_NHWC, one.labels_N, one.indices)
    )
    for images, labels in one:
        assert images.device.type == labels.device.type == "meta"
        assert images.shape == (16, 3, 32, 32)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_draws_of_a_group_of_batches_are_uploaded_together_and_the_order_once_an_epoch(policy):
    one = loader(policy, batch=4)  # 16 batches in groups of 1, 2, 4, 8 and 1
    one.images_NHWC, one.labels_N, one.indices = (
        each.to("meta") for each in (one.images_NHWC, one.labels_N, one.indices)
    )
    with Transfers() as transfers:
        made = list(one)
    groups = 5 if any(not isinstance(step, Mix) for step in policy.steps) else 0
    assert len(made) == 16
    assert transfers.blocking == []
    assert len(transfers.uploads) == groups + 2, "the order, and what the images are normalised by"


def test_on_a_gpu_more_images_are_transformed_at_once():
    per_call = [
        BatchedPipeline(POLICIES["crop-flip"], 32, *LEVELS, device=torch.device(kind)).images_per_call
        for kind in ("cpu", "meta")
    ]
    assert per_call == [1024, 4096]
