"""A policy carried out on whole batches, on the device the images lie on.

Every image gets its own random parameters. They are drawn on the CPU from the seed alone, so they are the
same on every device; what is done with them follows albumentations' rules for uint8 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_cli.core.augment.policy import CoarseDropout, ColorJitter, HorizontalFlip, PadCrop, Policy, Step


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Draw:
    """What was drawn for one step, one row per image.

    fires_B: bool, whether the step is done. values: what the step needs, by name.
    """

    fires_B: Tensor
    values: dict[str, Tensor]

    def rows(self, first: int, count: int) -> Draw:
        part = slice(first, first + count)
        return Draw(fires_B=self.fires_B[part], values={name: value[part] for name, value in self.values.items()})

    def to(self, device: torch.device) -> Draw:
        moved = {name: value.to(device, non_blocking=True) for name, value in self.values.items()}
        return Draw(fires_B=self.fires_B.to(device, non_blocking=True), values=moved)


def _integers(u_B: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """Uniform integers low..high, both included, from uniform floats in 0..1."""
    return (low + torch.floor(u_B * (high - low + 1)).long()).clamp_(max=high)


def draw(steps: Sequence[Step], count: int, img_size: int, seed: int) -> list[Draw]:
    """Draw the parameters of every step for `count` images; a function of the arguments alone."""
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    draws = []
    for step in steps:
        fires = uniform() < step.p
        values: dict[str, Tensor] = {}
        match step:
            case PadCrop():
                room = step.padded - img_size
                values = {"top": _integers(uniform(), 0, room), "left": _integers(uniform(), 0, room)}
            case ColorJitter():
                for name in ("brightness", "contrast", "saturation"):
                    reach = getattr(step, name)
                    low = max(0.0, 1.0 - reach)
                    values[name] = low + uniform() * (1.0 + reach - low)
                values["hue"] = (uniform() * 2 - 1) * step.hue
                values["order"] = torch.rand(count, 4, generator=generator).argsort(dim=1)
            case CoarseDropout():
                height = _integers(uniform(), step.smallest, step.largest)
                width = _integers(uniform(), step.smallest, step.largest)
                values = {"height": height, "width": width}
                values["top"] = _integers(uniform(), torch.zeros_like(height), img_size - height)
                values["left"] = _integers(uniform(), torch.zeros_like(width), img_size - width)
        draws.append(Draw(fires_B=fires, values=values))
    return draws


def pad_crop(images_BHWC: Tensor, step: PadCrop, drawn: Draw) -> Tensor:
    """Shift each image by its own offsets, filling with zeros."""
    count, size, _, channels = images_BHWC.shape
    room = step.padded - size
    before = room // 2
    top, left = (torch.where(drawn.fires_B, drawn.values[side], before) for side in ("top", "left"))
    padded = F.pad(images_BHWC, (0, 0, before, room - before, before, room - before))
    # All windows of all images as one view, so that picking copies whole rows of pixels instead of single ones.
    windows = padded.flatten(2).unfold(1, size, 1).unfold(2, size * channels, channels)
    picked = windows[torch.arange(count, device=images_BHWC.device), top, left]
    return picked.reshape(count, size, size, channels)


def horizontal_flip(images_BHWC: Tensor, step: HorizontalFlip, drawn: Draw) -> Tensor:
    """Mirror the images that fire."""
    firing = drawn.fires_B.nonzero().squeeze(1)
    return _replaced(images_BHWC, firing, images_BHWC.index_select(0, firing).flip(2))


def coarse_dropout(images_BHWC: Tensor, step: CoarseDropout, drawn: Draw) -> Tensor:
    """Fill each firing image's rectangle."""
    firing = drawn.fires_B.nonzero().squeeze(1)
    top, left, height, width = (drawn.values[name][firing, None] for name in ("top", "left", "height", "width"))
    side = torch.arange(images_BHWC.shape[1], device=images_BHWC.device)
    inside_rows = (side >= top) & (side < top + height)
    inside_columns = (side >= left) & (side < left + width)
    hole = inside_rows[:, :, None] & inside_columns[:, None, :]
    return _replaced(images_BHWC, firing, images_BHWC.index_select(0, firing).masked_fill_(hole[..., None], step.fill))


def _replaced(images_BHWC: Tensor, rows: Tensor, new_BHWC: Tensor) -> Tensor:
    """A copy of the images with some of them replaced."""
    images_BHWC = images_BHWC.clone()
    images_BHWC[rows] = new_BHWC
    return images_BHWC


def color_jitter(images_BHWC: Tensor, step: ColorJitter, drawn: Draw) -> Tensor:
    """Jitter the images that fire, each with its own factors in its own order."""
    firing = drawn.fires_B.nonzero().squeeze(1)
    order = drawn.values["order"][firing]
    factors = torch.stack([drawn.values[name][firing] for name in (*_LINEAR, "hue")], dim=1)
    images = (
        images_BHWC.index_select(0, firing).permute(0, 3, 1, 2).float().contiguous()
    )  # planes, because colours are mixed
    for place in range(4):
        which = order[:, place]
        _change_linearly(images, which, factors.gather(1, which[:, None])[:, 0])
        turned = (which == _HUE).nonzero().squeeze(1)
        turn_hue = turn_hue_by_opencv if images.device.type == "cpu" else turn_hue_by_tensors
        images[turned] = turn_hue(images.index_select(0, turned), factors[turned, _HUE, None, None].float())
    return _replaced(images_BHWC, firing, images.permute(0, 2, 3, 1).to(torch.uint8))


_LINEAR = ("brightness", "contrast", "saturation")  # in the numbers that `order` knows them by
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


