"""OpenCV on whole batches: one tall image goes through one call."""

from __future__ import annotations

import cv2
import torch
from torch import Tensor


def opencv_reaches(images: Tensor) -> bool:
    """Whether they lie where OpenCV can work on them, which is faster than with tensor operations."""
    return images.device.type == "cpu"


def tall(images_BHWC: Tensor) -> cv2.typing.MatLike:
    """A batch as one image [B * H, W, C]; shares its memory where that lies in order."""
    return images_BHWC.reshape(-1, *images_BHWC.shape[2:]).numpy()


def mirrored(images_BHWC: Tensor) -> Tensor:
    """Left and right exchanged."""
    if not opencv_reaches(images_BHWC) or not len(images_BHWC):
        return images_BHWC.flip(2)
    return torch.from_numpy(cv2.flip(tall(images_BHWC), 1)).view(images_BHWC.shape)
