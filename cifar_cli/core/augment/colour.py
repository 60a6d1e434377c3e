"""Colour jitter of complete batches, with the levels that albumentations computes for uint8 images.

Brightness, contrast and saturation each blend a level with another one (0, the image's mean grey, the pixel's own
grey), so one formula changes a batch in which each image is at a different one of the three. Hue needs a formula of
its own, which is slow. The images are therefore sorted by how many of the three changes precede their hue. Those
changes are applied first, then hue on all images at once, then the changes that follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from cifar_cli.core.augment.draws import CONTRAST, HUE, LINEAR, SATURATION, Draw, Planned, Size
from cifar_cli.core.augment.opencv import as_tall_image

ONE_BY_ONE_SIDE = 96  # pixels: from this side on, a pass over one image takes longer than the calls for it
_HUES = 180  # steps of the colour circle in OpenCV's uint8 images


def jittered(drawn: Draw, size: Size, *, with_opencv: bool) -> Planned:
    """How to make the images that the step fires on, in the order of `drawn.firing`, each with its own factors.

    What it runs takes all images, uint8 [B, H, W, 3], and returns uint8 [n, H, W, 3].
    with_opencv: use OpenCV where it is faster; it must be able to read the images.
    """
    firing = drawn.firing
    if with_opencv and size[0] >= ONE_BY_ONE_SIDE:
        return Planned([], partial(jittered_one_by_one, drawn=drawn))
    order = drawn.values["order"][firing]
    before_hue = (order == HUE).long().argmax(dim=1)
    by_hue = before_hue.argsort(descending=True)
    ends = [int((before_hue > change).sum()) for change in range(3)]  # images that get this change before their hue
    rows = firing[by_hue]
    kinds = order[by_hue][order[by_hue] != HUE].view(-1, 3)
    factors = torch.stack([drawn.values[name][rows] for name in LINEAR], dim=1).gather(1, kinds)
    shifts = torch.floor(_HUES * drawn.values["hue"][rows]).long()
    # A policy without hue leaves that out: the way through HSV rounds levels.
    run = partial(_jitter, ends=ends, has_hue=bool(drawn.values["hue"].any()), with_opencv=with_opencv)
    return Planned([rows, kinds.t(), factors.t(), shifts, by_hue.argsort()], run)


def _jitter(
    images_BHWC: Tensor,
    rows: Tensor,
    kinds_TB: Tensor,
    factors_TB: Tensor,
    shifts: Tensor,
    back: Tensor,
    *,
    ends: Sequence[int],
    has_hue: bool,
    with_opencv: bool,
) -> Tensor:
    changes = _blends(kinds_TB, factors_TB)
    images = images_BHWC.index_select(0, rows)
    scratch = torch.empty(2, *images.flatten(1).shape, device=images.device)  # one allocation for all changes
    for blend, end in zip(changes, ends, strict=True):
        change(images[:end], scratch, *(each[:end] for each in blend), with_opencv=with_opencv)
    if has_hue:
        images = (shift_hue_by_opencv if with_opencv else shift_hue_by_tensors)(images, shifts)
    for blend, end in zip(changes, ends, strict=True):
        change(images[end:], scratch, *(each[end:] for each in blend), with_opencv=with_opencv)
    return images.index_select(0, back)


def jittered_one_by_one(images_BHWC: Tensor, drawn: Draw) -> Tensor:
    """What `jittered` makes, to the level. Large images are changed one after another while they lie in the cache.

    Brightness and contrast are a table of 256 levels each. Saturation is a blend that OpenCV rounds as `change` does,
    because no factor puts a blend half-way between two levels.
    """
    made = images_BHWC.index_select(0, drawn.firing)
    for place, row in enumerate(drawn.firing.tolist()):
        image = made[place].numpy()
        for kind in drawn.values["order"][row].tolist():
            if kind == HUE:
                if drawn.values["hue"].any():
                    shift = torch.floor(_HUES * drawn.values["hue"][row : row + 1]).long()
                    image = shift_hue_by_opencv(torch.from_numpy(image)[None], shift)[0].numpy()
                continue
            factor = float(drawn.values[LINEAR[kind]][row])
            if kind == SATURATION:
                grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
                image = cv2.addWeighted(image, factor, grey, 1 - factor, 0)
                continue
            added = 0.0
            if kind == CONTRAST:
                grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
                added = int(grey.sum(dtype=np.int64)) / grey.size * (1 - factor)
            levels = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(added)
            image = cv2.LUT(image, levels.clip(0, 255).astype(np.uint8))
        made[place] = torch.from_numpy(image)
    return made


def _blends(kinds_TB: Tensor, factors_TB: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The four weights that `change` takes, for each of the T = 3 changes."""
    saturates = kinds_TB == SATURATION
    of_other = 1 - factors_TB
    of_mean = of_other * (kinds_TB == CONTRAST)
    half = 0.5 * saturates
    return list(zip(factors_TB.float(), (of_other * saturates).float(), of_mean, half.float(), strict=True))


