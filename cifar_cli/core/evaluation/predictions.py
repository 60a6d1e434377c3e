"""What a model predicts for every image of a split: the input of every score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.data.splits import split_of
from cifar_cli.core.data.store import Part, Store
from cifar_cli.core.evaluation.config import SplitName
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.training.batches import EVAL_BATCH, eval_loader, resident
from cifar_cli.core.training.scores import Scores, evaluation_step
from cifar_cli.core.transform import Images


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """The logits of a model for the images of a split, in the order of the split. All tensors are on the CPU."""

    dataset: str
    content: str
    """The store's hash of its images and labels: a split drawn otherwise has another one."""
    split: SplitName
    classes: tuple[str, ...]
    index_N: Tensor
    """int64: the row of each image among the published training images (train, val) or test images (test)."""
    images_NHWC: Images
    """The published images, uint8 [M, H, W, 3], or what decodes the rows that it is asked for; rows `index_N` are those
    of the split."""
    labels_N: Tensor
    """int64: the given labels."""
    logits_NK: Tensor
    """float32."""
    loss: float
    """Mean cross-entropy in nats, computed as training computes it."""
    files: tuple[str, ...] | None = None
    """The source file of each image; None where the store doesn't keep them."""

    def __len__(self) -> int:
        return len(self.labels_N)

    @cached_property
    def probabilities_NK(self) -> Tensor:
        """float64, so that probabilities near 1 stay apart."""
        return self.logits_NK.double().softmax(dim=1)

    @cached_property
    def predicted_N(self) -> Tensor:
        return self.logits_NK.argmax(dim=1)

    @cached_property
    def confidence_N(self) -> Tensor:
        """The probability of the predicted class."""
        return self.probabilities_NK.gather(1, self.predicted_N[:, None]).squeeze(1)

    @cached_property
    def correct_N(self) -> Tensor:
        return self.predicted_N == self.labels_N

    def file_of(self, row: int) -> str | None:
        return None if self.files is None else self.files[row]


def rows_of(store: Store, split: SplitName) -> tuple[Part, Tensor]:
    """The published images that a split is taken from, and its rows in them.

    Raises DataError when the training images can't be split.
    """
    if split == "test":
        return store.test, torch.arange(len(store.test))
    parts = split_of(store)
    return store.train, parts.val_indices if split == "val" else parts.train_indices


def files_of(store: Store, split: SplitName, rows: Tensor) -> tuple[str, ...] | None:
    """The source files of the images `rows` of a split; None where the store doesn't keep them."""
    names = store.names("test" if split == "test" else "train")
    return None if names is None else tuple(names[row] for row in rows.tolist())


def same_images(first: Predictions, second: Predictions) -> bool:
    """Whether two models predicted the same images with the same labels."""
    return (
        (first.dataset, first.content, first.split) == (second.dataset, second.content, second.split)
        and torch.equal(first.index_N, second.index_N)
        and torch.equal(first.labels_N, second.labels_N)
    )


def predict_split(
    model: nn.Module,
    store: Store,
    split: SplitName,
    *,
    img_size: int,
    normalisation: Normalisation,
    device: torch.device,
    batch: int = EVAL_BATCH,
    on_progress: OnProgress = silent,
) -> Predictions:
    """Run a model over a split in float32, prepared as validation prepares it: not augmented, in the split's order."""
    part, rows = rows_of(store, split)
    loader = eval_loader(resident(part, device), rows, img_size=img_size, normalisation=normalisation, batch=batch)
    logits_NK, loss = predict_batches(model, loader, classes=len(store.classes), device=device, on_progress=on_progress)
    return Predictions(
        dataset=store.name,
        content=store.content,
        split=split,
        classes=store.classes,
        index_N=rows,
        images_NHWC=part.images_NHWC,
        labels_N=part.labels_N[rows],
        logits_NK=logits_NK,
        loss=loss,
        files=files_of(store, split, rows),
    )


@torch.inference_mode()
def predict_batches(
    model: nn.Module, loader: BatchLoader, *, classes: int, device: torch.device, on_progress: OnProgress = silent
) -> tuple[Tensor, float]:
    """The logits [N, K] of a loader's images, on the CPU, and their mean loss. The model is left in evaluation mode."""
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    scores = Scores(classes).to(device)
    logits = []
    for done, (images_BCHW, labels_B) in enumerate(loader, start=1):
        logits.append(evaluation_step(model, images_BCHW, labels_B, scores).float().cpu())
        on_progress(Progress(task="scoring", done=done, total=len(loader), unit="batches"))
    return torch.cat(logits), scores.loss
