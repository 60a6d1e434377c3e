"""What is done to a training image, as data. The pipelines `batched` and `per_image` carry it out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

REFERENCE_SIZE = 32  # the side, in pixels, that a policy's lengths are written for


@dataclass(frozen=True, kw_only=True, slots=True)
class PadCrop:
    """Pad with zeros to a square of side `padded`, then cut the image's own size out at a random place."""

    padded: int = 36
    p: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class HorizontalFlip:
    """Mirror left and right."""

    p: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, the four in random order.

    brightness, contrast, saturation: the factor is uniform in 1 ± value. hue: the turn is uniform in ± value,
    in whole turns of the colour circle.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.1
    p: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class CoarseDropout:
    """Fill one rectangle, its sides uniform in smallest..largest pixels, anywhere inside the image."""

    smallest: int = 4
    largest: int = 8
    fill: int = 0
    p: float = 0.3


Step = PadCrop | HorizontalFlip | ColorJitter | CoarseDropout


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Steps in order; normalisation always follows them. Lengths are for images of REFERENCE_SIZE pixels."""

    name: str
    summary: str
    steps: tuple[Step, ...]

    def scaled(self, img_size: int) -> tuple[Step, ...]:
        """The steps with their lengths in proportion to `img_size`, rounded to whole pixels."""

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
