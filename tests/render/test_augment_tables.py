"""The table of `cifar augment-preview`: golden files at 80 and 120 columns, and its JSON document."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cifar_cli.core.augment.results import PreviewResult, StepResult
from cifar_cli.render import augment_tables
from tests.golden import WIDTHS, rendered


def step(name: str, probability: float, fired: int, change: float | None, **parameters: object) -> StepResult:
    return StepResult(
        name=name,
        probability=probability,
        parameters=parameters,
        fired=fired,
        sample_images=1000,
        mean_change_levels=change,
    )


COURSE = (
    step("PadCrop", 1.0, 1000, 31.4159, padded=36),
    step("HorizontalFlip", 0.5, 498, 45.25),
    step("ColorJitter", 0.5, 509, 18.0, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
    step("CoarseDropout", 0.3, 291, 4.5678, smallest=4, largest=8, fill=0),
)
OWN = (
    step("RandomBrightnessContrast", 0.25, 261, 20.5, brightness_limit=(-0.1, 0.1), contrast_limit=(-0.3, 0.3)),
    step("OneOf", 0.5, 0, None, of=["GaussianBlur", "MotionBlur", "MedianBlur", "RandomBrightnessContrast"]),
)


def result(steps: tuple[StepResult, ...], *, policy: str, pipeline: str) -> PreviewResult:
    names = [f"{number} {each.name}" for number, each in enumerate(steps, start=1)]
    return PreviewResult(
        grid_RCHWC=torch.zeros(1, len(steps) + 1, 32, 32, 3, dtype=torch.uint8),
        changed_RC=torch.ones(1, len(steps) + 1, dtype=torch.bool),
        row_names=("cat",),
        column_names=("original", *names),
        steps=steps,
        shows_steps=True,
        pipeline=pipeline,
        policy=policy,
        seed=42,
    )


RESULTS = {
    "course": result(COURSE, policy="course", pipeline="batched"),
    "file": result(OWN, policy="own.yaml", pipeline="albumentations"),
    "none": result((), policy="none", pipeline="batched"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_table_of_a_preview(golden, name):
    golden.tables(f"augment/preview-{name}", augment_tables.steps(RESULTS[name]))


@pytest.mark.parametrize("width", WIDTHS)
def test_no_step_name_is_wrapped(width):
    text = rendered(augment_tables.steps(RESULTS["file"]), width=width)
    assert " RandomBrightnessContrast " in text


@pytest.mark.parametrize("name", ["course", "file"])
def test_the_json_document_has_every_number_of_the_table(name):
    shown = RESULTS[name]
    document = shown.to_dict(dataset="cifar10", picture=Path("preview.png"))
    assert (document["dataset"], document["picture"]) == ("cifar10", "preview.png")
    assert (document["policy"], document["pipeline"]) == (shown.policy, shown.pipeline)
    text = rendered(augment_tables.steps(shown), width=200)
    for row in document["steps"]:
        assert row["fired_fraction"] == row["fired"] / row["sample_images"]
        line = next(line for line in text.splitlines() if f" {row['name']} " in line)
        assert f"{row['probability']:g}" in line
        assert f"{row['fired']:,} ({row['fired_fraction']:.0%})" in line
        assert ("-" if row["mean_change_levels"] is None else f"{row['mean_change_levels']:.1f}") in line
        assert all(name in line for name in row["parameters"])
