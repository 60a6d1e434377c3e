"""A policy carried out on whole batches, on the device the images lie on.

Every image gets its own random parameters. They are drawn on the CPU from the seed alone, so they are the
same on every device; what is done with them follows albumentations' rules for uint8 images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_cli.core.augment.colour import jittered
from cifar_cli.core.augment.draws import Draw, Place, draw, draw_places
from cifar_cli.core.augment.policy import CoarseDropout, ColorJitter, HorizontalFlip, PadCrop, Policy, Step
from cifar_cli.core.augment.tall import mirrored


def pad_crop(images_BHWC: Tensor, step: PadCrop, drawn: Draw) -> Tensor:
    """Shift each image by its own offsets, filling with zeros."""
    count, size, _, channels = images_BHWC.shape
    room = step.padded - size
    before = room // 2
    top, left = (torch.where(drawn.fires_B, drawn.values[side], before) for side in ("top", "left"))
    padded = F.pad(images_BHWC, (0, 0, before, room - before, before, room - before))
    # Every window of every image as one overlapping view: to pick from it copies memory instead of pixels.
    side, row = step.padded, step.padded * channels
    starts = ((count - 1) * side + room) * side + room + 1 if count else 0
    windows = padded.as_strided((starts, size, size * channels), (channels, row, 1))
    picked = (torch.arange(count) * side + top) * side + left
    return windows.index_select(0, picked.to(images_BHWC.device)).view(images_BHWC.shape)


def horizontal_flip(images_BHWC: Tensor, step: HorizontalFlip, drawn: Draw) -> Tensor:
    """Mirror the images that fire."""
    return _replaced(images_BHWC, drawn.firing, mirrored(_picked(images_BHWC, drawn.firing)))


def color_jitter(images_BHWC: Tensor, step: ColorJitter, drawn: Draw) -> Tensor:
    """Jitter the images that fire, each with its own factors in its own order."""
    return _replaced(images_BHWC, drawn.firing, jittered(images_BHWC, drawn))


def coarse_dropout(images_BHWC: Tensor, step: CoarseDropout, drawn: Draw) -> Tensor:
    """Fill each firing image's rectangle."""
    size, channels, device = images_BHWC.shape[1], images_BHWC.shape[3], images_BHWC.device
    top, left, height, width = (drawn.values[name][drawn.firing, None] for name in ("top", "left", "height", "width"))
    side = torch.arange(size)
    outside_rows = (side < top) | (side >= top + height)
    outside_columns = ((side < left) | (side >= left + width)).repeat_interleave(channels, dim=1)
    # Bytes of all ones where a pixel is kept, because bytes are combined many at a time.
    rows, columns = ((-each.to(torch.uint8)).to(device) for each in (outside_rows, outside_columns))
    kept = rows[:, :, None] | columns[:, None, :]
    holed = _picked(images_BHWC, drawn.firing).flatten(2).bitwise_and_(kept)
    if step.fill:
        holed.bitwise_or_(kept.bitwise_not_().bitwise_and_(step.fill))
    return _replaced(images_BHWC, drawn.firing, holed.view(-1, size, size, channels))


def _picked(images_BHWC: Tensor, rows: Tensor) -> Tensor:
    return images_BHWC.index_select(0, rows.to(images_BHWC.device))


def _replaced(images_BHWC: Tensor, rows: Tensor, new_BHWC: Tensor) -> Tensor:
    """A copy of the images with some of them replaced: picked from both, because picking copies memory."""
    source = torch.arange(len(images_BHWC))
    source[rows] = torch.arange(len(images_BHWC), len(images_BHWC) + len(rows))
    return _picked(torch.cat([images_BHWC, new_BHWC]), source)


def apply(images_BHWC: Tensor, steps: Sequence[Step], draws: Sequence[Draw]) -> Tensor:
    """Carry the steps out with given parameters; uint8 [B, H, W, 3] to the same."""
    for step, drawn in zip(steps, draws, strict=True):
        match step:
            case PadCrop():
                images_BHWC = pad_crop(images_BHWC, step, drawn)
            case HorizontalFlip():
                images_BHWC = horizontal_flip(images_BHWC, step, drawn)
            case ColorJitter():
                images_BHWC = color_jitter(images_BHWC, step, drawn)
            case CoarseDropout():
                images_BHWC = coarse_dropout(images_BHWC, step, drawn)
    return images_BHWC


class EvalTransform:
    """Normalise, after resizing (bilinear) where the images have another size. Never random.

    mean, std: per channel, of values scaled to 0..1. Gives float32 [B, 3, S, S], channels last in memory.
    """

    def __init__(self, img_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.img_size = img_size
        # One row of an image, not one pixel, because adding three numbers at a time keeps a processor's lanes idle.
        self._scale_W3 = (1 / (255 * torch.tensor(std, dtype=torch.float32))).repeat(img_size)
        self._shift_W3 = -255 * torch.tensor(mean, dtype=torch.float32).repeat(img_size) * self._scale_W3

    def __call__(self, images_BHWC: Tensor, *, seed: int = 0, first: int = 0, of: int | None = None) -> Tensor:
        device = images_BHWC.device
        resized = self.resize(images_BHWC)
        # Not one fused operation: that rounds once or twice as a pixel's place in memory has it.
        rows = resized.flatten(2).to(torch.float32)
        rows = rows.mul_(self._scale_W3.to(device)).add_(self._shift_W3.to(device))
        return rows.view(resized.shape).permute(0, 3, 1, 2)

    def resize(self, images_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to uint8 [B, S, S, 3]."""
        if images_BHWC.shape[1:3] == (self.img_size, self.img_size):
            return images_BHWC
        size = (self.img_size, self.img_size)
        resized = F.interpolate(images_BHWC.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", antialias=True)
        return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


_PIXELS_TOGETHER = 1 << 20  # 1,024 images of 32x32 pixels, 12 MB when normalised


class BatchedPipeline:
    """A policy, then normalisation, on whole batches.

    Called with uint8 images [B, H, W, 3] and a seed; gives float32 [B, 3, S, S], channels last in memory.
    first, of: the images are positions first..first+B-1 of a batch of `of`.
    """

    def __init__(self, policy: Policy, img_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.policy = policy
        self.steps = policy.scaled(img_size)
        self.normalise = EvalTransform(img_size, mean, std)
        self.most_together = _PIXELS_TOGETHER // img_size**2 if self.steps else 1
        """How many images to make at a time: as many as save time and take little memory."""

    def __call__(self, images_BHWC: Tensor, *, seed: int, first: int = 0, of: int | None = None) -> Tensor:
        count = len(images_BHWC)
        return self.together(images_BHWC, [(seed, first, count, count if of is None else of)])

    def together(self, images_BHWC: Tensor, places: Sequence[tuple[int, int, int, int]]) -> Tensor:
        """Several batches, one after another, as each would be made alone: large ones take less time per image.

        places: of each batch (seed, first, count, of), as in a call, and the number of its images given here.
        """
        draws = draw_places(self.steps, [Place(*place) for place in places], self.normalise.img_size)
        return self.normalise(apply(self.normalise.resize(images_BHWC), self.steps, draws))

    def trace(self, images_BHWC: Tensor, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        """What a call does, step by step: after each one the uint8 images, and which of them it fired on.

        Gives one (uint8 [B, S, S, 3], bool [B]) for each step of the policy.
        """
        images = self.normalise.resize(images_BHWC)
        traced = []
        for step, drawn in zip(self.steps, draw(self.steps, len(images), images.shape[1], seed), strict=True):
            images = apply(images, [step], [drawn])
            traced.append((images, drawn.fires_B))
        return traced
