"""The settings of `cifar train`, from its options and a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from cifar_cli.command import given, option_group, typed
from cifar_cli.commands.recipe_options import OVERRIDES, RecipeOptions
from cifar_cli.errors import UsageError

if TYPE_CHECKING:
    from cifar_cli.core.training.settings import Settings

PATHS = {
    "model": "model.name",
    "weights": "model.weights",
    "backbone": "model.backbone",
    "patch_size": "model.patch_size",
    "trim_backbone": "model.trim_backbone",
    "width": "model.width",
    "residual": "model.residual",
    "small_images": "model.small_images",
    "drop_path": "model.drop_path",
    "dataset": "data.dataset",
    "data_dir": "data.data_dir",
    "accelerator": "device",
    "name": "run_dir",
    "recipe": "recipe.name",
    **{name: f"recipe.{name}" for name in OVERRIDES},
}
"""The setting that an option decides, where the two differ by name."""


@option_group("Config")
class ConfigOptions:
    """Settings from a file, and single ones by name."""

    config: Annotated[Path | None, Option(metavar="FILE")] = None
    """Take the settings from this file: the config.yaml of a run, or what --print-config prints. Options given beside
    it take precedence.
    """
    assignments: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE")] = None
    """Set one setting by the name it has in the file, such as recipe.weight_decay=1e-3."""
    print_config: bool = False
    """Print every setting and where it came from, and train nothing."""

    def settings(self, ctx: typer.Context, recipe: RecipeOptions, **asked: Any) -> Settings:
        """The settings in layers. asked: the values of all options, as TrainConfig nests them. Raises ConfigError."""
        from cifar_cli.core.training.settings import assignment, layered

        flat = {
            f"{group}.{name}" if nested else group: value
            for group, values in asked.items()
            for nested in [isinstance(values, Mapping)]
            for name, value in (values.items() if nested else [(group, values)])
        }
        flat |= {f"recipe.{name}": value for name, value in recipe.overrides().items()}
        flags = {PATHS.get(name, name): flag for name, flag in given(ctx).items()}
        assigned = dict(map(assignment, self.assignments or ()))
        overruled = {"seed": "seeds"} | ({"recipe.batch": "batch"} if recipe.batch == "auto" else {})
        for path, option in overruled.items():
            if path in assigned and option in typed(ctx):
                raise UsageError(
                    f"--set {path} and {typed(ctx)[option]} contradict each other", remedy="pass one of them"
                )
        return layered(flat, flags, recipe=recipe.recipe, file=self.config, assignments=assigned)