def _change_linearly(images_BCHW: Tensor, which_B: Tensor, factor_B: Tensor) -> None:
    """Change each image's brightness, contrast or saturation (or nothing, if it is hue's turn) in place.

    All three are a blend of the image and another one: black, its mean grey, or its own grey version. Levels are cut
    off to whole ones, but rounded after a change of saturation, as albumentations does.
    """
    red, green, blue = images_BCHW.unbind(1)
    # ITU-R BT.601 in OpenCV's whole numbers, 2**15 parts, rounded
    grey = (9798.0 * red).add_(green, alpha=19235.0).add_(blue, alpha=3735.0).add_(2.0**14).mul_(2.0**-15).floor_()
    saturation = which_B == _SATURATION
    kept = torch.where(which_B == _HUE, 1.0, factor_B).float()
    of_grey = torch.where(saturation, 1 - factor_B, 0.0).float()
    added = torch.where(which_B == _CONTRAST, (1 - factor_B) * grey.mean(dim=(1, 2)), 0.5 * saturation).float()
    other = grey.mul_(of_grey[:, None, None]).add_(added[:, None, None])
    images_BCHW.mul_(kept[:, None, None, None]).add_(other[:, None]).floor_().clamp_(0, 255)


def turn_hue_by_opencv(images_BCHW: Tensor, turn: Tensor) -> Tensor:
    """What `turn_hue_by_tensors` does, faster on a CPU: all images go through OpenCV as one tall one."""
    count, channels, height, width = images_BCHW.shape
    if not count:
        return images_BCHW
    tall = images_BCHW.permute(0, 2, 3, 1).to(torch.uint8).reshape(count * height, width, channels)
    hsv = torch.from_numpy(cv2.cvtColor(tall.numpy(), cv2.COLOR_RGB2HSV)).view(count, height, width, channels)
    hsv[..., 0] = (hsv[..., 0] + 180 * turn).remainder_(180)
    back = torch.from_numpy(cv2.cvtColor(hsv.view(tall.shape).numpy(), cv2.COLOR_HSV2RGB))
    return back.view(hsv.shape).permute(0, 3, 1, 2).float()


def turn_hue_by_tensors(images_BCHW: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by `turn` circles, in the whole numbers (180 to the circle) that OpenCV calculates uint8 images in.

    One step of hue moves a pixel by up to 8 levels, so a result near albumentations' has to round where it rounds.
    """
    red, green, blue = images_BCHW.unbind(1)
    value, least = images_BCHW.amax(1), images_BCHW.amin(1)
    chroma = value - least
    sextants = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)),
    )
    per_level = (180 / 6 * 4096 / chroma.clamp_min(1)).round_()
    hue = sextants.mul_(per_level).add_(2048).mul_(1 / 4096).floor_()
    hue = hue.add_(180 * turn).remainder_(180).floor_()
    part = hue * (6 / 180)
    part = part.sub_(part.floor())  # of the way through the sextant
    saturation = (255 * 4096 / value.clamp_min(1)).round_().mul_(chroma).add_(2048).mul_(1 / 4096).floor_()
    saturation, value = saturation.mul_(1 / 255), value.mul_(1 / 255)  # OpenCV turns back in floats of 0..1
    channels = []
    for offset in (5, 3, 1):
        away = (hue + 30 * offset).remainder_(180)
        lost = torch.where(away < 30, part, torch.where(away < 90, 1.0, torch.where(away < 120, 1 - part, 0.0)))
        kept = (1 - lost.double().mul_(saturation)).float()  # OpenCV rounds once, in a fused multiply-add
        channels.append(kept.mul_(value).mul_(255))
    return torch.stack(channels, dim=1).floor_()


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
        rows = resized.flatten(2).to(torch.float32)
        rows = rows.mul_(self._scale_W3.to(device)).add_(self._shift_W3.to(device))
        return rows.view(resized.shape).permute(0, 3, 1, 2)

    def resize(self, images_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to uint8 [B, S, S, 3]."""
        if images_BHWC.shape[1:3] == (self.img_size, self.img_size):
            return images_BHWC
        size = (self.img_size, self.img_size)
        resized = F.interpolate(images_BHWC.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", antialias=True)
        return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class BatchedPipeline:
    """A policy, then normalisation, on whole batches.

    Called with uint8 images [B, H, W, 3] and a seed; gives float32 [B, 3, S, S], channels last in memory.
    first, of: the images are positions first..first+B-1 of a batch of `of`.
    """

    def __init__(self, policy: Policy, img_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.policy = policy
        self.steps = policy.scaled(img_size)
        self.normalise = EvalTransform(img_size, mean, std)

    def __call__(self, images_BHWC: Tensor, *, seed: int, first: int = 0, of: int | None = None) -> Tensor:
        count = len(images_BHWC)
        draws = draw(self.steps, of if of is not None else count, self.normalise.img_size, seed)
        draws = [drawn.rows(first, count).to(images_BHWC.device) for drawn in draws]
        return self.normalise(apply(self.normalise.resize(images_BHWC), self.steps, draws))

    def trace(self, images_BHWC: Tensor, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        """What a call does, step by step: after each one the uint8 images, and which of them it fired on.

        Gives one (uint8 [B, S, S, 3], bool [B]) for each step of the policy.
        """
        images = self.normalise.resize(images_BHWC)
        traced = []
        for step, drawn in zip(self.steps, draw(self.steps, len(images), images.shape[1], seed), strict=True):
            images = apply(images, [step], [drawn.to(images.device)])
            traced.append((images, drawn.fires_B))
        return traced
