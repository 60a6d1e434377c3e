"""Everything that a run needs before its first step."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_cli.core.data.dataset import open_dataset
from cifar_cli.core.data.store import Store
from cifar_cli.core.models.build import build_model, build_untrained, initialise_from_images
from cifar_cli.core.models.registry import spec_of
from cifar_cli.core.own_code import in_full
from cifar_cli.core.training.batches import Loaders, images_for_initialisation, make_loaders
from cifar_cli.core.training.capture import choose_capture
from cifar_cli.core.training.checkpoint import REMEDY, config_in, newest_checkpoint, require_whole
from cifar_cli.core.training.checkpoint_schema import SavedRun, validated
from cifar_cli.core.training.config import ResumeConfig, TrainConfig
from cifar_cli.core.training.failures import memory_named
from cifar_cli.core.training.finished import changed, finished, finished_sentence
from cifar_cli.core.training.growth import growth_of, require_growth
from cifar_cli.core.training.listeners import SILENT, Listeners
from cifar_cli.core.training.machine import fast_kernels, prepared_device
from cifar_cli.core.training.newer import named_if_newer
from cifar_cli.core.training.normalisation import normalisation_of
from cifar_cli.core.training.numerics import choose_numerics, require_precision
from cifar_cli.core.training.ranks import ALONE, Ranks
from cifar_cli.core.training.recipe import Recipe
from cifar_cli.core.training.results import Numerics, TrainResult
from cifar_cli.core.training.run_dir import RunDir, open_run_dir
from cifar_cli.core.training.trained_on import absolute, open_trained, where
from cifar_cli.errors import CheckpointError, ConfigError, DataError


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Prepared:
    """A model, data and a device, ready to train."""

    config: TrainConfig
    """All settings resolved except the run directory."""
    model: nn.Module
    """With its initial weights, on the CPU. Training changes it."""
    store: Store
    loaders: Loaders
    device: torch.device
    numerics: Numerics
    """How precision and memory format were chosen."""
    began: float
    """When the user's command began, in seconds of time.monotonic()."""
    ranks: Ranks = ALONE
    """The processes that train together."""
    checkpoint: dict[str, Any] | None = None
    """The content of last.ckpt for a run that is continued."""

    def with_recipe(self, recipe: Recipe) -> Prepared:
        """The same with another batch size or budget. The model and the store are not made again."""
        config = replace(self.config, recipe=recipe)
        loaders = make_loaders(config, self.store, device=self.device, ranks=self.ranks)
        require_batch_for(self.model, recipe.batch, images=len(loaders.train_indices))
        return replace(self, config=config, loaders=loaders)

    def with_seed(self, seed: int, *, began: float) -> Prepared:
        """The same with other initial weights, order and augmentation, on the same store."""
        config = replace(self.config, seed=seed)
        model = build_model(config.model, seed=seed)
        loaders = make_loaders(config, self.store, device=self.device, ranks=self.ranks)
        _initialise(model, config, self.store, loaders)
        return replace(self, config=config, model=model, loaders=loaders, began=began)


