"""Apply a policy to a few images for a picture, and measure how often and how strongly each step acts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cifar_cli.core.augment.batched import BatchedPipeline
from cifar_cli.core.augment.config import PreviewConfig
from cifar_cli.core.augment.policy import Policy, policy_of
from cifar_cli.core.augment.results import PreviewResult, StepResult

__all__ = ["PreviewResult", "across_classes", "preview", "require_policy"]

SAMPLE_IMAGES = 1000
_UNUSED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and std: a preview shows images before normalisation


def preview(config: PreviewConfig, images_NHWC: Tensor, labels_N: Tensor, classes: Sequence[str]) -> PreviewResult:
    """Augment `config.images` images for the picture and up to SAMPLE_IMAGES for the table.

    images_NHWC: uint8 [N, S, S, 3]; labels_N: int64 [N]; classes: names by label. Rows show different classes as
    far as there are enough. The result is a function of the arguments.
    Raises ConfigError for a policy file that is missing, invalid or fails on the images.
    """
    size = int(images_NHWC.shape[1])
    pipeline, described = _pipeline(config, size)
    rows = across_classes(labels_N, config.images)
    originals = images_NHWC[rows]
    if config.steps:
        traced = pipeline.trace(originals, seed=config.seed)
        columns = [after for after, _ in traced]
        changed = [fired for _, fired in traced]
        names = [f"{number} {step.name}" for number, step in enumerate(described, start=1)]
    else:
        columns = [_augmented(pipeline, originals, config.seed + variant) for variant in range(config.variants)]
        changed = [torch.ones(len(rows), dtype=torch.bool)] * config.variants
        names = [f"variant {number}" for number in range(1, config.variants + 1)]
    return PreviewResult(
        grid_RCHWC=torch.stack([originals, *columns], dim=1),
        changed_RC=torch.stack([torch.ones(len(rows), dtype=torch.bool), *changed], dim=1),
        row_names=tuple(classes[int(label)] for label in labels_N[rows]),
        column_names=("original", *names),
        steps=_measure(pipeline, described, images_NHWC, config.seed),
        shows_steps=config.steps,
        pipeline=config.pipeline_name,
        policy=config.policy_name,
        seed=config.seed,
    )


def require_policy(config: PreviewConfig) -> None:
    """Raise ConfigError if the config's policy file is missing or invalid. Fast, and needs no images."""
    if config.augment_file is not None:
        from cifar_cli.core.augment.per_image import load_policy

        load_policy(config.augment_file)


def across_classes(labels_N: Tensor, count: int) -> Tensor:
    """Up to `count` rows: the first image of each class, then the second of each, and so on."""
    order = labels_N.argsort(stable=True)
    sizes = labels_N.bincount()
    rank = torch.cat([torch.arange(int(size)) for size in sizes])  # of each image within its class
    return order[rank.argsort(stable=True)][:count]


class _StepDescription(NamedTuple):
    name: str
    probability: float
    parameters: dict[str, Any]


def _pipeline(config: PreviewConfig, size: int) -> tuple[Any, list[_StepDescription]]:
    policy = policy_of(config.policy)
    if config.pipeline_name == "batched":
        return BatchedPipeline(policy, size, *_UNUSED), _described(policy, size)
    from cifar_cli.core.augment.per_image import PerImagePipeline, load_policy

    if config.augment_file is None:
        return PerImagePipeline(policy, size, *_UNUSED), _described(policy, size)
    own = load_policy(config.augment_file)
    return PerImagePipeline(own, size, *_UNUSED), [_described_transform(transform) for transform in own.transforms]


def _described(policy: Policy, size: int) -> list[_StepDescription]:
    described = []
    for step in policy.scaled(size):
        parameters = asdict(step)
        described.append(_StepDescription(type(step).__name__, parameters.pop("p"), parameters))
    return described


def _described_transform(transform: Any) -> _StepDescription:
    """Its parameters are those that differ from albumentations' defaults."""
    saved = transform.to_dict_private()
    if "transforms" in saved:
        parameters = {"of": [inner["__class_fullname__"] for inner in saved["transforms"]]}
    else:
        defaults = {name: each.default for name, each in inspect.signature(type(transform)).parameters.items()}
        parameters = {
            name: value for name, value in saved.items() if name in defaults and name != "p" and value != defaults[name]
        }
    return _StepDescription(type(transform).__name__, float(transform.p), parameters)


def _augmented(pipeline: Any, images_BHWC: Tensor, seed: int) -> Tensor:
    traced = pipeline.trace(images_BHWC, seed=seed)
    return traced[-1][0] if traced else images_BHWC


def _measure(
    pipeline: Any, described: list[_StepDescription], images_NHWC: Tensor, seed: int
) -> tuple[StepResult, ...]:
    chosen = torch.randperm(len(images_NHWC), generator=torch.Generator().manual_seed(seed))[:SAMPLE_IMAGES]
    before = images_NHWC[chosen]
    results = []
    for step, (after, fired) in zip(described, pipeline.trace(before, seed=seed), strict=True):
        change = (after[fired].int() - before[fired].int()).abs().double()
        results.append(
            StepResult(
                **step._asdict(),
                fired=int(fired.sum()),
                sample_images=len(before),
                mean_change_levels=float(change.mean()) if fired.any() else None,
            )
        )
        before = after
    return tuple(results)
