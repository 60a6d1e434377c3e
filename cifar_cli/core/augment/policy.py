"""Augmentation policies as data. The pipelines in `batched` and `per_image` apply them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

REFERENCE_SIZE = 32  # image side in pixels that a policy's lengths refer to


@dataclass(frozen=True, kw_only=True, slots=True)
class PadCrop:
    """Pad to a square, then crop the original size at a random position."""

    padded: int = 36
    """Side of the padded square, in pixels."""
    border: Literal["zeros", "reflect"] = "zeros"
    """What the padding is filled with; "reflect" mirrors the image at its edge pixels."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class AlternatingFlip:
    """Exchange left and right of every image in every other epoch; in which epochs, the seed decides for each image.

    Source: Jordan 2024 (arXiv 2404.00498), section 3.6.
    """

    p: ClassVar[float] = 0.5
    """Share of the images that are flipped in an epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RandAugment:
    """Apply a few random operations of equal strength, such as rotation, shear, solarisation or equalisation.

    Source: Cubuk et al. 2019, RandAugment, with the operations and magnitudes of torchvision's v2.RandAugment.
    """

    operations: int = 2
    """Applied to each image, one after another."""
    magnitude: int = 9
    """Strength of the operations, 0..30."""
    p: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomErasing:
    """Fill one rectangle of random area and shape.

    Source: Zhong et al. 2017, Random Erasing, with the draws of torchvision's v2.RandomErasing.
    """

    smallest: float = 0.02
    """Smallest area as a share of the image's; the area is uniform in smallest..largest."""
    largest: float = 0.33
    steepest: float = 3.3
    """Height by width is at most this, and at least its inverse; its logarithm is uniform."""
    fill: int = 0
    """The level (0..255) of all three channels."""
    p: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomResizedCrop:
    """Cut out a rectangle of random area and shape, and scale it to a square. It is a policy's first step, if any.

    Source: Szegedy et al. 2015, Going deeper with convolutions, section 6, with the draws of torchvision's
    v2.RandomResizedCrop.
    """

    smallest: float = 0.35
    """Smallest area as a share of the image's; the area is uniform in smallest..1."""
    widest: float = 4 / 3
    """Width by height is at most this, and at least its inverse; its logarithm is uniform."""
    side: int = REFERENCE_SIZE
    """Side of the result, in pixels."""
    p: ClassVar[float] = 1.0


Step = (
    PadCrop
    | HorizontalFlip
    | AlternatingFlip
    | ColorJitter
    | CoarseDropout
    | RandAugment
    | RandomErasing
    | RandomResizedCrop
)
_ONLY_BATCHED = (AlternatingFlip, RandAugment, RandomErasing, RandomResizedCrop)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Mix each image and its label with the one before it in the batch, and the first with the last.

    kind "mixup" blends the images (Zhang et al. 2017), "cutmix" replaces a rectangle (Yun et al. 2019). One share is
    drawn for a batch from Beta(alpha, alpha), as torchvision's v2.MixUp and v2.CutMix do.
    """

    kind: Literal["mixup", "cutmix"]
    alpha: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Steps in order; normalisation always follows. Lengths refer to images of REFERENCE_SIZE pixels."""

    name: str
    summary: str
    steps: tuple[Step, ...]
    mix: Mix | None = None
    """Applied after normalisation."""

    @property
    def needs_batches(self) -> bool:
        """Whether only the batched pipeline can apply it."""
        return self.mix is not None or any(isinstance(step, _ONLY_BATCHED) for step in self.steps)

    def scaled(self, img_size: int) -> tuple[Step, ...]:
        """The steps with their lengths in proportion to `img_size`, rounded to integers."""

        def scale(length: int) -> int:
            return max(1, round(length * img_size / REFERENCE_SIZE))

        def fit(step: Step) -> Step:
            match step:
                case PadCrop():
                    return replace(step, padded=img_size + scale(step.padded - REFERENCE_SIZE))
                case RandomResizedCrop():
                    return replace(step, side=img_size)
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
TRANSLATE_ALTERNATE = Policy(
    name="translate-alternate",
    summary="translation by up to two pixels over a mirrored border, and a flip in every other epoch",
    steps=(PadCrop(border="reflect"), AlternatingFlip()),
)
TRANSLATE_ALTERNATE_CUTOUT = replace(
    TRANSLATE_ALTERNATE,
    name="translate-alternate-cutout",
    summary=f"{TRANSLATE_ALTERNATE.summary}; one black square in every image",
    steps=(*TRANSLATE_ALTERNATE.steps, CoarseDropout(smallest=8, largest=8, p=1.0)),
)
MIXUP = replace(
    CROP_FLIP,
    name="mixup",
    summary="random crop, horizontal flip, blended pairs of images",
    mix=Mix(kind="mixup", alpha=0.2),
)
CUTMIX = replace(
    CROP_FLIP,
    name="cutmix",
    summary="random crop, horizontal flip, a rectangle from another image",
    mix=Mix(kind="cutmix", alpha=1.0),
)
RANDAUGMENT = replace(
    CROP_FLIP,
    name="randaugment",
    summary="random crop, horizontal flip, two random operations",
    steps=(*CROP_FLIP.steps, RandAugment()),
)
ERASING = replace(
    CROP_FLIP,
    name="erasing",
    summary="random crop, horizontal flip, one black rectangle in half of the images",
    steps=(*CROP_FLIP.steps, RandomErasing()),
)
# The smallest area is that of fastai's Imagenette recipe: a model that has seen much smaller ones during pretraining is
# tuned to objects of the size that evaluation shows (Touvron et al. 2019, arXiv 1906.06423). The jitter is a half of
# timm's default for ImageNet (0.4), and leaves hue alone as that does.
PHOTO = Policy(
    name="photo",
    summary="random resized crop, horizontal flip, mild colour jitter",
    steps=(RandomResizedCrop(), HorizontalFlip(), ColorJitter(hue=0.0)),
)
POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        *(COURSE, CROP_FLIP, CROP_FLIP_CUTOUT, TRANSLATE_ALTERNATE, TRANSLATE_ALTERNATE_CUTOUT),
        *(MIXUP, CUTMIX, RANDAUGMENT, ERASING, PHOTO, NONE),
    )
}


def require_pipeline(policy: Policy, pipeline: str) -> None:
    """Raise ConfigError for a policy that this pipeline can't apply."""
    if policy.needs_batches and pipeline != "batched":
        raise ConfigError(
            f"--policy {policy.name} works on complete batches, which --pipeline {pipeline} doesn't see",
            remedy="pass --pipeline batched, or another --policy",
        )


def policy_of(name: str) -> Policy:
    """Look a policy up. Raises ConfigError for an unknown name."""
    if name not in POLICIES:
        raise ConfigError(f"there is no augmentation policy named {name!r}", remedy=nearest(name, POLICIES))
    return POLICIES[name]
