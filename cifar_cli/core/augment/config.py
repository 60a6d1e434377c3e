"""What a preview is asked to show, and what it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cifar_cli.core.augment.policy import policy_of
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

PIPELINES = ("batched", "albumentations")
MOST = 64  # images or variants in one picture; more can't be told apart


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewConfig:
    """A picture of an augmentation at work.

    images: rows. variants: augmented columns. steps: one column for each step of the policy instead. policy: a
    declared one; augment_file: one that `A.save` wrote, instead. pipeline: None is batched, or albumentations where
    a file asks for it. Raises ConfigError for a value that is not offered.
    """

    images: int = 8
    variants: int = 8
    steps: bool = False
    pipeline: str | None = None
    policy: str = "course"
    augment_file: Path | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        for flag, count in (("--images", self.images), ("--variants", self.variants)):
            if not 1 <= count <= MOST:
                raise ConfigError(f"{flag} {count} is not between 1 and {MOST}", remedy=f"pass {flag} 8")
        if self.pipeline is not None and self.pipeline not in PIPELINES:
            raise ConfigError(f"--pipeline {self.pipeline} is not offered", remedy=nearest(self.pipeline, PIPELINES))
        if self.augment_file is not None and self.pipeline == "batched":
            raise ConfigError(
                "--augment names an albumentations policy, which the batched pipeline can't carry out",
                remedy="add --pipeline albumentations",
            )
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} is negative", remedy="pass 0 or more")
        policy_of(self.policy)

    @property
    def carried_out_by(self) -> str:
        """The pipeline, with its default filled in."""
        return self.pipeline or ("albumentations" if self.augment_file else "batched")

    @property
    def policy_name(self) -> str:
        """What the policy is called: its own name, or its file's."""
        return self.augment_file.name if self.augment_file else self.policy


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One step of a policy, as seen in a sample of images.

    probability: as declared, 0..1. parameters: by name, as declared, lengths in pixels of the images at hand.
    fired, sample_images: on how many of how many images the step was done. mean_change_levels: mean absolute change
    of a pixel's value (0..255) on those images, None where there were none.
    """

    name: str
    probability: float
    parameters: dict[str, Any]
    fired: int
    sample_images: int
    mean_change_levels: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
