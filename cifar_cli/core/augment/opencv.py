"""OpenCV on complete batches: a batch is passed as one tall image, so one call covers all of it."""

from __future__ import annotations

import cv2
import torch
from torch import Tensor


def opencv_can_read(device: torch.device) -> bool:
    """Whether images on a device lie in host memory. There OpenCV is faster than tensor operations."""
    return device.type == "cpu"


def as_tall_image(images_BHWC: Tensor) -> cv2.typing.MatLike:
    """A batch as one image [B * H, W, C]; shares its memory if that is contiguous."""
    return images_BHWC.reshape(-1, *images_BHWC.shape[2:]).numpy()


def mirrored(images_BHWC: Tensor) -> Tensor:
    """Left and right exchanged."""
    if not opencv_can_read(images_BHWC.device) or not len(images_BHWC):
        return images_BHWC.flip(2)
    return torch.from_numpy(cv2.flip(as_tall_image(images_BHWC), 1)).view(images_BHWC.shape)
