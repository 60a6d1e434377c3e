"""Pictures for TensorBoard after every epoch: confusion matrices, and sample images with predictions."""

from __future__ import annotations

from collections.abc import Mapping

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


class Pictures:
    """Draws validation images, the same ones after every epoch, and the first training images of the epoch."""

    def __init__(self, writer: SummaryWriter, store: Store, loaders: Loaders, config: TrainConfig) -> None:
        self._writer, self._store, self._loaders, self._config = writer, store, loaders, config
        self._val_rows = spread(loaders.val_indices)

    def draw(self, model: nn.Module, result: EpochResult, scores: Mapping[str, Scores], device: torch.device) -> None:
        """Draw confusion matrices from the scores by split name, and the samples as the model predicts them."""
        only = ", one batch only (--fast-dev-run)" if self._config.fast_dev_run else ""
        for split, counted in scores.items():
            title = f"{split}, epoch {result.epoch}{only}"
            # A matrix of 100 named classes takes a second to draw.
            figure = confusion_figure(counted.matrix_KK, self._store.classes, title=title, most_classes=MOST_CONFUSED)
            self._writer.add_figure(f"confusion/{split}", figure, result.step, close=False)
        self._draw_samples("val", self._part(self._val_rows), model, result, device)
        rows, augmented_NHWC = augmented_samples(self._loaders, self._config.normalised_by, epoch=result.epoch - 1)
        original = self._part(rows)
        # A row of originals, and below each what the model was trained on.
        images_NHWC = torch.cat([_resized(original.pixels_NHWC, augmented_NHWC), augmented_NHWC])
        both = Part(images_NHWC=images_NHWC, labels_N=original.labels_N.repeat(2))
        self._draw_samples(
            "train", both, model, result, device, columns=len(rows), note=": original above, as trained on below"
        )
        self._writer.flush()

    def _draw_samples(
        self,
        split: str,
        shown: Part,
        model: nn.Module,
        result: EpochResult,
        device: torch.device,
        *,
        columns: int = 8,
        note: str = "",
    ) -> None:
        predicted_N = self._predict(model, shown, device)
        figure = samples_figure(
            shown.pixels_NHWC,
            shown.labels_N,
            predicted_N,
            self._store.classes,
            title=f"{split}, epoch {result.epoch}{note}",
            columns=columns,
        )
        self._writer.add_figure(f"samples/{split}", figure, result.step, close=False)

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
