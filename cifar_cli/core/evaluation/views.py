"""Test-time augmentation: the accuracy with the probabilities of several views of each image averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.evaluation.results import ViewScores
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.training.machine import exact_kernels

SHIFT = 1  # pixels
TRANSLATIONS = ((-SHIFT, -SHIFT), (SHIFT, SHIFT))  # right and down, of the image


def score_views(
    model: nn.Module, loader: BatchLoader, *, device: torch.device, on_progress: OnProgress = silent
) -> ViewScores:
    """Score the loader's images, each by the mean over its views. The model is left in evaluation mode."""
    means = probabilities_over_views(model, loader, device=device, on_progress=on_progress)
    labels_N = loader.labels_N.index_select(0, loader.indices).cpu()
    mirrored, translated = (int((each.argmax(dim=1) == labels_N).sum()) / max(len(labels_N), 1) for each in means)
    return ViewScores(mirror_averaged=mirrored, views_averaged=translated)


@torch.inference_mode()
def probabilities_over_views(
    model: nn.Module, loader: BatchLoader, *, device: torch.device, on_progress: OnProgress = silent
) -> tuple[Tensor, Tensor]:
    """Mean probabilities, float32 [N, K] on the CPU: over each image and its mirror image, and over all views.

    Source: Jordan 2024 (arXiv 2404.00498), section 3.5, which averages logits. Half of the weight is on the image and
    its mirror image, the other half on their translations by one pixel over a mirrored border.
    """
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    mirrored, all_views = [], []
    with exact_kernels():
        for done, (images_BCHW, _) in enumerate(loader, start=1):
            straight_BK = _with_mirror(model, images_BCHW)
            moved_BK = torch.stack(
                [_with_mirror(model, shifted(images_BCHW, *offsets)) for offsets in TRANSLATIONS]
            ).mean(dim=0)
            mirrored.append(straight_BK.cpu())
            all_views.append(((straight_BK + moved_BK) / 2).cpu())
            on_progress(Progress(task="scoring views", done=done, total=len(loader), unit="batches"))
    return torch.cat(mirrored), torch.cat(all_views)


def _with_mirror(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """The mean of the probabilities [B, K] of images and their mirror images."""
    both: Tensor = model(images_BCHW).softmax(dim=1) + model(images_BCHW.flip(3)).softmax(dim=1)
    return both / 2


def shifted(images_BCHW: Tensor, right: int, down: int) -> Tensor:
    """Images moved by whole pixels; what comes in at the border mirrors the pixels beside it."""
    height, width = images_BCHW.shape[2:]
    room = max(abs(right), abs(down))
    if min(height, width) <= room:  # nothing to mirror
        return images_BCHW
    padded = F.pad(images_BCHW, (room,) * 4, mode="reflect")
    return padded[:, :, room - down : room - down + height, room - right : room - right + width]
