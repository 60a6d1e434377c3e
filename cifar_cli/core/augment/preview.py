"""What an augmentation does to images: a grid to look at, and how often and how strongly each step acts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cifar_cli.core.augment.batched import BatchedPipeline
from cifar_cli.core.augment.config import PreviewConfig, StepResult
from cifar_cli.core.augment.policy import Policy, policy_of

SAMPLE_IMAGES = 1000
_UNUSED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and std: a preview looks at images before normalisation


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class PreviewResult:
    """A grid of images and the steps that made it.

    grid_RCHWC: uint8 [rows, columns, S, S, 3], the originals in column 0. changed_RC: bool, False where a step's
    column shows what the column before it shows because the step did not fire.
    """

    grid_RCHWC: Tensor
    changed_RC: Tensor
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    steps: tuple[StepResult, ...]
    shows_steps: bool
    pipeline: str
    policy: str
    seed: int


def preview(config: PreviewConfig, images_NHWC: Tensor, labels_N: Tensor, classes: Sequence[str]) -> PreviewResult:
    """Augment a few images to look at and up to SAMPLE_IMAGES to count; a function of the arguments alone.

    images_NHWC: uint8 [N, S, S, 3]; labels_N: int64 [N]; classes: names by label. Rows are of different classes as
    far as there are enough. Raises ConfigError for a policy file that is missing, broken or does not fit the images.
    """
    size = int(images_NHWC.shape[1])
    pipeline, described = _pipeline(config, size)
    rows = across_classes(labels_N, config.images)
    originals = images_NHWC[rows]
    if config.steps:
        traced = pipeline.trace(originals, seed=config.seed)
        columns = [after for after, _ in traced]
        changed = [fired for _, fired in traced]
        names = [f"{number} {name}" for number, (name, _, _) in enumerate(described, start=1)]
    else:
        columns = [_augmented(pipeline, originals, config.seed + variant) for variant in range(config.variants)]
        changed = [torch.ones(len(rows), dtype=torch.bool)] * config.variants
        names = [f"variant {number}" for number in range(1, config.variants + 1)]
    return PreviewResult(
        grid_RCHWC=torch.stack([originals, *columns], dim=1),
        changed_RC=torch.stack([torch.ones(len(rows), dtype=torch.bool), *changed], dim=1),
        row_names=tuple(classes[int(label)] for label in labels_N[rows]),
        column_names=("original", *names),
        steps=_count(pipeline, described, images_NHWC, config.seed),
        shows_steps=config.steps,
        pipeline=config.carried_out_by,
        policy=config.policy_name,
        seed=config.seed,
    )


def require_policy(config: PreviewConfig) -> None:
    """Raises ConfigError when the config's policy file is missing or broken: cheap, and needs no images."""
    if config.augment_file is not None:
        from cifar_cli.core.augment.per_image import load_policy

        load_policy(config.augment_file)


def across_classes(labels_N: Tensor, count: int) -> Tensor:
    """Up to `count` rows: the first image of each class, then the second of each, and so on."""
    order = labels_N.argsort(stable=True)
    sizes = labels_N.bincount()
    place = torch.cat([torch.arange(int(size)) for size in sizes])  # of each image within its class
    return order[place.argsort(stable=True)][:count]


Described = tuple[str, float, dict[str, Any]]  # name, probability, parameters


def _pipeline(config: PreviewConfig, size: int) -> tuple[Any, list[Described]]:
    policy = policy_of(config.policy)
    if config.carried_out_by == "batched":
        return BatchedPipeline(policy, size, *_UNUSED), _declared(policy, size)
    from cifar_cli.core.augment.per_image import PerImagePipeline, load_policy

    if config.augment_file is None:
        return PerImagePipeline(policy, size, *_UNUSED), _declared(policy, size)
    own = load_policy(config.augment_file)
    return PerImagePipeline(own, size, *_UNUSED), [_of_transform(transform) for transform in own.transforms]


def _declared(policy: Policy, size: int) -> list[Described]:
    described = []
    for step in policy.scaled(size):
        parameters = asdict(step)
        described.append((type(step).__name__, parameters.pop("p"), parameters))
    return described


def _of_transform(transform: Any) -> Described:
    """Name, probability, and the parameters that are not albumentations' defaults."""
    saved = transform.to_dict_private()
    if "transforms" in saved:
        parameters = {"of": [inner["__class_fullname__"] for inner in saved["transforms"]]}
    else:
        defaults = {name: each.default for name, each in inspect.signature(type(transform)).parameters.items()}
        parameters = {
            name: value for name, value in saved.items() if name in defaults and name != "p" and value != defaults[name]
        }
    return type(transform).__name__, float(transform.p), parameters


def _augmented(pipeline: Any, images_BHWC: Tensor, seed: int) -> Tensor:
    traced = pipeline.trace(images_BHWC, seed=seed)
    return traced[-1][0] if traced else images_BHWC


def _count(pipeline: Any, described: list[Described], images_NHWC: Tensor, seed: int) -> tuple[StepResult, ...]:
    chosen = torch.randperm(len(images_NHWC), generator=torch.Generator().manual_seed(seed))[:SAMPLE_IMAGES]
    before = images_NHWC[chosen]
    results = []
    for (name, probability, parameters), (after, fired) in zip(
        described, pipeline.trace(before, seed=seed), strict=True
    ):
        change = (after[fired].int() - before[fired].int()).abs().double()
        results.append(
            StepResult(
                name=name,
                probability=probability,
                parameters=parameters,
                fired=int(fired.sum()),
                sample_images=len(before),
                mean_change_levels=float(change.mean()) if fired.any() else None,
            )
        )
        before = after
    return tuple(results)
