"""Config of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cifar_cli.core.choices import PatchSize, require_at_least, require_choice
from cifar_cli.core.models.registry import TIMM_PREFIX, spec_of
from cifar_cli.core.own_code import file_and_function
from cifar_cli.errors import ConfigError

DEFAULT_BACKBONE = "efficientnet_b0"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A model's architecture and initial weights.

    Raises ModelError for an unknown name and ConfigError for a bad value.
    """

    name: str
    """A registered name, `timm:NAME` for any timm classifier, or the file and function of an own model."""
    classes: int = 10
    """Number of logits."""
    img_size: int = 32
    """Side of the square input in pixels."""
    backbone: str = DEFAULT_BACKBONE
    """`cnn` only: the timm model."""
    weights: str | None = None
    """"imagenet", "none", "bundled" or a path; None for the model's default."""
    trim_backbone: bool = False
    """`hybrid` only: leave out the layers of the backbone that never reach the logits."""
    patch_size: int = 2
    """`hybrid` only: side of a patch of the feature map, one of `PatchSize`."""

    width: float = 1.0
    """`airbench` only: factor of the number of channels."""
    residual: bool = False
    """`airbench` only: a third convolution in each block, around a shortcut."""
    small_images: bool = False
    """`cnn` and `timm:NAME` only: give the first convolution a stride of 1."""
    drop_path: float = 0.0
    """`cnn` and `timm:NAME` only: highest probability with which a residual branch is left out of a training step."""

    def __post_init__(self) -> None:
        spec = spec_of(self.name)
        require_at_least("--classes", self.classes, 1, example=10)
        require_at_least("--img-size", self.img_size, 1, example=32)
        require_choice("--patch-size", self.patch_size, PatchSize)
        if not 0.1 <= self.width <= 16:
            raise ConfigError(f"--width {self.width:g} is not between 0.1 and 16", remedy="pass for example --width 2")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(
                f"--drop-path {self.drop_path:g} is not between 0 and 1", remedy="pass for example --drop-path 0.1"
            )
        self._require_only("--width", self.width != 1, self.name == "airbench", "airbench")
        self._require_only("--residual", self.residual, self.name == "airbench", "airbench")
        self._require_only("--small-images", self.small_images, self.is_from_timm, "cnn or timm:NAME")
        self._require_only("--drop-path", self.drop_path > 0, self.is_from_timm, "cnn or timm:NAME")
        if self.weights is not None and self.weights not in spec.weights and not _is_file(self.weights):
            raise ConfigError(
                f"--weights {self.weights} is neither a file nor one of {', '.join(spec.weights)} for {self.name}",
                remedy="pass --weights none to start from random weights, or the path of a checkpoint",
            )

    def _require_only(self, flag: str, given: bool, fits: bool, models: str) -> None:
        """Raise ConfigError for an option that this model doesn't have."""
        if given and not fits:
            raise ConfigError(f"{self.name} has no {flag}", remedy=f"leave it out, or pass --model {models}")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.img_size, self.img_size

    @property
    def pixels(self) -> str:
        """The size of the input in words: "32", or "224x320" where height and width differ."""
        height, width = self.sides
        return str(height) if height == width else f"{height}x{width}"

    @property
    def source_of_weights(self) -> str:
        """The value of `weights`, or the model's default."""
        return self.weights if self.weights is not None else spec_of(self.name).weights[0]

    @property
    def is_from_timm(self) -> bool:
        """Whether the model is `cnn` or `timm:NAME`."""
        return self.name == "cnn" or self.name.startswith(TIMM_PREFIX)

    @property
    def label(self) -> str:
        """The model's name in tables and run directories."""
        own = file_and_function(self.name)
        return own[0].stem if own else self.name.removeprefix(TIMM_PREFIX)


@dataclass(frozen=True, kw_only=True, slots=True)
class RectangularConfig(ModelConfig):
    """A model for images that aren't square. It is profiled only: datasets and training have square images."""

    img_width: int
    """Width in pixels; `img_size` is the height."""

    @property
    def sides(self) -> tuple[int, int]:
        return self.img_size, self.img_width


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # no file can have this name, or the user may not look at it
        return False
