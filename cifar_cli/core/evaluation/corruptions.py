"""Common corruptions of images, and the accuracy under them.

Kinds and severities are those of CIFAR-10-C (Hendrycks & Dietterich 2019, Benchmarking neural network robustness to
common corruptions and perturbations, ICLR; severities of the authors' program for 32×32 images). The noise is drawn
from this module's own generator, so figures are comparable with published ones, but not equal to the last digit.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cifar_cli.core.data.config import Normalisation
from cifar_cli.core.data.loader import derive_seed
from cifar_cli.core.data.store import Part
from cifar_cli.core.evaluation.predictions import predict_batches
from cifar_cli.core.evaluation.results import CorruptionScore
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.training.batches import EVAL_BATCH, eval_loader, resident

SEVERITIES = 5
CHUNK = 1000  # images of 32 pixels that are corrupted at a time: a float64 copy takes 25 MB
DECODED_AT_ONCE = 2000  # 300 MB at 224 pixels
Pixels = NDArray[np.float64]  # [N, H, W, 3], 0..1


def noise(images: Pixels, scale: float, random: np.random.Generator) -> Pixels:
    """Add Gaussian noise of this standard deviation."""
    return images + random.normal(size=images.shape, scale=scale)


def blur(images: Pixels, sigma: float, random: np.random.Generator) -> Pixels:
    """Blur by a Gaussian of this many pixels, cut at four standard deviations; the edge pixels are repeated."""
    side = 2 * int(4 * sigma + 0.5) + 1
    blurred = [cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE) for image in images]
    return np.stack(blurred)


def brightness(images: Pixels, shift: float, random: np.random.Generator) -> Pixels:
    """Add to the value of HSV, which is the largest channel: hue and saturation stay."""
    value: Pixels = images.max(axis=3, keepdims=True)
    raised = np.clip(value + shift, 0, 1)
    return np.where(value > 0, images * (raised / np.where(value > 0, value, 1)), raised)


def contrast(images: Pixels, factor: float, random: np.random.Generator) -> Pixels:
    """Scale the differences from each channel's mean."""
    means: Pixels = images.mean(axis=(1, 2), keepdims=True)
    return (images - means) * factor + means


def jpeg(images: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    """Encode as JPEG of this quality, and decode."""
    return np.stack([_through_jpeg(image, int(quality)) for image in (images * 255).round().astype(np.uint8)]) / 255


def _through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    return np.asarray(Image.open(encoded))


@dataclass(frozen=True, slots=True)
class Corruption:
    """A kind of corruption."""

    change: Callable[[Pixels, float, np.random.Generator], Pixels]
    strengths: tuple[float, ...]
    """The second argument at severity 1 to 5."""


CORRUPTIONS: dict[str, Corruption] = {
    "Gaussian noise": Corruption(noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "Gaussian blur": Corruption(blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "JPEG": Corruption(jpeg, (80, 65, 58, 50, 40)),
}


def generator_of(kind: str, severity: int) -> np.random.Generator:
    """For the noise of a dataset under one corruption."""
    return np.random.default_rng(derive_seed(list(CORRUPTIONS).index(kind), severity))


def corrupted(images_NHWC: Tensor, kind: str, severity: int, random: np.random.Generator | None = None) -> Tensor:
    """The images under a corruption, uint8 [N, H, W, 3] to the same; equal arguments give equal images.

    kind: a key of CORRUPTIONS. severity: 1 to 5. random: goes on where the images before left it; None for the first.
    """
    corruption = CORRUPTIONS[kind]
    random = random or generator_of(kind, severity)
    changed = []
    at_once = max(1, CHUNK * 32**2 // max(1, images_NHWC.shape[1] * images_NHWC.shape[2]))
    for chunk in torch.split(images_NHWC, at_once):
        pixels = corruption.change(chunk.numpy() / 255.0, corruption.strengths[severity - 1], random)
        # Rounded down as in CIFAR-10-C, after what float64 leaves of a whole number.
        changed.append(torch.from_numpy((np.clip(pixels, 0, 1) * 255 + 1e-9).astype(np.uint8)))
    return torch.cat(changed)


def accuracy_under_corruptions(
    model: nn.Module,
    part: Part,
    rows: Tensor,
    *,
    classes: int,
    img_size: int,
    normalisation: Normalisation,
    device: torch.device,
    batch: int = EVAL_BATCH,
    on_progress: OnProgress = silent,
) -> tuple[CorruptionScore, ...]:
    """The accuracy for the images `rows` under each kind of corruption, at severity 1 to 5.

    Encoded images are decoded in the model's size, DECODED_AT_ONCE at a time.
    """
    severities = range(1, SEVERITIES + 1)
    correct = dict.fromkeys(product(CORRUPTIONS, severities), 0)
    generators = {each: generator_of(*each) for each in correct}
    parts = torch.split(rows, DECODED_AT_ONCE)
    done = 0
    for some in parts:
        chosen = part.at_side(img_size).taken(some)
        images_NHWC, labels_N = chosen.pixels_NHWC, chosen.labels_N
        for (kind, severity), random in generators.items():
            changed = Part(images_NHWC=corrupted(images_NHWC, kind, severity, random), labels_N=labels_N)
            loader = eval_loader(
                resident(changed, device),
                torch.arange(len(some)),
                img_size=img_size,
                normalisation=normalisation,
                batch=batch,
            )
            logits_NK, _ = predict_batches(model, loader, classes=classes, device=device)
            correct[kind, severity] += int((logits_NK.argmax(dim=1) == labels_N).sum())
            done += len(some)
            total = len(rows) * len(correct)
            on_progress(Progress(task="scoring corrupted images", done=done, total=total, unit="images"))
    return tuple(
        CorruptionScore(kind=kind, accuracies=tuple(correct[kind, each] / max(len(rows), 1) for each in severities))
        for kind in CORRUPTIONS
    )
