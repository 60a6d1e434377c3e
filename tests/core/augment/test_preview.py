"""The picture of a preview, and its measurements of each step."""

import pytest
import torch

from cifar_cli.core.augment.config import PreviewConfig
from cifar_cli.core.augment.offline import A
from cifar_cli.core.augment.preview import across_classes, preview
from cifar_cli.errors import ConfigError

GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randint(0, 256, (1200, 32, 32, 3), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.randint(0, 3, (1200,), generator=GENERATOR)
CLASSES = ("ant", "bee", "cow")
PIPELINES = pytest.mark.parametrize("pipeline", ["batched", "albumentations"])


def look(**options):
    return preview(PreviewConfig(**options), IMAGES, LABELS, CLASSES)


def test_rows_cycle_through_the_classes():
    rows = across_classes(torch.tensor([2, 2, 0, 2, 0, 1]), 5)
    assert rows.tolist() == [2, 5, 0, 4, 1]
    assert len(across_classes(torch.tensor([0, 1]), 8)) == 2


@PIPELINES
def test_the_first_column_shows_the_originals_and_every_column_has_a_name(pipeline):
    result = look(images=4, variants=3, pipeline=pipeline)
    assert result.grid_RCHWC.shape == (4, 4, 32, 32, 3)
    assert result.grid_RCHWC.dtype == torch.uint8
    assert result.row_names == ("ant", "bee", "cow", "ant")
    assert result.column_names == ("original", "variant 1", "variant 2", "variant 3")
    assert torch.equal(result.grid_RCHWC[:, 0], IMAGES[across_classes(LABELS, 4)])
    assert not torch.equal(result.grid_RCHWC[:, 1], result.grid_RCHWC[:, 2])


@PIPELINES
def test_each_step_has_a_column_that_differs_from_the_last_where_the_step_fired(pipeline):
    result = look(images=16, steps=True, pipeline=pipeline)
    assert result.column_names == ("original", "1 PadCrop", "2 HorizontalFlip", "3 ColorJitter", "4 CoarseDropout")
    for column in range(2, 5):
        same = (result.grid_RCHWC[:, column] == result.grid_RCHWC[:, column - 1]).flatten(1).all(dim=1)
        assert torch.equal(same, ~result.changed_RC[:, column])


@PIPELINES
def test_every_step_fires_about_as_often_as_its_probability(pipeline):
    result = look(pipeline=pipeline)
    assert [step.probability for step in result.steps] == [1.0, 0.5, 0.5, 0.3]
    for step in result.steps:
        assert step.sample_images == 1000
        assert abs(step.fired - 1000 * step.probability) <= 65  # four standard deviations
        assert 0 < step.mean_change_levels < 128
    assert result.steps[0].fired == 1000


def test_the_mean_change_covers_only_images_where_the_step_fired():
    white = torch.full((50, 32, 32, 3), 200, dtype=torch.uint8)
    result = preview(PreviewConfig(images=1, variants=1), white, torch.zeros(50, dtype=torch.int64), ("white",))
    flip, hole = result.steps[1], result.steps[3]
    assert flip.sample_images == 50
    assert flip.mean_change_levels < 40  # only the padded border changes
    assert 200 * 16 / 1024 * 0.7 <= hole.mean_change_levels <= 200 * 64 / 1024 * 1.3  # 16 to 64 of 1,024 pixels


@PIPELINES
def test_equal_seeds_give_the_same_picture_and_another_seed_does_not(pipeline):
    options = {"images": 3, "variants": 2, "pipeline": pipeline}
    first, second, other = (look(seed=seed, **options) for seed in (1, 1, 5))
    assert torch.equal(first.grid_RCHWC, second.grid_RCHWC)
    assert first.steps == second.steps
    assert not torch.equal(first.grid_RCHWC, other.grid_RCHWC)


def test_a_policy_without_steps_shows_the_originals():
    result = look(images=2, variants=1, policy="none")
    assert result.steps == ()
    assert torch.equal(result.grid_RCHWC[:, 0], result.grid_RCHWC[:, 1])


def test_a_policy_file_may_change_size_and_dtype_between_steps(tmp_path):
    path = tmp_path / "own.json"
    steps = [
        A.Resize(height=40, width=40, p=1.0),
        A.CenterCrop(height=32, width=32, p=1.0),
        A.OneOf([A.GaussianBlur(p=1.0), A.HorizontalFlip(p=1.0)], p=0.5),
        A.ToGray(p=0.0),
        A.Normalize(),
    ]
    A.save(A.Compose(steps), path)
    result = look(images=3, steps=True, augment_file=path)
    assert result.pipeline == "albumentations"
    assert result.policy == "own.json"
    assert [step.name for step in result.steps] == ["Resize", "CenterCrop", "OneOf", "ToGray"]
    assert result.steps[0].parameters == {"height": 40, "width": 40}
    assert result.steps[2].parameters == {"of": ["GaussianBlur", "HorizontalFlip"]}
    assert 435 <= result.steps[2].fired <= 565
    assert (result.steps[3].fired, result.steps[3].mean_change_levels) == (0, None)
    assert result.grid_RCHWC.shape == (3, 5, 32, 32, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "--images 0 is not between 1 and 64"),
        ({"variants": -1}, "--variants -1 is not between 1 and 64"),
        ({"pipeline": "batch"}, "--pipeline batch is not offered"),
        ({"policy": "corse"}, "there is no augmentation policy named 'corse'"),
        ({"seed": -1}, "--seed must be at least 0, not -1"),
        ({"pipeline": "batched", "augment_file": "own.yaml"}, "which the batched pipeline can't apply"),
    ],
)
def test_an_invalid_value_is_an_error_with_a_remedy(options, message):
    with pytest.raises(ConfigError) as caught:
        PreviewConfig(**options)
    assert message in caught.value.what
    assert caught.value.remedy
