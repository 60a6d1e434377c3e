"""The closed sets of names that a user may pass, each spelled once, and the checks that several configs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError, shell_line

OptimizerName = Literal["adam", "adamw", "sgd", "muon", "muon-sgd"]
ScheduleName = Literal["constant", "one-cycle", "triangular"]
PipelineName = Literal["batched", "albumentations"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["32", "bf16", "16"]
"""float32, or autocast to bfloat16 or float16 over float32 weights."""
PrecisionChoice = Literal["auto", "32", "bf16", "16"]
MemoryFormat = Literal["channels-last", "contiguous", "onednn"]
"""Layout of images and convolution kernels; "onednn" is that library's own blocked layout."""
MemoryFormatChoice = Literal["auto", "channels-last", "contiguous", "onednn"]
PatchSize = Literal[2, 4]
ClassWeights = Literal["none", "auto"]
"""Weights of the classes in the training loss; "auto" weights them by the inverse of their number of images."""
Freeze = Literal["none", "backbone"]
"""What training leaves as it is; "backbone" is all but the layers that pretrained weights don't bring."""
GraphChoice = Literal["auto", "on", "off"]
"""Whether the training step is captured as a CUDA graph."""
PicturesChoice = Literal["every", "best", "none"]
"""The epochs of which a run draws pictures for TensorBoard; "best" is the best and the last one."""
StrategyChoice = Literal["auto", "ddp", "fsdp"]
"""How several processes share a training step; "ddp" keeps all weights in each and averages the gradients."""


def names(choices: Any) -> tuple[Any, ...]:
    """The values of a Literal, in the order they are written."""
    return get_args(choices)


def require_choice(flag: str, value: Any, choices: Any) -> None:
    """Raise ConfigError, naming the nearest values, unless `value` is one of a Literal's."""
    if value not in get_args(choices):
        raise ConfigError(f"{flag} {value} is not offered", remedy=nearest(str(value), map(str, get_args(choices))))


def require_at_least(flag: str, value: int, minimum: int, *, example: int | str) -> None:
    """Raise ConfigError for a number below `minimum`. example: a value for the remedy."""
    if value < minimum:
        raise ConfigError(
            f"{flag} must be at least {minimum}, not {value}", remedy=f"pass for example {flag} {example}"
        )


def require_picture_path(out: Path, *, flag: str = "--out") -> None:
    """Raise ConfigError when `out`, the value of `flag`, can't become a PNG file."""
    if out.suffix.lower() != ".png":
        raise ConfigError(
            f"{flag} {out} is not a PNG file's name", remedy=f"pass {shell_line(flag, out.with_suffix('.png'))}"
        )
    if not out.parent.is_dir():
        raise ConfigError(
            f"the folder {out.parent} for {flag} does not exist", remedy=shell_line("mkdir -p", out.parent)
        )
