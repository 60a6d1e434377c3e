"""Augmentation policies as data. The pipelines in `batched` and `per_image` apply them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

REFERENCE_SIZE = 32  # image side in pixels that a policy's lengths refer to


@dataclass(frozen=True, kw_only=True, slots=True)
class PadCrop:
    """Pad with zeros to a square, then crop the original size at a random position."""

    padded: int = 36
    """Side of the padded square, in pixels."""
    p: float = 1.0
    """Probability, here and in every step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HorizontalFlip:
    """Exchange left and right."""

    p: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, in random order."""

    brightness: float = 0.2
    """The factor is uniform in 1 ± this; the same for contrast and saturation."""
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.1
    """The shift is uniform in ± this, as a fraction of the colour circle."""
    p: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class CoarseDropout:
    """Fill one rectangle at a random position inside the image."""

    smallest: int = 4
    """Smallest length of a side, in pixels; sides are uniform in smallest..largest."""
    largest: int = 8
    fill: int = 0
    """The level (0..255) of all three channels."""
    p: float = 0.3


Step = PadCrop | HorizontalFlip | ColorJitter | CoarseDropout


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Steps in order; normalisation always follows. Lengths refer to images of REFERENCE_SIZE pixels."""

    name: str
    summary: str
    steps: tuple[Step, ...]

    def scaled(self, img_size: int) -> tuple[Step, ...]:
        """The steps with their lengths in proportion to `img_size`, rounded to integers."""

        def scale(length: int) -> int:
            return max(1, round(length * img_size / REFERENCE_SIZE))

        def fit(step: Step) -> Step:
            match step:
                case PadCrop():
                    return replace(step, padded=img_size + scale(step.padded - REFERENCE_SIZE))
                case CoarseDropout():
                    largest = min(scale(step.largest), img_size)
                    return replace(step, smallest=min(scale(step.smallest), largest), largest=largest)
            return step

        return tuple(fit(step) for step in self.steps)


NONE = Policy(name="none", summary="normalise only", steps=())
CROP_FLIP = Policy(name="crop-flip", summary="random crop and horizontal flip", steps=(PadCrop(), HorizontalFlip()))
CROP_FLIP_CUTOUT = Policy(
    name="crop-flip-cutout",
    summary="random crop, horizontal flip, and one black square in every image",
    steps=(PadCrop(), HorizontalFlip(), CoarseDropout(smallest=8, largest=8, p=1.0)),
)
COURSE = Policy(
    name="course",
    summary="random crop, horizontal flip, colour jitter, coarse dropout",
    steps=(PadCrop(), HorizontalFlip(), ColorJitter(), CoarseDropout()),
)
POLICIES: dict[str, Policy] = {policy.name: policy for policy in (COURSE, CROP_FLIP, CROP_FLIP_CUTOUT, NONE)}


def policy_of(name: str) -> Policy:
    """Look a policy up. Raises ConfigError for an unknown name."""
    if name not in POLICIES:
        raise ConfigError(f"there is no augmentation policy named {name!r}", remedy=nearest(name, POLICIES))
    return POLICIES[name]