@memory_named()
def prepare(config: TrainConfig, listeners: Listeners = SILENT, *, ranks: Ranks = ALONE) -> Prepared:
    """Build the model, open the dataset, choose precision and memory format.

    Of several processes, rank 0 prepares; the others get what it has chosen with its order to train.
    Raises CifarError children for what the user can correct.
    """
    began = time.monotonic() if listeners.began is None else listeners.began
    device = prepared_device(config.device, deterministic=config.deterministic)
    require_precision(config.precision, device)
    require_pretrained(config)
    if config.augment_file is not None:
        from cifar_cli.core.augment.per_image import load_policy  # albumentations takes seconds to import

        load_policy(config.augment_file)  # a bad file is refused before anything is downloaded
    # The weights come first: if they can't be had, nothing has been downloaded or written.
    model = build_model(config.model, seed=config.seed)
    store = open_dataset(config.data, on_progress=listeners.on_progress)
    fitted = fitted_to(config, store)
    if fitted.model != config.model:
        model = build_model(fitted.model, seed=config.seed)
    config = fitted
    loaders = make_loaders(config, store, device=device, ranks=ranks)
    _initialise(model, config, store, loaders)
    require_batch_for(model, config.recipe.batch, images=len(loaders.train_indices))
    require_growth(model, growth_of(config))
    with fast_kernels(device):
        numerics = choose_numerics(config, model, classes=len(store.classes), device=device)
        config = replace(config, precision=numerics.precision, memory_format=numerics.memory_format)
        captured = choose_capture(config, model, classes=len(store.classes), device=device, processes=ranks.world_size)
    listeners.on_numerics(numerics)
    config = replace(config, cuda_graph="on" if captured else "off")
    return Prepared(
        config=config,
        model=model,
        store=store,
        loaders=loaders,
        device=device,
        numerics=numerics,
        began=began,
        ranks=ranks,
    )


def _require_same_precision(config: TrainConfig, device: torch.device) -> None:
    """Raise CheckpointError for a run in float16 that would go on without CUDA, and so without gradient scaling."""
    try:
        require_precision(config.precision, device)
    except ConfigError as error:
        raise CheckpointError(
            f"the run has --precision {config.precision}, which needs a CUDA GPU, and this is {device.type}",
            remedy="continue it on a machine with a CUDA GPU, or start a new run",
        ) from error


@memory_named()
def prepare_resumed(
    asked: ResumeConfig, listeners: Listeners = SILENT, *, ranks: Ranks = ALONE
) -> tuple[Prepared | TrainResult, RunDir]:
    """Read a run's last checkpoint and open its dataset, or return the result of a run that has nothing left to do.

    Raises CheckpointError when the directory holds nothing that can be continued, ConfigError for fewer epochs than
    are done.
    """
    began = time.monotonic() if listeners.began is None else listeners.began
    run = open_run_dir(asked.run_dir)
    content, remark = newest_checkpoint(run)
    if remark is not None:
        listeners.on_note(remark)
    config, classes = _continued(run, content)
    config = changed(config, asked, content["loop"])
    result = finished(run, config, content)
    if result is not None:
        listeners.on_note(finished_sentence(result, config))
        return result, run
    device = prepared_device(config.device, deterministic=config.deterministic)
    _require_same_precision(config, device)
    store = open_trained(
        config.data,
        at=run.path,
        content=content["cifar"].get("content"),
        remedy="or start a new run",
        data_dir=asked.data_dir,
        on_progress=listeners.on_progress,
    )
    config = replace(config, data=where(config.data, store))
    if store.classes != classes:
        raise CheckpointError(
            f"{run.path} was trained on other classes than {store.path} holds",
            remedy="put the dataset it was trained on back, or start a new run",
        )
    assert config.precision != "auto"
    assert config.memory_format != "auto"
    prepared = Prepared(
        config=config,
        model=build_model(config.model, seed=config.seed),
        store=store,
        loaders=make_loaders(config, store, device=device, ranks=ranks),
        device=device,
        numerics=Numerics(precision=config.precision, memory_format=config.memory_format),
        began=began,
        ranks=ranks,
        checkpoint=content,
    )
    return prepared, run


@memory_named()
def prepare_ordered(config: TrainConfig, ranks: Ranks, *, content: str) -> Prepared:
    """Get ready to train a config that rank 0 has prepared. The weights come from rank 0 later.

    content: the hash of rank 0's dataset. Raises DataError where this machine's has another one.
    """
    device = prepared_device(config.device, deterministic=config.deterministic)
    store = open_dataset(config.data)
    if store.content != content:
        raise DataError(
            f"{store.path} holds other images on {platform.node() or 'another machine'} than on the machine of rank 0",
            remedy="copy the file of that machine to all others",
        )
    assert config.precision != "auto"
    assert config.memory_format != "auto"
    return Prepared(
        config=config,
        model=build_untrained(config.model),
        store=store,
        loaders=make_loaders(config, store, device=device, ranks=ranks),
        device=device,
        numerics=Numerics(precision=config.precision, memory_format=config.memory_format),
        began=time.monotonic(),
        ranks=ranks,
    )


