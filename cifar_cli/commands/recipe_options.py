"""`--recipe`, and one option for each field of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, get_type_hints

from typer import Option

from cifar_cli import completion, parsers
from cifar_cli.command import option_group
from cifar_cli.core.training.recipe import RECIPES, ZERO_IS_OFF, Recipe
from cifar_cli.options import BATCH, POLICY

OVERRIDES = {
    "learning_rate": Option(
        "--lr",
        "--learning-rate",
        metavar="RATE",
        show_default="the recipe's; course: 1e-3 for null, airbench and own models, 1e-4 for others",
        help="Set the highest learning rate of the schedule.",
    ),
    "batch": BATCH(
        metavar="N|auto",
        parser=parsers.integer_or_auto,
        help="Use batches of this many images; auto finds a fast size for this machine.",
    ),
    "max_epochs": Option(help="Stop after this many epochs."),
    "max_seconds": Option(
        "--max-time",
        metavar="HH:MM:SS",
        parser=parsers.duration,
        help="Finish training, validation and test within this time. If fewer epochs fit, these are planned.",
    ),
    "optimizer": Option(help="Update the weights with this optimizer."),
    "schedule": Option(help="Use this learning-rate schedule."),
    "warmup": Option(metavar="SHARE", help="Warm the learning rate up over this share of the run."),
    "weight_decay": Option(help="Decay weight matrices and kernels at this rate."),
    "clip_norm": Option(help="Clip the gradient to this L2 norm; 0 disables clipping."),
    "label_smoothing": Option(metavar="SHARE", help="Spread this share of the target over all classes."),
    "ema_decay": Option(
        metavar="SHARE",
        help="Use an exponential moving average of the weights with this decay for validation and the saved weights; "
        "0 disables it.",
    ),
    "momentum": Option(
        metavar="SHARE", help="Keep this share of the gradients' mean at each step; for --optimizer muon-sgd."
    ),
    "bias_lr": Option(
        metavar="RATE",
        help="Set the highest learning rate of biases and normalisation; for --optimizer muon-sgd.",
    ),
    "head_lr": Option(
        metavar="RATE", help="Set the highest learning rate of the last layer; for --optimizer muon-sgd."
    ),
    "patience": Option(help="Stop after this many epochs without a higher validation accuracy; 0 disables it."),
    "initial_scale": Option(
        metavar="SHARE",
        help="Begin with images of this share of their side, which take less time, and grow them to the full side "
        "during the run; 1 disables it.",
    ),
    "class_weights": Option(
        help="Weight the classes in the training loss: auto by the inverse of their number of images, none equally.",
    ),
    "freeze": Option(help="Freeze the pretrained weights of the backbone, and train the last layer only."),
    "head_first": Option(
        metavar="SHARE", help="Train the last layer alone for this share of the run, before the pretrained weights."
    ),
    "policy": POLICY(show_default="the recipe's"),
}
"""The option for each field of Recipe. Its type, and so its parser, is that of the field."""


def _fields() -> Iterator[tuple[str, Any, Any]]:
    """The fields of Recipe as fields of an option group, None where the option is not given."""
    types = get_type_hints(Recipe)
    for each in fields(Recipe):
        if each.name not in ("name", "source"):
            yield each.name, Annotated[types[each.name] | None, OVERRIDES[each.name]], field(default=None)


_Overrides: Any = make_dataclass("_Overrides", _fields(), frozen=True, kw_only=True)


@option_group("Recipe")
class RecipeOptions(_Overrides):  # type: ignore[misc]
    """A recipe by name, and overrides of its fields."""

    recipe: Annotated[
        str, Option(metavar="|".join(RECIPES), parser=parsers.one_of(RECIPES), autocompletion=completion.recipes)
    ] = "course"
    """Train with this recipe: course follows the university exercise behind this tool, fast reaches the same accuracy
    in the least time, best reaches the highest accuracy in 20 minutes; fast and best differ between models. finetune
    trains pretrained weights on photographs, of cnn if no model is named. Each option below replaces one part of it.
    """

    def overrides(self) -> dict[str, Any]:
        """The fields of the recipe that the user gave."""
        given = {name: getattr(self, name) for name in OVERRIDES if getattr(self, name) is not None}
        if given.get("batch") == "auto":
            del given["batch"]
        return {name: None if name in ZERO_IS_OFF and value == 0 else value for name, value in given.items()}
