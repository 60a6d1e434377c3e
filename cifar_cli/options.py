"""Every option that two commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cifar_cli.errors import ConfigError

DEFAULT_BATCH = 128


def split_names(values: list[str]) -> list[str]:
    """Flatten repeated and comma-separated values: ["null,cnn", "hybrid"] names three models."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def require_batch(batch: int) -> int:
    """Return `batch`. Raises ConfigError for less than 1."""
    if batch < 1:
        raise ConfigError(f"--batch {batch} holds no image", remedy="pass 1 or more, for example --batch 128")
    return batch


def given(**values: Any) -> dict[str, Any]:
    """The options that the user gave: all but those that are None."""
    return {name: value for name, value in values.items() if value is not None}


def parse_duration(flag: str, text: str) -> float:
    """Seconds in "HH:MM:SS", "MM:SS" or "SS". Raises ConfigError for anything else."""
    parts = text.split(":")
    if len(parts) > 3 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"{flag} {text} is not a duration", remedy=f"pass HH:MM:SS, for example {flag} 00:20:00")
    return float(sum(int(part) * 60**place for place, part in enumerate(reversed(parts))))


def parse_count(flag: str, text: str, *, example: int) -> int:
    """A whole number. Raises ConfigError for anything else; what numbers make sense is for the config to say."""
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"{flag} {text} is not a whole number", remedy=f"pass for example {flag} {example}, or {flag} auto"
        ) from None


def parse_seeds(flag: str, text: str) -> tuple[int, ...]:
    """Different whole numbers from 0, separated by commas. Raises ConfigError for anything else."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words) or len(set(words)) < len(words):
        raise ConfigError(f"{flag} {text} is not a list of different seeds", remedy=f"pass for example {flag} 0,1,2")
    return tuple(int(word) for word in words)


ModelOpt = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", help="null, cnn, hybrid, or any timm model as timm:NAME.")
]
ModelsOpt = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="null, cnn, hybrid, all, or any timm model as timm:NAME; several with commas or repeated.",
    ),
]
BatchOpt = Annotated[int, typer.Option("--batch", "--batch-size", "-b", metavar="N", help="Images per step.")]
ImgSizeOpt = Annotated[int, typer.Option("--img-size", metavar="PIXELS", help="Side of the square input images.")]
ClassesOpt = Annotated[int, typer.Option("--classes", metavar="K", help="Number of classes.")]
BackboneOpt = Annotated[str, typer.Option("--backbone", metavar="NAME", help="The timm classifier behind --model cnn.")]
TrimBackboneOpt = Annotated[
    bool,
    typer.Option(
        "--trim-backbone/--full-backbone",
        help="hybrid: leave out the backbone layers that never reach the logits; the function stays the same.",
    ),
]
PatchSizeOpt = Annotated[int, typer.Option("--patch-size", metavar="2|4", help="hybrid: side of a ViT patch.")]
WeightsOpt = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="imagenet|none|bundled|PATH",
        help="Initial weights (default: imagenet for cnn and hybrid).",
        show_default=False,
    ),
]
PipelineOpt = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        metavar="batched|albumentations",
        help="Who carries the augmentation out (default: batched, or albumentations with --augment).",
        show_default=False,
    ),
]
DatasetOpt = Annotated[
    str,
    typer.Option("--dataset", metavar="NAME|PATH", help="cifar10, cifar100, shapes, or a dataset you imported."),
]
DataDirOpt = Annotated[
    Path, typer.Option("--data-dir", metavar="DIR", help="Folder that holds the datasets.", file_okay=True)
]
SeedOpt = Annotated[int, typer.Option("--seed", metavar="N", help="Decides everything that is drawn by chance.")]
AcceleratorOpt = Annotated[
    str,
    typer.Option("--accelerator", metavar="auto|cpu|gpu", help="Where to compute; auto takes a GPU if there is one."),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


def _show_traceback(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.find_root().obj = {"debug": True}
    return value


DebugOpt = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", callback=_show_traceback, is_eager=True),
]


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(text: str, *, flag: str = "--memory") -> int:
    """Read "24GiB", "100MB" or plain bytes. Raises ConfigError for anything else and for nothing at all."""
    remedy = f"pass a size such as {flag} 24GiB or {flag} 8000MB"
    digits = text.strip().rstrip("bBkKmMgGiI ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ConfigError(f"{flag} {text} is not an amount of memory", remedy=remedy) from None
    if not 1 <= size < float("inf"):
        raise ConfigError(f"{flag} {text} leaves no memory at all", remedy=remedy)
    return int(size)


def parse_margin(text: str) -> float:
    """Read "5%" or "0.05" as a fraction of the memory. Raises ConfigError outside 0..90 %."""
    try:
        margin = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        margin = -1.0
    if not 0 <= margin <= 0.9:
        raise ConfigError(f"--margin {text} is not a share of the memory", remedy="pass --margin 5%, at most 90%")
    return margin