def _initialise(model: nn.Module, config: TrainConfig, store: Store, loaders: Loaders) -> None:
    """Compute the initial weights that depend on training images. Rank 0's are then given to the others."""
    initialise_from_images(model, config.model, lambda: images_for_initialisation(store, loaders, config))


def require_batch_for(model: nn.Module, batch: int, *, images: int) -> None:
    """Raise ConfigError for batches of one image and a model with batch normalisation.

    One image has no variance over the batch: torch refuses it where a layer's output is one pixel, and elsewhere
    trains on what no test image looks like. A last batch of one image joins the one before (`BatchLoader`).
    """
    if min(batch, images) > 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    if images == 1:
        raise DataError(
            "there is one training image, and the model's batch normalisation needs two in a batch",
            remedy="import more images, or train a model without batch normalisation, such as null",
        )
    raise ConfigError(
        "--batch 1 can't train this model: its batch normalisation needs two images in a batch",
        remedy="pass --batch 2 or more, or train a model without batch normalisation, such as null",
    )


def require_pretrained(config: TrainConfig) -> None:
    """Raise ConfigError for random weights that would be left as they are, in the whole run or at its beginning."""
    recipe, model = config.recipe, config.model
    if model.source_of_weights != "none" or (recipe.freeze == "none" and not recipe.head_first):
        return
    flag, off = ("--freeze backbone", "--freeze none") if recipe.freeze != "none" else (recipe.says_head_first, "")
    if recipe.head_first:
        off = f"{off} and --head-first 0".removeprefix(" and ")
    chosen = model.weights == "none" and spec_of(model.name).weights[0] != "none"
    starts = f"--weights none starts {model.label} from" if chosen else f"{model.label} starts from"
    raise ConfigError(
        f"{flag} keeps pretrained weights, and {starts} random ones",
        remedy=f"{'leave out --weights none' if chosen else 'pass --model cnn'}, or pass {off}",
    )


def run_config(run_dir: Path) -> TrainConfig:
    """The config of a run that can be continued. Raises CheckpointError where there is none."""
    run = open_run_dir(run_dir)
    return _continued(run, newest_checkpoint(run)[0])[0]


def fitted_to(config: TrainConfig, store: Store) -> TrainConfig:
    """The config with a model for the classes and the image size of the dataset, and the normalisation for both."""
    model = replace(
        config.model,
        name=in_full(config.model.name),
        classes=len(store.classes),
        img_size=config.img_size or store.default_side,
    )
    return replace(
        config,
        model=model,
        encoded=store.encoded,
        normalisation=normalisation_of(config.model, store),
        data=absolute(config.data),
    )


def _continued(run: RunDir, content: dict[str, Any]) -> tuple[TrainConfig, tuple[str, ...]]:
    """The config and the classes of a run's last checkpoint. Raises CheckpointError for another program's file."""
    if "cifar" in content and "loop" not in content:
        raise CheckpointError(
            f"{run.last} was written by an earlier version, whose runs can't be continued",
            remedy="start a new run; `cifar evaluate` still reads its best weights",
        )
    with named_if_newer(content.get("cifar"), run.last):
        saved = validated(SavedRun, content, origin=run.last)
        config = replace(config_in(saved.cifar, origin=run.last), run_dir=run.path)
    if "auto" in (config.precision, config.memory_format):
        raise CheckpointError(f"{run.last} was written before precision and memory format were chosen", remedy=REMEDY)
    if saved.loop.epoch > 0:
        require_whole(run.best, run)
    return config, tuple(saved.cifar.classes)
