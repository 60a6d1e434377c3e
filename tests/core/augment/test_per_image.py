"""The albumentations pipeline: output format, reproducible draws, and policies read from files."""

import os
import subprocess
import sys
import warnings

import albumentations as A
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_cli.core.augment.per_image import PerImagePipeline, compose, load_policy
from cifar_cli.core.augment.policy import COURSE, CROP_FLIP, NONE, CoarseDropout, HorizontalFlip, PadCrop, Policy
from cifar_cli.core.augment.policy import POLICIES as ALL_POLICIES
from cifar_cli.core.augment.policy import ColorJitter as Jitter
from cifar_cli.core.transform import BatchSlice
from cifar_cli.errors import ConfigError

POLICIES = {name: policy for name, policy in ALL_POLICIES.items() if not policy.needs_batches}
MEAN, STD = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # output values equal pixel levels
IMAGES = torch.randint(0, 256, (12, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def pipeline(policy=COURSE, size=32):
    return PerImagePipeline(policy, size, MEAN, STD)


def run(pipeline, images=IMAGES, *, seed=3):
    """Apply a pipeline to one complete batch."""
    return pipeline(images, [BatchSlice.complete(seed=seed, count=len(images))])


def saved(transform, path, data_format="yaml"):
    A.save(transform, path, data_format=data_format)
    return path


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("size", [32, 64])
def test_every_policy_returns_float_images_of_the_requested_size(policy, size):
    made = run(pipeline(policy, size))
    assert made.shape == (12, 3, size, size)
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= made.min() <= made.max() <= 255


seeds = st.integers(0, 2**63 - 1)
some = settings(max_examples=20, deadline=None)


@some
@given(
    policy=st.sampled_from(list(POLICIES.values())),
    count=st.integers(0, 5),
    side=st.integers(8, 40),
    size=st.integers(8, 48),
    seed=seeds,
)
def test_output_has_the_batch_size_image_size_dtype_and_range(policy, count, side, size, seed):
    before = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    given_images = before.clone()
    made = run(pipeline(policy, size), given_images, seed=seed)
    assert made.shape == (count, 3, size, size)
    assert made.dtype == torch.float32
    assert torch.equal(given_images, before)  # the store's images stay as they are
    if count:
        assert -1e-3 <= made.min() <= made.max() <= 255.001
        assert (made - made.round()).abs().max() < 1e-3  # integer levels


@some
@given(seed=seeds, first=st.integers(0, 11))
def test_a_slice_equals_the_same_images_of_the_complete_batch(seed, first):
    one = pipeline()
    end_of_batch = BatchSlice(seed=seed, first=first, count=12 - first, total=12)
    assert torch.equal(one(IMAGES[first:], [end_of_batch]), run(one, seed=seed)[first:])


def test_albumentations_accepts_every_argument_of_every_policy():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built = [compose(policy, 32) for policy in POLICIES.values()]
    assert [len(one.transforms) for one in built] == [len(policy.steps) for policy in POLICIES.values()]


def test_a_mirrored_border_is_cropped_as_the_batched_pipeline_does():
    policy = Policy(name="translate", summary="", steps=(PadCrop(border="reflect"),))
    made = run(pipeline(policy))
    padded = torch.nn.functional.pad(IMAGES.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect")
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1).flatten(2, 3)  # [B, C, offsets, 32, 32]
    assert all((windows[place] == made[place][:, None]).flatten(2).all(2).all(0).any() for place in range(12))


def test_the_policy_none_changes_no_pixel():
    assert torch.equal(run(pipeline(NONE)), IMAGES.permute(0, 3, 1, 2).float())


def test_an_image_depends_only_on_seed_and_position():
    complete = run(pipeline())
    again = pipeline()
    run(again, seed=99)  # an earlier call has no effect
    assert torch.equal(run(again), complete)
    middle = BatchSlice(seed=3, first=5, count=4, total=12)
    assert torch.equal(pipeline()(IMAGES[5:9], [middle]), complete[5:9])
    assert not torch.equal(run(pipeline(), seed=4), complete)


def test_different_positions_and_seeds_give_different_augmentations():
    same = IMAGES[:1].expand(64, -1, -1, -1)
    looks = {image.numpy().tobytes() for seed in range(2) for image in run(pipeline(), same, seed=seed)}
    assert len(looks) > 90  # of 128; a third is cropped and flipped only, in 50 ways


def test_steps_of_equal_probability_fire_independently_of_each_other():
    # With one seed for each transform, as A.Compose.set_random_seed gives them, all or none would fire.
    policy = Policy(name="pair", summary="", steps=(HorizontalFlip(p=0.5), CoarseDropout(p=0.5)))
    images = IMAGES[:1].expand(400, -1, -1, -1)
    flips, holes = (fired for _, fired in pipeline(policy).trace(images, seed=0))
    both = (flips & holes).sum().item()
    assert 60 <= both <= 140  # 100 expected, standard deviation 8.7


@pytest.mark.parametrize("policy", [COURSE, CROP_FLIP], ids=lambda policy: policy.name)
def test_a_trace_ends_with_the_images_of_a_call(policy):
    traced = pipeline(policy).trace(IMAGES, seed=3)
    assert len(traced) == len(policy.steps)
    assert torch.equal(traced[-1][0].permute(0, 3, 1, 2).float(), run(pipeline(policy)))
    before = IMAGES
    for after, fired in traced:
        assert torch.equal(after[~fired], before[~fired])
        before = after


def test_a_trace_does_not_carry_over_what_fired_on_the_previous_image():
    policy = Policy(name="rare", summary="", steps=(Jitter(p=0.05),))
    images = IMAGES[:1].expand(300, -1, -1, -1)
    ((after, fired),) = pipeline(policy).trace(images, seed=0)
    assert 3 <= fired.sum() <= 30
    assert torch.equal(after[~fired], images[~fired])


@pytest.mark.parametrize("data_format", ["json", "yaml"])
def test_a_saved_policy_gives_the_same_images_after_loading(tmp_path, data_format):
    path = saved(compose(COURSE, 32), tmp_path / "policy", data_format)
    assert torch.equal(run(pipeline(load_policy(path))), run(pipeline()))


@pytest.mark.parametrize(
    "ending", [[A.Normalize()], [A.Normalize(), A.ToTensorV2()], [A.ToFloat(max_value=255), A.ToTensorV2()]]
)
def test_normalisation_and_conversion_at_the_end_of_a_file_are_not_applied_twice(tmp_path, ending):
    path = saved(A.Compose([A.HorizontalFlip(p=1.0), *ending]), tmp_path / "policy.yaml")
    made = run(pipeline(load_policy(path)))
    assert torch.equal(made, IMAGES.flip(2).permute(0, 3, 1, 2).float())


@pytest.mark.parametrize(
    "transform",
    [
        A.HorizontalFlip(p=1.0),
        A.OneOf([A.HorizontalFlip(p=1.0)], p=1.0),
        A.Compose([A.Compose([A.HorizontalFlip(p=1.0)])]),
    ],
    ids=["one transform", "a choice", "nested"],
)
def test_a_file_may_hold_one_transform_or_nested_ones(tmp_path, transform):
    made = run(pipeline(load_policy(saved(transform, tmp_path / "policy.yaml"))))
    assert torch.equal(made, IMAGES.flip(2).permute(0, 3, 1, 2).float())


def test_a_probability_of_the_complete_policy_is_kept(tmp_path):
    policy = load_policy(saved(A.Compose([A.HorizontalFlip(p=1.0)], p=0.25), tmp_path / "policy.yaml"))
    ((_, fired),) = pipeline(policy).trace(IMAGES[:1].expand(400, -1, -1, -1), seed=0)
    assert 65 <= fired.sum() <= 135  # 100 expected, standard deviation 8.7


BAD_FILES = {
    "[broken": "neither JSON nor YAML",
    "epochs: 3\n": "is not an augmentation policy",
    "": "is not an augmentation policy",
    '{"transform": {"p": 1.0}}': "lacks __class_fullname__",
    '{"transform": {"__class_fullname__": "os.system", "p": 1.0}}': "unknown transform os.system",
    '{"transform": {"__class_fullname__": "Lambda", "__name__": "x", "p": 1.0}}': "contains a Lambda",
    '{"transform": {"__class_fullname__": "HorizontalFlip", "prob": 1.0}}': "unknown argument to HorizontalFlip: prob",
    '{"transform": {"__class_fullname__": "HorizontalFlip", "p": 7}}': "can't be built into a policy",
    '{"transform": {"__class_fullname__": "HorizontalFlip"}}': "has no 'p' parameter",
    '{"transform": {"__class_fullname__": "Compose", "p": 1.0, "transforms": 5}}': "transforms of Compose are not",
    "!!python/object/apply:os.system ['touch executed']": "neither JSON nor YAML",
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.items(), ids=range(len(BAD_FILES)))
def test_a_file_that_is_not_a_policy_is_an_error_and_executes_nothing(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert message in caught.value.what
    assert str(path) in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.remedy
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_a_folder_and_a_binary_file_are_errors_with_a_reason(tmp_path):
    binary = tmp_path / "policy.png"
    binary.write_bytes(b"\x89PNG\xff\xfe")
    for path, reason in [(tmp_path / "no.yaml", "No such file"), (tmp_path, "directory"), (binary, "not text")]:
        with pytest.raises(ConfigError, match=reason):
            load_policy(path)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.Resize(height=16, width=16, p=1.0), "turns a 32×32×3 uint8 image into a 16×16×3 uint8 image"),
        (A.RandomCrop(height=64, width=64, p=1.0), "fails on an RGB image of 32 pixels"),
        (A.Compose([A.Normalize(), A.HorizontalFlip(p=0.5)]), "float32 image"),
        (A.MaskDropout(p=1.0), "fails on an RGB image of 32 pixels"),
    ],
    ids=["size", "too small", "float", "mask"],
)
def test_a_policy_that_fails_on_the_images_is_rejected_when_the_pipeline_is_made(tmp_path, transform, message):
    policy = load_policy(saved(transform, tmp_path / "policy.yaml"))
    with pytest.raises(ConfigError, match=message) as caught:
        pipeline(policy)
    assert caught.value.remedy


