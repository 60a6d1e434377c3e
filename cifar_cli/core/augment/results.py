"""Results of `cifar augment-preview`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
from cifar_cli.core.notebook import NotebookView


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult(NotebookView):
    """One step of a policy, measured on a sample of images."""

    name: str
    probability: float
    """As declared, 0..1."""
    parameters: dict[str, Any]
    """As declared, by name; lengths in pixels of the images at hand."""
    fired: int
    """Images that the step was applied to."""
    sample_images: int
    """Images in the sample."""
    mean_change_levels: float | None
    """Mean absolute change of a pixel level (0..255) on the images where the step fired; None if there are none."""

    @property
    def fired_fraction(self) -> float:
        """Measured counterpart of `probability`."""
        return self.fired / self.sample_images

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "fired_fraction": self.fired_fraction}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class PreviewResult:
    """A grid of images and the steps that made it."""

    grid_RCHWC: Tensor
    """uint8 [rows, columns, S, S, 3]; column 0 has the originals."""
    changed_RC: Tensor
    """bool; False where a step did not fire, so that its column repeats the previous one."""
    row_names: tuple[str, ...]
    """Class names."""
    column_names: tuple[str, ...]
    steps: tuple[StepResult, ...]
    shows_steps: bool
    """Whether the columns are steps instead of variants."""
    pipeline: str
    policy: str
    seed: int

    def to_dict(self, *, dataset: str, picture: Path) -> dict[str, Any]:
        """Plain values, without the pixels. dataset: the name of the images' dataset. picture: the grid's PNG file."""
        return {
            "dataset": dataset,
            "picture": str(picture),
            "policy": self.policy,
            "pipeline": self.pipeline,
            "seed": self.seed,
            "rows": list(self.row_names),
            "columns": list(self.column_names),
            "steps": [step.to_dict() for step in self.steps],
        }
