"""Apply a policy to a few images for a picture, and measure how often and how strongly each step acts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from cifar_cli.core.augment.batched import BatchedPipeline, EvalTransform
from cifar_cli.core.augment.config import PreviewConfig
from cifar_cli.core.augment.policy import Step, policy_of
from cifar_cli.core.augment.results import PreviewResult, StepResult
from cifar_cli.core.transform import Images

__all__ = ["PreviewResult", "across_classes", "preview", "require_policy"]

SAMPLE_IMAGES, MIN_SAMPLE_IMAGES = 1000, 32
SAMPLE_PIXELS = 10_000_000
_UNUSED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and std: a preview shows images before normalisation


def preview(config: PreviewConfig, images_NHWC: Images, labels_N: Tensor, classes: Sequence[str]) -> PreviewResult:
    """Augment `config.images` images for the picture and up to SAMPLE_IMAGES for the table.

    images_NHWC: uint8 [N, S, S, 3], resized to `config.img_size` where that is given; labels_N: int64 [N]; classes:
    names by label. Rows show different classes as far as there are enough. The result is a function of the arguments.
    Raises ConfigError for a policy file that is missing, invalid or fails on the images.
    """
    size = config.img_size or int(images_NHWC.shape[1])
    pipeline, described = _pipeline(config, size)
    resize = EvalTransform(size, *_UNUSED).resize
    rows = across_classes(labels_N, config.images)
    originals = resize(images_NHWC[rows])
    everywhere = torch.ones(len(rows), dtype=torch.bool)
    if config.steps:
        columns = pipeline.trace(originals, seed=config.seed)
        names = [f"{number} {step['name']}" for number, step in enumerate(described, start=1)]
    else:
        seeds = range(config.seed, config.seed + config.variants)
        ends = (pipeline.trace(originals, seed=seed)[-1:] for seed in seeds)
        columns = [(end[0][0] if end else originals, everywhere) for end in ends]
        names = [f"variant {number}" for number in range(1, config.variants + 1)]
    images, changed = zip((originals, everywhere), *columns, strict=True)
    return PreviewResult(
        grid_RCHWC=torch.stack(images, dim=1),
        changed_RC=torch.stack(changed, dim=1),
        row_names=tuple(classes[int(label)] for label in labels_N[rows]),
        column_names=("original", *names),
        steps=_measure(pipeline, described, resize(_sampled(images_NHWC, size, config.seed)), config.seed),
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


def _pipeline(config: PreviewConfig, size: int) -> tuple[Any, list[dict[str, Any]]]:
    """The pipeline, and the declared fields of each step's `StepResult`."""
    policy = policy_of(config.policy)
    described = [_described(step) for step in policy.scaled(size)]
    if config.pipeline_name == "batched":
        return BatchedPipeline(policy, size, *_UNUSED), described
    from cifar_cli.core.augment.per_image import PerImagePipeline, load_policy

    if config.augment_file is None:
        return PerImagePipeline(policy, size, *_UNUSED), described
    own = load_policy(config.augment_file)
    return PerImagePipeline(own, size, *_UNUSED), [_described_transform(transform) for transform in own.transforms]


def _described(step: Step) -> dict[str, Any]:
    parameters = {name: value for name, value in asdict(step).items() if name != "p"}
    return {"name": type(step).__name__, "probability": step.p, "parameters": parameters}


def _described_transform(transform: Any) -> dict[str, Any]:
    """Its parameters are those that differ from albumentations' defaults."""
    saved = transform.to_dict_private()
    if "transforms" in saved:
        parameters = {"of": [inner["__class_fullname__"] for inner in saved["transforms"]]}
    else:
        defaults = {name: each.default for name, each in inspect.signature(type(transform)).parameters.items()}
        parameters = {
            name: value for name, value in saved.items() if name in defaults and name != "p" and value != defaults[name]
        }
    return {"name": type(transform).__name__, "probability": float(transform.p), "parameters": parameters}


def _sampled(images_NHWC: Images, size: int, seed: int) -> Tensor:
    """Up to SAMPLE_IMAGES images, and fewer large ones: as many as have SAMPLE_PIXELS, but some in any case."""
    count = max(MIN_SAMPLE_IMAGES, min(SAMPLE_IMAGES, SAMPLE_PIXELS // size**2))
    return images_NHWC[torch.randperm(len(images_NHWC), generator=torch.Generator().manual_seed(seed))[:count]]


def _measure(pipeline: Any, described: list[dict[str, Any]], before: Tensor, seed: int) -> tuple[StepResult, ...]:
    results = []
    for step, (after, fired) in zip(described, pipeline.trace(before, seed=seed), strict=True):
        change = (after[fired].int() - before[fired].int()).abs().double()
        results.append(
            StepResult(
                **step,
                fired=int(fired.sum()),
                sample_images=len(before),
                mean_change_levels=float(change.mean()) if fired.any() else None,
            )
        )
        before = after
    return tuple(results)
