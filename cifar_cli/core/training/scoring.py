"""Scores of a model on images it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.training.module import Scores


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class SplitScores:
    """Scores of one pass. plain: from each image alone; accuracy_flip_averaged: a fraction, from the mean of the
    probabilities of an image and its mirror image, None where it was not asked for.
    """

    plain: Scores
    accuracy_flip_averaged: float | None


@torch.inference_mode()
def score(
    model: nn.Module,
    loader: BatchLoader,
    *,
    classes: int,
    device: torch.device,
    flip_average: bool = False,
    on_progress: OnProgress = silent,
) -> SplitScores:
    """Run the model over every batch, in float32 whatever it was trained in, so that every machine agrees."""
    training = model.training
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    scores = Scores(classes).to(device)
    right = torch.zeros((), dtype=torch.long, device=device)
    for done, (images_BCHW, labels_B) in enumerate(loader, start=1):
        logits_BK: Tensor = model(images_BCHW)
        scores.update(F.cross_entropy(logits_BK, labels_B), logits_BK, labels_B)
        if flip_average:
            both_BK = logits_BK.softmax(dim=1) + model(images_BCHW.flip(3)).softmax(dim=1)
            right += (both_BK.argmax(dim=1) == labels_B).sum()
        on_progress(Progress(task="scoring", done=done, total=len(loader), unit="batches"))
    model.train(training)
    flipped = float(right) / max(int(scores.matrix_KK.sum()), 1) if flip_average else None
    return SplitScores(plain=scores, accuracy_flip_averaged=flipped)
