"""The commands as functions, for notebooks and other programs. They return what `--json` prints, as dataclasses.

Each function imports the part of the core that it needs when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_cli.core.choices import DeviceChoice, StrategyChoice
from cifar_cli.core.data.config import DATA_DIR
from cifar_cli.core.models.config import DEFAULT_BACKBONE, ModelConfig, RectangularConfig
from cifar_cli.core.progress import OnProgress, silent

if TYPE_CHECKING:
    from cifar_cli.core.counting.results import ModelSummary
    from cifar_cli.core.data.store import Store
    from cifar_cli.core.evaluation.config import SplitName
    from cifar_cli.core.evaluation.results import EvaluateResult, PredictResult
    from cifar_cli.core.evaluation.trained_model import TrainedModel
    from cifar_cli.core.memory.config import Risk
    from cifar_cli.core.memory.results import MemoryReport
    from cifar_cli.core.training.config import StepConfig
    from cifar_cli.core.training.results import EpochResult, TrainProgress, TrainResult

PathLike = Path | str


def train(
    model: str | None = None,
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

    model: null, cnn, hybrid, airbench, timm:NAME, or the file and function of an own one. dataset: its name or store
    file; `cifar download --from` imports a folder first. data_dir, recipe: as the options. None for these takes what
    `config` has, or what the command takes by default. config: the config.yaml of a run to repeat. settings: single
    settings by the names they have in that file, such as {"recipe.max_epochs": 3}. run_dir: None creates one.
    on_progress, on_step, on_epoch: get the progress of preparing and scoring, of the steps, and every finished epoch.
    Raises a CifarError for what the user can mend.
    """
    from cifar_cli.core.training.listeners import Listeners
    from cifar_cli.core.training.settings import layered
    from cifar_cli.core.training.train import train as run

    folder = data_dir or os.environ.get(DATA_DIR)
    asked = {
        "model.name": model,
        "data.dataset": dataset,
        "data.data_dir": None if folder is None else Path(folder),
        "run_dir": None if run_dir is None else Path(run_dir),
    }
    given = {path: value for path, value in asked.items() if value is not None}
    flags = dict.fromkeys((*given, *(["recipe.name"] if recipe else [])), "argument")
    chosen = layered(
        {"model.name": "null", "model.trim_backbone": True} | given,
        flags,
        recipe=recipe or "course",
        file=None if config is None else Path(config),
        assignments=settings or {},
    )
    listeners = Listeners(on_progress=on_progress, on_step=on_step, on_epoch=on_epoch)
    return run(chosen.config(), listeners)


def evaluate(
    checkpoint: PathLike,
    *,
    split: SplitName = "test",
    dataset: str | None = None,
    data_dir: PathLike | None = None,
    batch: int = 512,
    views: bool = False,
    corruptions: bool = False,
    device: DeviceChoice = "auto",
    out: PathLike | None = None,
    on_progress: OnProgress = silent,
) -> EvaluateResult:
    """Score a run directory or a checkpoint file, as `cifar evaluate` does.

    split, views, corruptions: as in EvaluateConfig. dataset, data_dir: None for those of the training. out: the folder
    for the figures; None for the run directory. Raises CheckpointError, DataError, ConfigError or ResourceError.
    """
    from cifar_cli.core.evaluation.config import EvaluateConfig
    from cifar_cli.core.evaluation.evaluate import evaluate as run

    config = EvaluateConfig(
        checkpoint=Path(checkpoint),
        split=split,
        dataset=dataset,
        data_dir=None if data_dir is None else Path(data_dir),
        batch=batch,
        views=views,
        corruptions=corruptions,
        device=device,
        out=None if out is None else Path(out),
    )
    return run(config, on_progress=on_progress)


def predict(
    images: PathLike | Sequence[PathLike],
    *,
    checkpoint: PathLike,
    batch: int = 512,
    device: DeviceChoice = "auto",
    explain: bool = False,
    on_progress: OnProgress = silent,
) -> PredictResult:
    """Classify image files with a trained model, as `cifar predict` does.

    images: a file, a folder or a pattern, or several. checkpoint: a run directory or a checkpoint file. explain: find
    out which part of an image its prediction rests on. A file that can't be read is named in `problems` of the result.
    Raises CheckpointError, ConfigError, or DataError when no file can be read.
    """
    from cifar_cli.core.evaluation.config import PredictConfig
    from cifar_cli.core.evaluation.predict import predict as run

    words = [images] if isinstance(images, (str, Path)) else images
    config = PredictConfig(
        images=tuple(map(str, words)), checkpoint=Path(checkpoint), batch=batch, device=device, explain=explain
    )
    return run(config, on_progress=on_progress)


def load_model(checkpoint: PathLike) -> TrainedModel:
    """A trained model for a program of your own, on the CPU and in evaluation mode, with what makes its input.

    checkpoint: a run directory, whose best weights are taken, or a checkpoint file. Nothing in it is executed.
    Raises CheckpointError or WeightsError.
    """
    from cifar_cli.core.evaluation.trained_model import trained_model

    return trained_model(Path(checkpoint))


