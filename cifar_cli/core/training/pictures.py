"""Pictures for TensorBoard, drawn when an epoch is over: confusion matrices and samples with predictions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cifar_cli.core.data.store import Part, Store
from cifar_cli.core.figures import confusion_figure, samples_figure
from cifar_cli.core.training.batches import eval_loader, resident
from cifar_cli.core.training.module import Classifier

SAMPLES = 16


class Pictures(Callback):
    """Shows the same sample images every epoch, so that one sees the predictions change."""

    def __init__(
        self, *, writer: SummaryWriter, store: Store, indices: Iterable[tuple[str, Tensor]], img_size: int
    ) -> None:
        self.writer = writer
        self.store = store
        self.samples = {split: spread(rows) for split, rows in indices}
        self.img_size = img_size

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        epoch, classes = trainer.current_epoch + 1, self.store.classes
        for split, scores in (("train", pl_module.train_scores), ("val", pl_module.val_scores)):
            figure = confusion_figure(scores.matrix_KK, classes, title=f"{split}, epoch {epoch}")
            self.writer.add_figure(f"confusion/{split}", figure, epoch, close=False)
        for split, rows in self.samples.items():
            shown = Part(images_NHWC=self.store.train.images_NHWC[rows], labels_N=self.store.train.labels_N[rows])
            figure = samples_figure(
                shown.images_NHWC,
                shown.labels_N,
                self._predict(pl_module, shown),
                classes,
                title=f"{split}, epoch {epoch}",
            )
            self.writer.add_figure(f"samples/{split}", figure, epoch, close=False)
        self.writer.flush()

    def _predict(self, module: Classifier, shown: Part) -> Tensor:
        (batch,) = eval_loader(resident(shown, module.device), torch.arange(len(shown)), img_size=self.img_size)
        training = module.training
        module.eval()
        with torch.inference_mode():
            predicted_N: Tensor = module(batch[0]).argmax(dim=1).cpu()
        module.train(training)
        return predicted_N


def spread(rows: Tensor, count: int = SAMPLES) -> Tensor:
    """`count` of the rows, evenly spaced, so that a dataset sorted by class shows all its classes."""
    chosen = torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()
    return rows[chosen]