@pytest.mark.parametrize("ending", [[], [A.ToRGB(p=1)]], ids=["three channels", "ToRGB"])
def test_the_remedies_for_a_grey_image_work(tmp_path, ending):
    channels = 1 if ending else 3
    policy = A.Compose([A.ToGray(num_output_channels=1, p=1)])
    with pytest.raises(ConfigError, match="into a 32×32") as caught:
        pipeline(load_policy(saved(policy, tmp_path / "policy.yaml")))
    assert caught.value.remedy == "set num_output_channels to 3 in its ToGray, or end it with ToRGB(p=1)"
    remedied = A.Compose([A.ToGray(num_output_channels=channels, p=1), *ending])
    made = run(pipeline(load_policy(saved(remedied, tmp_path / "policy.yaml"))))
    assert torch.equal(made[:, 0], made[:, 1])
    assert made[:, 0].std() > 1


def test_the_remedies_for_another_size_work(tmp_path):
    crop = A.RandomResizedCrop(size=(48, 48), p=1)
    policy = load_policy(saved(A.Compose([crop]), tmp_path / "policy.yaml"))
    with pytest.raises(ConfigError, match="into a 48×48×3 uint8 image") as caught:
        pipeline(policy)
    assert caught.value.remedy == "end it with Resize(height=32, width=32, p=1), or pass --img-size 48"
    assert PerImagePipeline(policy, 48, (0.0,) * 3, (1.0,) * 3) is not None
    resized = A.Compose([crop, A.Resize(height=32, width=32, p=1)])
    assert run(pipeline(load_policy(saved(resized, tmp_path / "policy.yaml")))).shape[2:] == (32, 32)


