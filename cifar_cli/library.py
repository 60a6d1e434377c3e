"""The commands as functions, for notebooks and other programs. They return what `--json` prints, as dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cifar_cli.core.choices import DeviceChoice
from cifar_cli.core.counting.config import SummaryConfig
from cifar_cli.core.counting.results import ModelSummary
from cifar_cli.core.counting.summary import summarize as _summarize
from cifar_cli.core.data.config import DataConfig
from cifar_cli.core.data.dataset import open_dataset as _open_dataset
from cifar_cli.core.data.store import Store
from cifar_cli.core.evaluation.config import EvaluateConfig
from cifar_cli.core.evaluation.evaluate import evaluate as _evaluate
from cifar_cli.core.evaluation.results import EvaluateResult
from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
from cifar_cli.core.memory.profile import profile
from cifar_cli.core.memory.results import MemoryReport
from cifar_cli.core.models.config import DEFAULT_BACKBONE, ModelConfig
from cifar_cli.core.progress import OnProgress, silent
from cifar_cli.core.training.config import StepConfig
from cifar_cli.core.training.listeners import Listeners
from cifar_cli.core.training.results import EpochResult, TrainProgress, TrainResult
from cifar_cli.core.training.settings import layered
from cifar_cli.core.training.train import train as _train

PathLike = Path | str


def train(
    model: str = "null",
    *,
    dataset: str | None = None,
    data_dir: PathLike | None = None,
    recipe: str | None = None,
    config: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    run_dir: PathLike | None = None,
    on_progress: OnProgress = silent,
    on_step: Callable[[TrainProgress], None] = lambda progress: None,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
) -> TrainResult:
    """Train a classifier, keep its best weights, and score them on the test split, as `cifar train` does.

    model: null, cnn, hybrid, timm:NAME, or the file and function of an own one. dataset, data_dir, recipe: as the
    options; None for those of `config`, or the defaults. config: the config.yaml of a run to repeat. settings: single
    settings by the names they have in that file, such as {"recipe.max_epochs": 3}. run_dir: None creates one.
    on_progress, on_step, on_epoch: get the progress of preparing and scoring, of the steps, and every finished epoch.
    Raises a CifarError for what the user can mend.
    """
    asked = {
        "model.name": None if config is not None and model == "null" else model,
        "data.dataset": dataset,
        "data.data_dir": None if data_dir is None else Path(data_dir),
        "run_dir": None if run_dir is None else Path(run_dir),
    }
    given = {path: value for path, value in asked.items() if value is not None}
    flags = dict.fromkeys((*given, *(["recipe.name"] if recipe else [])), "argument")
    chosen = layered(
        {"model.trim_backbone": True} | given,
        flags,
        recipe=recipe or "course",
        file=None if config is None else Path(config),
        assignments=settings or {},
    )
    listeners = Listeners(on_progress=on_progress, on_step=on_step, on_epoch=on_epoch)
    return _train(chosen.config(), listeners)


def evaluate(
    checkpoint: PathLike,
    *,
    dataset: str | None = None,
    data_dir: PathLike | None = None,
    batch: int = 512,
    device: DeviceChoice = "auto",
    out: PathLike | None = None,
    on_progress: OnProgress = silent,
) -> EvaluateResult:
    """Score a run directory or a checkpoint file on the test split, as `cifar evaluate` does.

    dataset, data_dir: None for those of the training. out: the PNG file for the confusion matrix.
    Raises CheckpointError, DataError, ConfigError or ResourceError.
    """
    config = EvaluateConfig(
        checkpoint=Path(checkpoint),
        dataset=dataset,
        data_dir=None if data_dir is None else Path(data_dir),
        batch=batch,
        device=device,
        out=None if out is None else Path(out),
    )
    return _evaluate(config, on_progress=on_progress)


def summarize(
    model: str,
    *,
    batch: int = 128,
    img_size: int = 32,
    classes: int = 10,
    depth: int = 3,
    backbone: str = DEFAULT_BACKBONE,
) -> ModelSummary:
    """Count parameters, multiply-adds and FLOPs of a model, as `cifar summarize` does.

    img_size: side of the images in pixels. backbone: of cnn. Raises ModelError or ConfigError.
    """
    return _summarize(SummaryConfig(model=_counted(model, img_size, classes, backbone), batch=batch, depth=depth))


def profile_memory(
    model: str,
    *,
    batch: int = 128,
    find_max_batch: bool = False,
    gpu: str | None = None,
    memory_bytes: int | None = None,
    img_size: int = 32,
    classes: int = 10,
    backbone: str = DEFAULT_BACKBONE,
    step: StepConfig | None = None,
    on_progress: OnProgress = silent,
) -> MemoryReport:
    """Predict the peak memory of a training step, or the largest batch that fits, without a GPU.

    gpu: the name of a card, such as "RTX 3090". memory_bytes: the memory of the card instead. step: optimizer,
    precision and memory format. Raises ModelError, ConfigError or ResourceError.
    """
    config = MemoryConfig(model=_counted(model, img_size, classes, backbone), step=step or StepConfig())
    request = MemoryRequest(
        configs=(config,),
        batches=(batch,),
        find_max_batch=find_max_batch,
        gpus=() if gpu is None else (gpu,),
        memory_bytes=memory_bytes,
        estimate=True,
    )
    return profile(request, on_progress=on_progress)


def open_dataset(name: str = "cifar10", *, data_dir: PathLike = "data", on_progress: OnProgress = silent) -> Store:
    """Open a dataset; a built-in one that is missing is downloaded or drawn.

    The store has `train` and `test`, each with uint8 images [N, H, W, 3] and int64 labels [N].
    Raises DataError or ResourceError.
    """
    return _open_dataset(DataConfig(dataset=name, data_dir=Path(data_dir)), on_progress=on_progress)


def _counted(model: str, img_size: int, classes: int, backbone: str) -> ModelConfig:
    """A model without weights."""
    return ModelConfig(name=model, img_size=img_size, classes=classes, weights="none", backbone=backbone)