def summarize(
    model: str,
    *,
    batch: int = 128,
    img_size: int = 32,
    classes: int = 10,
    depth: int = 3,
    top: int = 5,
    backbone: str = DEFAULT_BACKBONE,
    patch_size: int = 2,
    trim_backbone: bool = False,
    width: float = 1.0,
    residual: bool = False,
    small_images: bool = False,
) -> ModelSummary:
    """Count parameters, multiply-adds and FLOPs of a model, as `cifar summarize` does.

    img_size: side of the images in pixels. depth, top: as in SummaryConfig. The rest describes the model, as in
    ModelConfig. Raises ModelError or ConfigError.
    """
    from cifar_cli.core.counting.config import SummaryConfig
    from cifar_cli.core.counting.summary import summarize as run

    counted = _without_weights(
        model,
        img_size,
        classes=classes,
        backbone=backbone,
        patch_size=patch_size,
        trim_backbone=trim_backbone,
        width=width,
        residual=residual,
        small_images=small_images,
    )
    return run(SummaryConfig(model=counted, batch=batch, depth=depth, top=top))


def profile_memory(
    model: str,
    *,
    batch: int | Sequence[int] = 128,
    find_max_batch: bool = False,
    gpu: str | Sequence[str] | None = None,
    memory_bytes: int | None = None,
    risk: Risk = "safe",
    margin: float = 0.0,
    multiple_of: int = 1,
    what_would_help: bool = False,
    img_size: int | tuple[int, int] = 32,
    classes: int = 10,
    backbone: str = DEFAULT_BACKBONE,
    patch_size: int = 2,
    trim_backbone: bool = True,
    width: float = 1.0,
    residual: bool = False,
    small_images: bool = False,
    step: StepConfig | None = None,
    evaluate: bool = False,
    accumulate: int = 1,
    grad_checkpointing: bool = False,
    devices: int = 1,
    strategy: StrategyChoice = "auto",
    on_progress: OnProgress = silent,
) -> MemoryReport:
    """Predict the peak memory of a training step, or the largest batch that fits, without a GPU.

    batch: images of a step; several are compared. gpu: names of cards, such as "RTX 3090". memory_bytes: the memory of
    the card instead. risk, margin, multiple_of, what_would_help: as in MemoryRequest. img_size: pixels of a side, or
    (rows, columns). backbone, patch_size, trim_backbone, width, residual, small_images: as in ModelConfig. step:
    optimizer, precision, memory format, what is frozen and averaged. evaluate, accumulate, grad_checkpointing, devices,
    strategy: as in MemoryConfig. Raises ModelError, ConfigError or ResourceError.
    """
    from cifar_cli.core.memory.config import MemoryConfig, MemoryRequest
    from cifar_cli.core.memory.profile import profile
    from cifar_cli.core.training.config import StepConfig

    traced = _without_weights(
        model,
        img_size,
        classes=classes,
        backbone=backbone,
        patch_size=patch_size,
        trim_backbone=trim_backbone,
        width=width,
        residual=residual,
        small_images=small_images,
    )
    config = MemoryConfig(
        model=traced,
        step=step or StepConfig(),
        evaluate=evaluate,
        accumulate=accumulate,
        grad_checkpointing=grad_checkpointing,
        devices=devices,
        strategy=strategy,
    )
    request = MemoryRequest(
        configs=(config,),
        batches=(batch,) if isinstance(batch, int) else tuple(batch),
        find_max_batch=find_max_batch,
        gpus=(gpu,) if isinstance(gpu, str) else tuple(gpu or ()),
        memory_bytes=memory_bytes,
        risk=risk,
        margin=margin,
        multiple_of=multiple_of,
        what_would_help=what_would_help,
        estimate=True,
    )
    return profile(request, on_progress=on_progress)


def open_dataset(name: str = "cifar10", *, data_dir: PathLike | None = None, on_progress: OnProgress = silent) -> Store:
    """Open a dataset; a built-in one that is missing is downloaded or drawn.

    data_dir: None for CIFAR_DATA_DIR, or `data`.

    The store has `train` and `test`, each with uint8 images [N, H, W, 3] and int64 labels [N].
    Raises DataError or ResourceError.
    """
    from cifar_cli.core.data.config import DataConfig
    from cifar_cli.core.data.dataset import open_dataset as run

    folder = Path(data_dir or os.environ.get(DATA_DIR) or "data")
    return run(DataConfig(dataset=name, data_dir=folder), on_progress=on_progress)


def _without_weights(model: str, img_size: int | tuple[int, int], **parts: Any) -> ModelConfig:
    """A model to count or trace. img_size: pixels of a side, or (rows, columns). parts: other fields of ModelConfig."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    config = ModelConfig(name=model, img_size=height, weights="none", **parts)
    return config if width == height else RectangularConfig(**asdict(config), img_width=width)
