"""The batched pipeline: applies a policy to complete batches, on the device that holds the images.

Every image gets its own random parameters (see `draws`). They are applied by albumentations' rules for uint8
images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_cli.core.augment.colour import jittered
from cifar_cli.core.augment.draws import Draw, Planned, Size, crop_boxes, draw
from cifar_cli.core.augment.opencv import mirrored, opencv_can_read
from cifar_cli.core.augment.policy import (
    AlternatingFlip,
    CoarseDropout,
    ColorJitter,
    HorizontalFlip,
    PadCrop,
    Policy,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Step,
)
from cifar_cli.core.augment.rand_augment import rand_augment
from cifar_cli.core.transform import BatchSlice
from cifar_cli.core.upload import uploaded


def pad_crop(step: PadCrop, drawn: Draw, size: Size, device: torch.device) -> Planned:
    """Shift each image by its own offsets, filling with the step's border; uint8 [B, H, W, C] to the same."""
    side, room = step.padded, step.padded - size[0]
    top, left = (torch.where(drawn.fires_B, drawn.values[name], room // 2) for name in ("top", "left"))
    windows_B = (torch.arange(len(drawn.fires_B)) * side + top) * side + left
    return Planned([windows_B], partial(_shifted, step=step))


def _shifted(images_BHWC: Tensor, windows_B: Tensor, *, step: PadCrop) -> Tensor:
    count, size, _, channels = images_BHWC.shape
    room = step.padded - size
    before = room // 2
    if step.border == "zeros":
        padded = F.pad(images_BHWC, (0, 0, before, room - before, before, room - before))
    else:
        padded = _mirrored_border(images_BHWC, before, room - before)
    # All windows of all images as one overlapping view: selecting from it copies long runs of memory.
    side, row = step.padded, step.padded * channels
    starts = ((count - 1) * side + room) * side + room + 1 if count else 0
    windows = padded.as_strided((starts, size, size * channels), (channels, row, 1))
    return windows.index_select(0, windows_B).view(images_BHWC.shape)


def random_resized_crop(step: RandomResizedCrop, drawn: Draw, size: Size, device: torch.device) -> Planned:
    """Cut a rectangle out of each image and scale it; uint8 [B, H, W, C] to [B, S, S, C], S the step's side."""
    sizes = (torch.full((len(drawn.fires_B),), length) for length in size)
    return Planned([crop_boxes(step, drawn, *sizes)], partial(resized_crops, side=step.side))


def resized_crops(images_BHWC: Tensor, boxes_B4: Tensor, side: int) -> Tensor:
    """A box of each image (top, left, height, width), scaled by antialiased bilinear interpolation.

    Every image has its own box, so the interpolation is a product with two matrices of each image's own.
    """
    top, left, height, width = boxes_B4.unbind(1)
    rows_BSH = _weights(top, height, images_BHWC.shape[1], side)
    columns_BSW = _weights(left, width, images_BHWC.shape[2], side)
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
    scaled = rows_BSH[:, None] @ images_BCHW @ columns_BSW[:, None].transpose(2, 3)
    return scaled.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _weights(start_B: Tensor, length_B: Tensor, size: int, side: int) -> Tensor:
    """How much each of `size` pixels in a line counts in each of `side` pixels that `length` of them become.

    The triangle filter of Pillow and torch: as wide as a pixel of the result, but at least as one of the image.
    Returns float32 [B, side, size].
    """
    device = start_B.device
    scale_B11 = (length_B.double() / side)[:, None, None]
    centre_BS1 = start_B[:, None, None] + (torch.arange(side, device=device)[:, None] + 0.5) * scale_B11
    place_W = torch.arange(size, device=device)
    weights = (1 - (place_W + 0.5 - centre_BS1).abs() / scale_B11.clamp(min=1)).clamp_(min=0)
    inside = (place_W >= start_B[:, None]) & (place_W < (start_B + length_B)[:, None])
    weights *= inside[:, None]
    return (weights / weights.sum(dim=2, keepdim=True)).float()


def _mirrored_border(images_BHWC: Tensor, before: int, after: int) -> Tensor:
    """Pad all four sides with the pixels next to the edge pixels; torch's own padding doesn't take uint8."""
    size = images_BHWC.shape[1]
    period = max(2 * (size - 1), 1)
    place = torch.arange(-before, size + after, device=images_BHWC.device) % period
    place = torch.minimum(place, period - place).clamp_(max=size - 1)
    return images_BHWC.index_select(1, place).index_select(2, place)


def horizontal_flip(step: HorizontalFlip | AlternatingFlip, drawn: Draw, size: Size, device: torch.device) -> Planned:
    """Mirror the images that the step fires on."""

    def flip(images_BHWC: Tensor, firing: Tensor, source_B: Tensor) -> Tensor:
        return _replaced(images_BHWC, mirrored(images_BHWC.index_select(0, firing)), source_B)

    return Planned([drawn.firing, _source(drawn)], flip)


def color_jitter(step: ColorJitter, drawn: Draw, size: Size, device: torch.device) -> Planned:
    """Jitter the images that the step fires on, each with its own factors in its own order."""
    needs, jitter = jittered(drawn, size, with_opencv=opencv_can_read(device))

    def change(images_BHWC: Tensor, source_B: Tensor, *needed: Tensor) -> Tensor:
        return _replaced(images_BHWC, jitter(images_BHWC, *needed), source_B)

    return Planned([_source(drawn), *needs], change)


def coarse_dropout(step: CoarseDropout | RandomErasing, drawn: Draw, size: Size, device: torch.device) -> Planned:
    """Fill one rectangle of each image that the step fires on."""
    top, left, height, width = (drawn.values[name][drawn.firing, None] for name in ("top", "left", "height", "width"))
    side = torch.arange(size[0])
    outside_rows = (side < top) | (side >= top + height)
    outside_columns = (side < left) | (side >= left + width)
    # Masks of 0xFF bytes where a pixel is kept, because bitwise operations on bytes are vectorised.
    masks = [-each.to(torch.uint8) for each in (outside_rows, outside_columns)]

    def drop(images_BHWC: Tensor, firing: Tensor, source_B: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        columns = columns.repeat_interleave(images_BHWC.shape[3], dim=1)
        kept = rows[:, :, None] | columns[:, None, :]
        picked = images_BHWC.index_select(0, firing)
        holed = picked.flatten(2).bitwise_and_(kept)
        if step.fill:
            holed.bitwise_or_(kept.bitwise_not_().bitwise_and_(step.fill))
        return _replaced(images_BHWC, holed.view(picked.shape), source_B)

    return Planned([drawn.firing, _source(drawn), *masks], drop)


def _source(drawn: Draw) -> Tensor:
    """Where each image comes from once the changed ones are put behind all of them; int64 [B]."""
    count, firing = len(drawn.fires_B), drawn.firing
    source_B = torch.arange(count)
    source_B[firing] = torch.arange(count, count + len(firing))
    return source_B


def _replaced(images_BHWC: Tensor, new_BHWC: Tensor, source_B: Tensor) -> Tensor:
    """A copy of the images with the changed ones in place; one index_select over both is the fastest way."""
    return torch.cat([images_BHWC, new_BHWC]).index_select(0, source_B)


_PLANNERS: dict[type[Step], Callable[..., Planned]] = {
    PadCrop: pad_crop,
    HorizontalFlip: horizontal_flip,
    AlternatingFlip: horizontal_flip,
    ColorJitter: color_jitter,
    CoarseDropout: coarse_dropout,
    RandAugment: rand_augment,
    RandomErasing: coarse_dropout,
    RandomResizedCrop: random_resized_crop,
}


def apply(images_BHWC: Tensor, steps: Sequence[Step], draws: Sequence[Draw]) -> Tensor:
    """Apply the steps with the drawn parameters; uint8 [B, H, W, 3] to the same.

    What all steps need of the draws goes to the images' device in one upload.
    """
    device, size = images_BHWC.device, (images_BHWC.shape[1], images_BHWC.shape[2])
    plans = []
    for step, drawn in zip(steps, draws, strict=True):
        plans.append(_PLANNERS[type(step)](step, drawn, size, device))
        if isinstance(step, RandomResizedCrop):
            size = (step.side, step.side)
    needed = iter(uploaded([tensor for plan in plans for tensor in plan.needs], device))
    for plan in plans:
        images_BHWC = plan.run(images_BHWC, *islice(needed, len(plan.needs)))
    return images_BHWC


_CACHED_VALUES = 1 << 18  # 1 MB of float32


class EvalTransform:
    """Resize (bilinear) where the images have another size, then normalise. Never random.

    mean, std: per channel, of values scaled to 0..1. Returns float32 [B, 3, S, S], channels last in memory.
    """

    images_per_call = 1

    def __init__(self, img_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.img_size = img_size
        self._at_once = max(1, _CACHED_VALUES // (3 * img_size**2))
        # One image row instead of one pixel, because a vector of three numbers leaves SIMD lanes unused.
        self._scale_W3 = (1 / (255 * torch.tensor(std, dtype=torch.float32))).repeat(img_size)
        self._shift_W3 = -255 * torch.tensor(mean, dtype=torch.float32).repeat(img_size) * self._scale_W3
        self._levels: dict[torch.device, list[Tensor]] = {}  # both, on each device that images were on

    def __call__(self, images_BHWC: Tensor, slices: Sequence[BatchSlice] = ()) -> Tensor:
        device = images_BHWC.device
        resized = self.resize(images_BHWC)
        # Two operations instead of a fused one, which rounds once or twice depending on a pixel's memory address.
        rows_BHW3 = resized.flatten(2)
        normalised = torch.empty(rows_BHW3.shape, dtype=torch.float32, device=device)
        if device not in self._levels:
            self._levels[device] = uploaded([self._scale_W3, self._shift_W3], device)
        scale_W3, shift_W3 = self._levels[device]
        # So many images at a time as stay in a core's cache between the operations.
        at_once = self._at_once if device.type == "cpu" else len(rows_BHW3)
        for part, result in zip(torch.split(rows_BHW3, at_once), torch.split(normalised, at_once), strict=True):
            result.copy_(part).mul_(scale_W3).add_(shift_W3)
        return normalised.view(resized.shape).permute(0, 3, 1, 2)

    def resize(self, images_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to uint8 [B, S, S, 3]."""
        size = (self.img_size, self.img_size)
        if images_BHWC.shape[1:3] == size:
            return images_BHWC
        resized = F.interpolate(images_BHWC.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", antialias=True)
        return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


CPU = torch.device("cpu")
# 1,024 images of 32x32 pixels, 12 MB when normalised. On a GPU starting an operation takes as long as computing it for
# so few images, so there it is four times as many.
_PIXELS_PER_CALL, _PIXELS_PER_CALL_ON_GPU = 1 << 20, 1 << 22


class BatchedPipeline:
    """A `Transform` that applies a policy, then normalises, to complete batches.

    cropped: images come with the policy's random resized crop applied, from a loader that decodes the boxes only.
    device: of the images; it decides how many are transformed in a call.
    Returns float32 [B, 3, S, S], channels last in memory.
    """

    def __init__(
        self,
        policy: Policy,
        img_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        cropped: bool = False,
        device: torch.device = CPU,
    ) -> None:
        self.policy = policy
        self.steps = policy.scaled(img_size)
        assert not any(isinstance(step, RandomResizedCrop) for step in self.steps[1:])
        self.crop = next((step for step in self.steps[:1] if isinstance(step, RandomResizedCrop)), None)
        self.cropped = cropped
        self.normalise = EvalTransform(img_size, mean, std)
        # Large calls take less time per image; without steps there is nothing to save.
        pixels = _PIXELS_PER_CALL if device.type == "cpu" else _PIXELS_PER_CALL_ON_GPU
        self.images_per_call = pixels // img_size**2 if self.steps else 1

    def __call__(self, images_BHWC: Tensor, slices: Sequence[BatchSlice]) -> Tensor:
        return self.normalise(self.augmented(images_BHWC, slices))

    def augmented(self, images_BHWC: Tensor, slices: Sequence[BatchSlice]) -> Tensor:
        """The images before they are normalised, uint8 [B, S, S, 3]."""
        if not self.steps:
            return self.normalise.resize(images_BHWC)
        steps, draws = self.steps, draw(self.steps, slices, self.normalise.img_size)
        if self.crop is not None and self.cropped:
            steps, draws = steps[1:], draws[1:]
        elif self.crop is None:
            images_BHWC = self.normalise.resize(images_BHWC)
        return apply(images_BHWC, steps, draws)

    def boxes(self, height_B: Tensor, width_B: Tensor, slices: Sequence[BatchSlice]) -> Tensor | None:
        """The random resized crops of images of these sizes, int64 [B, 4]; None for a policy without one."""
        if self.crop is None:
            return None
        return crop_boxes(self.crop, draw(self.steps, slices, self.normalise.img_size)[0], height_B, width_B)

    def trace(self, images_BHWC: Tensor, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        """Apply the policy step by step to one batch.

        Returns, for each step, the images after it (uint8 [B, S, S, 3]) and which images it fired on (bool [B]).
        """
        images = self.normalise.resize(images_BHWC)
        batch = [BatchSlice.complete(seed=seed, count=len(images))]
        traced = []
        for step, drawn in zip(self.steps, draw(self.steps, batch, images.shape[1]), strict=True):
            images = apply(images, [step], [drawn])
            traced.append((images, drawn.fires_B))
        return traced
