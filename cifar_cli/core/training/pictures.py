"""Pictures of epochs for TensorBoard: confusion matrices, and sample images with predictions."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.store import Part, Store
from cifar_cli.core.figures import MOST_CONFUSED, confusion_figure, samples_figure
from cifar_cli.core.training.batches import Loaders, eval_loader, resident
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.results import EpochResult
from cifar_cli.core.training.scores import Scores

SAMPLES = 16
PAIRS = 8  # training images shown as they are and as the model was trained on them


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Samples:
    """Images as the model predicts them."""

    shown: Part
    predicted_N: Tensor
    columns: int = 8
    note: str = ""
    """Follows the title."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Sketch:
    """What the pictures of an epoch show, on the CPU. To take it is quick; to draw it takes up to a second."""

    result: EpochResult
    matrices: dict[str, Tensor]
    """By split: counts [K, K]."""
    samples: dict[str, Samples]


class Pictures:
    """Draws validation images, the same ones of every epoch, and the first training images of the epoch.

    A thread of its own draws while the training goes on. With the choice "best" it draws at the end of the run, the
    best and the last epoch.
    """

    def __init__(self, writer: SummaryWriter, store: Store, loaders: Loaders, config: TrainConfig) -> None:
        self._writer, self._store, self._loaders, self._config = writer, store, loaders, config
        self._val_rows = spread(loaders.val_indices)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._drawing: Future[None] | None = None
        self._best: Sketch | None = None
        self._last: Sketch | None = None

    def add(self, model: nn.Module, result: EpochResult, scores: Mapping[str, Scores], device: torch.device) -> None:
        """Show an epoch: confusion matrices from the scores by split name, and samples as the model predicts them.

        Raises what the drawing of the epoch before raised. Waits for it, so that no more than one is left behind.
        """
        if self._config.pictures == "none":
            return
        sketch = self._sketch(model, result, scores, device)
        if self._config.pictures == "every":
            self._draw(sketch)
            return
        self._last = sketch
        if result.best:
            self._best = sketch

    def finish(self) -> None:
        """Begin to draw what is left."""
        kept = [self._best, self._last] if self._best is not self._last else [self._last]
        self._best = self._last = None
        for sketch in kept:
            if sketch is not None:
                self._draw(sketch)

    def close(self) -> None:
        """Wait until everything is drawn. Raises what the drawing raised."""
        self._thread.shutdown()
        if self._drawing is not None:
            self._drawing.result()

    def _draw(self, sketch: Sketch) -> None:
        if self._drawing is not None:
            self._drawing.result()
        self._drawing = self._thread.submit(self._draw_now, sketch)

    def _sketch(
        self, model: nn.Module, result: EpochResult, scores: Mapping[str, Scores], device: torch.device
    ) -> Sketch:
        val = self._part(self._val_rows)
        rows, augmented_NHWC = augmented_samples(self._loaders, self._config.normalised_by, epoch=result.epoch - 1)
        original = self._part(rows)
        # A row of originals, and below each what the model was trained on.
        images_NHWC = torch.cat([_resized(original.pixels_NHWC, augmented_NHWC), augmented_NHWC])
        train = Part(images_NHWC=images_NHWC, labels_N=original.labels_N.repeat(2))
        return Sketch(
            result=result,
            matrices={split: counted.matrix_KK for split, counted in scores.items()},
            samples={
                "val": Samples(shown=val, predicted_N=self._predict(model, val, device)),
                "train": Samples(
                    shown=train,
                    predicted_N=self._predict(model, train, device),
                    columns=len(rows),
                    note=": original above, as trained on below",
                ),
            },
        )

    def _draw_now(self, sketch: Sketch) -> None:
        result, classes = sketch.result, self._store.classes
        only = ", one batch only (--fast-dev-run)" if self._config.fast_dev_run else ""
        for split, matrix_KK in sketch.matrices.items():
            title = f"{split}, epoch {result.epoch}{only}"
            # A matrix of 100 named classes takes a second to draw.
            figure = confusion_figure(matrix_KK, classes, title=title, most_classes=MOST_CONFUSED)
            self._writer.add_figure(f"confusion/{split}", figure, result.step, close=False)
        for split, samples in sketch.samples.items():
            figure = samples_figure(
                samples.shown.pixels_NHWC,
                samples.shown.labels_N,
                samples.predicted_N,
                classes,
                title=f"{split}, epoch {result.epoch}{samples.note}",
                columns=samples.columns,
            )
            self._writer.add_figure(f"samples/{split}", figure, result.step, close=False)
        self._writer.flush()

    def _part(self, rows: Tensor) -> Part:
        return self._store.train.at_side(self._config.model.img_size).taken(rows)

    @torch.inference_mode()
    def _predict(self, model: nn.Module, shown: Part, device: torch.device) -> Tensor:
        (batch,) = eval_loader(
            resident(shown, device),
            torch.arange(len(shown)),
            img_size=self._config.model.img_size,
            normalisation=self._config.normalised_by,
        )
        predicted_N: Tensor = model.eval()(batch[0]).argmax(dim=1).cpu()
        return predicted_N


def augmented_samples(
    loaders: Loaders, normalised_by: Normalisation, *, epoch: int, count: int = PAIRS
) -> tuple[Tensor, Tensor]:
    """The first training images of an epoch, counted from 0, as the model was trained on them.

    Returns their rows [N] and the augmented images, uint8 [N, S, S, 3], both on the CPU.
    """
    (images_BCHW, _) = loaders.train.make(epoch, range(1))[0]
    images_NCHW = images_BCHW[:count].float().cpu()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalised_by.mean, normalised_by.std))
    pixels = ((images_NCHW * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return loaders.train.first_rows(epoch, len(pixels)).cpu(), pixels.permute(0, 2, 3, 1).contiguous()


def spread(rows: Tensor, count: int = SAMPLES) -> Tensor:
    """`count` of the rows at even distances, so that a dataset sorted by class shows all its classes."""
    chosen = torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()
    return rows[chosen]


def _resized(images_NHWC: Tensor, like_NHWC: Tensor) -> Tensor:
    """The images in the size of others, with every pixel repeated: enough to look at."""
    side = like_NHWC.shape[1]
    if images_NHWC.shape[1] == side:
        return images_NHWC
    scaled = torch.nn.functional.interpolate(images_NHWC.permute(0, 3, 1, 2).float(), size=(side, side))
    return scaled.to(torch.uint8).permute(0, 2, 3, 1)