RUN_MEAN, RUN_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@pytest.mark.parametrize(
    "ending",
    [
        [A.Normalize(RUN_MEAN, RUN_STD)],
        [A.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))],
        [A.ToFloat(max_value=255)],
        [A.ToFloat(max_value=255), A.Normalize(RUN_MEAN, RUN_STD, max_pixel_value=1), A.ToTensorV2()],
        [A.ToTensorV2()],
    ],
    ids=["the same", "three digits", "ToFloat", "in two steps", "ToTensorV2"],
)
def test_an_ending_that_does_what_the_run_does_is_accepted(tmp_path, ending):
    path = saved(A.Compose([A.HorizontalFlip(p=1), *ending]), tmp_path / "policy.yaml")
    assert len(load_policy(path, mean=RUN_MEAN, std=RUN_STD).transforms) == 1


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ([A.Normalize()], "not this run's: mean 0.4914, 0.4822, 0.4465, deviation 0.247, 0.2435, 0.2616"),
        ([A.Normalize(RUN_MEAN, (0.2023, 0.1994, 0.2010)), A.ToTensorV2()], "ends with a Normalize"),
        ([A.Normalize(RUN_MEAN, RUN_STD, p=0.5)], "ends with a Normalize"),
        ([A.Normalize(RUN_MEAN, RUN_STD, normalization="image")], "ends with a Normalize"),
        ([A.Normalize(0.5, 0.5)], "ends with a Normalize"),
        ([A.Normalize(RUN_MEAN, RUN_STD, max_pixel_value=1)], "ends with a Normalize"),
        ([A.ToFloat(max_value=1000)], "ends with a ToFloat that divides by 1000"),
    ],
    ids=["ImageNet", "other deviations", "sometimes", "per image", "one number", "not divided", "ToFloat"],
)
def test_an_ending_that_does_something_else_than_the_run_is_refused(tmp_path, ending, message):
    path = saved(A.Compose([A.HorizontalFlip(p=1), *ending]), tmp_path / "policy.yaml")
    with pytest.raises(ConfigError, match=message) as caught:
        load_policy(path, mean=RUN_MEAN, std=RUN_STD)
    assert "every policy is followed by the run's normalisation" in caught.value.remedy


@pytest.mark.slow
def test_albumentations_does_not_check_its_version_online():
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    code = (
        "import urllib.request as u\n"
        "def refuse(*a, **k): raise SystemExit('asked the network')\n"
        "u.OpenerDirector.open = refuse\n"
        "import cifar_cli.core.augment.per_image"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
