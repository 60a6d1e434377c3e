"""Values that a shell completes: models, datasets, recipes, policies, cards, runs. Nothing heavy is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, MutableMapping
from pathlib import Path

import typer

from cifar_cli.core.augment.policy import POLICIES
from cifar_cli.core.data.config import BUILT_IN, STORE_SUFFIX
from cifar_cli.core.memory.gpus import GPUS
from cifar_cli.core.models.registry import MODELS, TIMM_PREFIX, timm_names
from cifar_cli.core.training.config import runs_dir
from cifar_cli.core.training.recipe import RECIPES

AFTER_THE_COLON = "_CIFAR_AFTER_THE_COLON"
_CUT = re.compile(rf"\s{TIMM_PREFIX[:-1]}\s:(\s\S*)?$")


def models(incomplete: str) -> list[str]:
    """The registered models, and timm's once the first letter is there: there are more than a thousand."""
    if AFTER_THE_COLON in os.environ:
        return backbones(incomplete)
    if incomplete.startswith(TIMM_PREFIX[0]):
        return _beginning(incomplete, (f"{TIMM_PREFIX}{name}" for name in timm_names()))
    return _beginning(incomplete, (*MODELS, TIMM_PREFIX))


def backbones(incomplete: str) -> list[str]:
    """timm's classifiers."""
    return _beginning(incomplete, timm_names())


def datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """The built-in datasets, and those in the folder of --data-dir."""
    folder = Path(ctx.params.get("data_dir") or "data")
    imported = sorted(path.name.removesuffix(STORE_SUFFIX) for path in folder.glob(f"*{STORE_SUFFIX}"))
    return _beginning(incomplete, dict.fromkeys((*BUILT_IN, *imported)))


def recipes(incomplete: str) -> list[str]:
    return _beginning(incomplete, RECIPES)


def policies(incomplete: str) -> list[str]:
    return _beginning(incomplete, POLICIES)


def gpus(incomplete: str) -> list[str]:
    """The cards, with dashes for the spaces of their names."""
    return _beginning(incomplete, (name.replace(" ", "-") for name in GPUS))


def run_names(incomplete: str) -> list[str]:
    """The runs by their names, as `cifar runs` lists them."""
    return _beginning(incomplete, (path.relative_to(runs_dir()).as_posix() for path in _runs()))


def run_paths(incomplete: str) -> list[str]:
    """The runs by their directories."""
    return _beginning(incomplete, map(str, _runs()))


def leave_out_what_bash_cut_off(environment: MutableMapping[str, str]) -> None:
    """Where bash asks to complete `timm:resnet`, which it has cut into three words, ask for what follows the colon.

    That is also all that bash replaces.
    """
    words = environment.get("COMP_WORDS", "")
    if environment.get("_CIFAR_COMPLETE") != "complete_bash" or not (cut := _CUT.search(words)):
        return
    environment["COMP_WORDS"] = f"{words[: cut.start()]}\n{(cut[1] or '').strip()}"
    environment["COMP_CWORD"] = str(int(environment["COMP_CWORD"]) - (2 if cut[1] else 1))
    environment[AFTER_THE_COLON] = "1"


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _runs() -> list[Path]:
    configs = (*runs_dir().glob("*/config.yaml"), *runs_dir().glob("*/*/config.yaml"))
    return sorted(path.parent for path in configs)
