"""Config of `cifar augment-preview`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cifar_cli.core.augment.policy import policy_of, require_pipeline
from cifar_cli.core.choices import PipelineName, require_at_least, require_choice
from cifar_cli.errors import ConfigError

MIN_SIDE, MAX_SIDE = 8, 1024  # pixels of an image in a picture
MAX_IMAGES = 64  # rows or columns of a picture; more would be too small to see


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewConfig:
    """A picture and a table of what an augmentation policy does. Raises ConfigError for an invalid value."""

    images: int = 8
    """Rows of the picture."""
    variants: int = 8
    """Columns with augmented variants."""
    steps: bool = False
    """Show one column for each step of the policy instead of variants."""
    pipeline: str | None = None
    """A `PipelineName`; None is batched, or albumentations if `augment_file` is given."""
    policy: str = "course"
    """Name of a built-in policy."""
    augment_file: Path | None = None
    """A policy file written by albumentations' `A.save`, used instead of `policy`."""
    img_size: int | None = None
    """Side in pixels that images are resized to first, as in training; None keeps the dataset's."""
    seed: int = 42

    def __post_init__(self) -> None:
        for flag, count in (("--images", self.images), ("--variants", self.variants)):
            if not 1 <= count <= MAX_IMAGES:
                raise ConfigError(f"{flag} {count} is not between 1 and {MAX_IMAGES}", remedy=f"pass {flag} 8")
        if self.pipeline is not None:
            require_choice("--pipeline", self.pipeline, PipelineName)
        if self.augment_file is not None and self.pipeline == "batched":
            raise ConfigError(
                "--augment takes an albumentations policy, which the batched pipeline can't apply",
                remedy="add --pipeline albumentations",
            )
        if self.img_size is not None and not MIN_SIDE <= self.img_size <= MAX_SIDE:
            raise ConfigError(
                f"--img-size {self.img_size} is not between {MIN_SIDE} and {MAX_SIDE}", remedy="pass --img-size 224"
            )
        require_at_least("--seed", self.seed, 0, example=42)
        policy = policy_of(self.policy)
        if self.augment_file is None:
            require_pipeline(policy, self.pipeline_name)

    @property
    def pipeline_name(self) -> str:
        """The pipeline, with its default filled in."""
        return self.pipeline or ("albumentations" if self.augment_file else "batched")

    @property
    def policy_name(self) -> str:
        """Name of the built-in policy, or of the policy file."""
        return self.augment_file.name if self.augment_file else self.policy
