"""Decides how images become a model's input: which mean is subtracted, and which deviation they are divided by."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from cifar_cli.core.data.config import LOWEST_STD, Normalisation
from cifar_cli.core.data.store import Store
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.torch_file import BadFileError, load_torch_file
from cifar_cli.core.models.weights import metadata_of, timm_statistics
from cifar_cli.errors import ConfigError

DIGITS = 4  # CIFAR-10's own statistics are then the published constants


def normalisation_of(model: ModelConfig, store: Store) -> Normalisation:
    """What the model's initial weights were trained with; for random weights, that of the dataset.

    A file that doesn't say it has timm's, if the model is one of timm's.
    """
    source = model.source_of_weights
    if source not in ("none", "imagenet", "bundled") and (found := _of_file(Path(source))):
        return found
    statistics = None if source == "none" else timm_statistics(model)
    return normalisation_of_images(store) if statistics is None else Normalisation(*statistics)


def normalisation_of_images(store: Store) -> Normalisation:
    """Mean and deviation of a dataset's training images; CIFAR-10's for a store of an earlier version."""
    if store.mean is None or store.std is None:
        return Normalisation()
    mean = tuple(round(value, DIGITS) for value in store.mean)
    std = tuple(max(round(value, DIGITS), LOWEST_STD) for value in store.std)
    return Normalisation(mean, std)  # type: ignore[arg-type]  # three each, as the store was checked


def _of_file(path: Path) -> Normalisation | None:
    """What this package has noted beside weights; None for another program's file."""
    with suppress(AttributeError, ConfigError, BadFileError, LookupError, TypeError, ValueError):
        if path.suffix == ".safetensors":
            metadata = metadata_of(path)
            return Normalisation(json.loads(metadata["mean"]), json.loads(metadata["std"]))
        content = load_torch_file(path)
        return Normalisation(**content["cifar"]["config"].get("normalisation") or {})
    return None