def change(
    images_BHWC: Tensor,
    scratch: Tensor,
    kept_B: Tensor,
    of_grey_B: Tensor,
    of_mean_B: Tensor,
    added_B: Tensor,
    *,
    with_opencv: bool,
) -> None:
    """Set each level, in place, to kept * level + of_grey * its grey + of_mean * the image's mean grey + added.

    Levels are truncated to integers, as albumentations does, except that it rounds after a change of saturation:
    `added` is 0.5 there. albumentations multiplies the mean in float64 and the rest in float32.
    scratch: float32 [2, B or more, H * W * 3].
    """
    if not len(images_BHWC):
        return
    grey = grey_of(images_BHWC, with_opencv=with_opencv)
    mean_B = grey.sum(dim=1, dtype=torch.int32) / torch.tensor(grey.shape[1], dtype=torch.float64)
    added_B = (mean_B * of_mean_B).float().add_(added_B)
    levels, changed = scratch[:, : len(images_BHWC)]
    grey_part = grey.float().mul_(of_grey_B[:, None]).add_(added_B[:, None])
    write_three_times(grey_part, changed, with_opencv=with_opencv)
    flat = images_BHWC.flatten(1)
    changed.addcmul_(levels.copy_(flat), kept_B[:, None]).clamp_(0, 255)
    flat.copy_(changed.to(torch.int16))  # via int16, because the direct conversion to bytes takes six times as long


def grey_of(images_BHWC: Tensor, *, with_opencv: bool) -> Tensor:
    """uint8 [B, H, W, 3] to uint8 [B, H * W]: ITU-R BT.601 in OpenCV's fixed-point weights of 2**-15, rounded."""
    if with_opencv:
        grey = cv2.cvtColor(as_tall_image(images_BHWC), cv2.COLOR_RGB2GRAY)
        return torch.from_numpy(grey).view(len(images_BHWC), -1)
    red, green, blue = images_BHWC.to(torch.int32).unbind(3)
    return ((9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15).to(torch.uint8).flatten(1)


def write_three_times(grey: Tensor, out: Tensor, *, with_opencv: bool) -> None:
    """Write every number of float32 [B, H * W] three times into float32 [B, H * W * 3]."""
    pixels = out.view(len(out), -1, 3)
    if with_opencv:
        cv2.cvtColor(grey.numpy(), cv2.COLOR_GRAY2RGB, dst=pixels.numpy())
    else:
        pixels.copy_(grey[:, :, None])


def shift_hue_by_opencv(images_BHWC: Tensor, steps_B: Tensor) -> Tensor:
    """Shift each image's hue by so many steps, 180 to the circle; uint8 [B, H, W, 3] to the same, on a CPU."""
    if not len(images_BHWC):
        return images_BHWC
    hsv = cv2.cvtColor(as_tall_image(images_BHWC), cv2.COLOR_RGB2HSV)
    rows = torch.from_numpy(hsv).view(*images_BHWC.shape[:2], -1)  # [B, H, W * 3]

    def on_hues(value_B: Tensor | int) -> Tensor:
        row = torch.zeros(len(images_BHWC), 1, images_BHWC.shape[2], 3, dtype=torch.uint8)
        row[..., 0] = value_B if isinstance(value_B, int) else value_B[:, None, None]
        return row.flatten(2)

    steps_B = steps_B.remainder(_HUES)
    rows.add_(on_hues(steps_B + 256 - _HUES))  # bytes wrap, so this is hue + steps - 180
    negative = rows >= on_hues(steps_B)  # a negative result wraps to steps + 76 .. 255
    rows.sub_(negative.view(torch.uint8).mul_(on_hues(256 - _HUES)))
    return torch.from_numpy(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).view(images_BHWC.shape)


def shift_hue_by_tensors(images_BHWC: Tensor, steps_B: Tensor) -> Tensor:
    """The same as `shift_hue_by_opencv` on any device, in the integers that OpenCV uses for uint8 images.

    One step of hue moves a pixel by up to 8 levels, so this has to round where albumentations rounds.
    """
    images = images_BHWC.float()
    red, green, blue = images.unbind(3)
    value, least = images.amax(3), images.amin(3)
    chroma = value - least
    sextants = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)),
    )
    per_level = (180 / 6 * 4096 / chroma.clamp_min(1)).round_()
    hue = sextants.mul_(per_level).add_(2048).mul_(1 / 4096).floor_()
    hue = hue.add_(steps_B.to(hue.device)[:, None, None]).remainder_(_HUES)
    part = hue * (6 / 180)
    part = part.sub_(part.floor())  # position within the sextant, 0..1
    saturation = (255 * 4096 / value.clamp_min(1)).round_().mul_(chroma).add_(2048).mul_(1 / 4096).floor_()
    saturation, value = saturation.mul_(1 / 255), value.mul_(1 / 255)  # OpenCV turns back in floats of 0..1
    channels = []
    for offset in (5, 3, 1):
        away = (hue + 30 * offset).remainder_(180)
        lost = torch.where(away < 30, part, torch.where(away < 90, 1.0, torch.where(away < 120, 1 - part, 0.0)))
        kept = (1 - lost.double().mul_(saturation)).float()  # OpenCV rounds once, in a fused multiply-add
        channels.append(kept.mul_(value).mul_(255))
    return torch.stack(channels, dim=3).to(torch.uint8)
