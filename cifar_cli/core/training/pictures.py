"""Pictures for TensorBoard after every epoch: confusion matrices, and sample images with predictions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cifar_cli.core.data.store import Part, Store
from cifar_cli.core.figures import confusion_figure, samples_figure
from cifar_cli.core.training.batches import eval_loader, resident
from cifar_cli.core.training.scores import Scores

SAMPLES = 16


class Pictures:
    """Draws the same sample images after every epoch, so that changes of the predictions show.

    indices: rows of the training images, by split name.
    """

    def __init__(self, writer: SummaryWriter, store: Store, indices: Mapping[str, Tensor], *, img_size: int) -> None:
        self._writer, self._store, self._img_size = writer, store, img_size
        self._samples = {split: spread(rows) for split, rows in indices.items()}

    def draw(self, model: nn.Module, epoch: int, scores: Mapping[str, Scores], device: torch.device) -> None:
        """Draw confusion matrices from the scores by split name, and the samples as the model predicts them."""
        for split, counted in scores.items():
            figure = confusion_figure(counted.matrix_KK, self._store.classes, title=f"{split}, epoch {epoch}")
            self._writer.add_figure(f"confusion/{split}", figure, epoch, close=False)
        train = self._store.train
        for split, rows in self._samples.items():
            shown = Part(images_NHWC=train.images_NHWC[rows], labels_N=train.labels_N[rows])
            predicted_N = self._predict(model, shown, device)
            title = f"{split}, epoch {epoch}"
            figure = samples_figure(shown.images_NHWC, shown.labels_N, predicted_N, self._store.classes, title=title)
            self._writer.add_figure(f"samples/{split}", figure, epoch, close=False)
        self._writer.flush()

    @torch.inference_mode()
    def _predict(self, model: nn.Module, shown: Part, device: torch.device) -> Tensor:
        (batch,) = eval_loader(resident(shown, device), torch.arange(len(shown)), img_size=self._img_size)
        predicted_N: Tensor = model.eval()(batch[0]).argmax(dim=1).cpu()
        return predicted_N


def spread(rows: Tensor, count: int = SAMPLES) -> Tensor:
    """`count` of the rows at even distances, so that a dataset sorted by class shows all its classes."""
    chosen = torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()
    return rows[chosen]
