"""The settings of a run in layers: flags over environment over a file over the recipe over defaults."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cifar_cli.core.limits import MAX_CONFIG_BYTES
from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.registry import MODELS, spec_of
from cifar_cli.core.plain import plain
from cifar_cli.core.plain_yaml import parse_yaml
from cifar_cli.core.regular import read_text
from cifar_cli.core.suggest import nearest
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import MODEL_OF_RECIPE, RECIPES, ZERO_IS_OFF, rates_of_another, recipe_of
from cifar_cli.errors import ConfigError

FOLLOW_THE_DATASET = ("model.classes", "model.img_size", "normalisation")
NOT_SET = (*FOLLOW_THE_DATASET, "run_dir")  # of a file: a run that is repeated gets a directory of its own
DEFAULT = "default"
PARTS_OF_RECIPES = {f"model.{part}" for spec in MODELS.values() for parts in spec.parts.values() for part in parts}
"""What a recipe may set of a model."""
NOTED = {"data", "device"}  # a run notes both beside its settings
_OFF = object()

Values = dict[str, Any]
"""Settings by their dotted path, such as "recipe.learning_rate"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Every setting of a run and where it came from."""

    values: Values
    origins: dict[str, str]
    """The layer of each setting: "--lr", "CIFAR_DATA_DIR", the file's name, "recipe fast" or "default"."""
    recipe: str
    """The layer of the recipe, by its name in `origins`."""

    def config(self) -> TrainConfig:
        """The config of these settings. Raises ConfigError for values that can't be used."""
        nested: dict[str, Any] = {}
        for path, value in self.values.items():
            group, _, name = path.rpartition(".")
            (nested.setdefault(group, {}) if group else nested)[name] = value
        if nested["img_size"] is not None:
            nested["model"]["img_size"] = nested["img_size"]
        config = TrainConfig.from_dict(nested)
        self._require_a_rate_to_warm_up()
        return config

    def is_chosen(self, path: str) -> bool:
        """Whether the user or a file chose a setting, and not the recipe or the default."""
        return self.origins[path] not in (DEFAULT, self.recipe)

    def _require_a_rate_to_warm_up(self) -> None:
        """Raise ConfigError for a warm-up that the user asked for and a constant learning rate, which has none."""
        asked = self.origins["recipe.warmup"] in ("--warmup", "--set") and self.values["recipe.warmup"]
        if asked and self.values["recipe.schedule"] == "constant":
            raise ConfigError(
                f"--warmup {self.values['recipe.warmup']:g} has no effect with a constant learning rate",
                remedy="pass --schedule one-cycle too, or leave --warmup out",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the value and the origin of each setting."""
        return {path: {"value": plain(value), "from": self.origins[path]} for path, value in self.values.items()}


def layered(
    defaults: Values,
    flags: Mapping[str, str],
    *,
    recipe: str,
    file: Path | None = None,
    assignments: Mapping[str, Any] = MappingProxyType({}),
) -> Settings:
    """Merge the layers of a run's settings.

    defaults: the values of the options, where they differ from TrainConfig's. flags: the path of each
    option that the user gave, and how it was given. recipe: the name of the option `--recipe`. file: a `config.yaml`.
    assignments: single settings by their path.
    Raises ConfigError for a file that can't be read, and a key or value that a run does not have.
    """
    assigned = {path: checked(path, value, where="--set") for path, value in assignments.items()}
    filed = {} if file is None else _read(file)
    recipe = assigned.get("recipe.name", recipe)
    if "recipe.policy" in flags:
        filed.pop("augment_file", None)  # a policy's file would replace the policy that was asked for
    of_file = filed.get("recipe.name"), filed.get("model.name")
    if "recipe.name" in flags or "recipe.name" in assigned:
        filed = {path: value for path, value in filed.items() if not path.startswith("recipe.")}
    elif filed.get("recipe.name") in RECIPES:
        recipe = filed["recipe.name"]
    above = filed | {path: defaults[path] for path in flags if path in defaults} | assigned
    model = {"model.name": MODEL_OF_RECIPE[recipe]} if recipe in MODEL_OF_RECIPE else {}
    name = (defaults | model | above).get("model.name")
    fitting = recipe_of(recipe, model=name)
    if None not in of_file and of_file != (recipe, name):  # the file has the parts of another recipe or model
        filed = {path: value for path, value in filed.items() if path not in PARTS_OF_RECIPES}
        model |= _parts(name, recipe)
    else:  # a file with all of a model may be of a version that had fewer parts
        complete = "model.width" in filed
        model |= {path: value for path, value in _parts(name, recipe).items() if path in filed or not complete}
    optimizer = above.get("recipe.optimizer", fitting.optimizer)
    head_first = above.get("recipe.head_first", fitting.head_first)  # which not every optimizer allows
    fitting = fitting.changed({"optimizer": optimizer, "head_first": head_first})
    dropped = [f"recipe.{name}" for name in rates_of_another(filed.get("recipe.optimizer", optimizer), optimizer)]
    filed = {path: value for path, value in filed.items() if path not in dropped}
    layers = (
        (dict(_flat(TrainConfig(model=ModelConfig(name="null")).to_dict(), "")), DEFAULT),
        ({path: value for path, value in defaults.items() if path not in flags}, DEFAULT),
        ({f"recipe.{name}": value for name, value in asdict(fitting).items()} | model, f"recipe {recipe}"),
        (filed, f"file {file}" if str(file) in (DEFAULT, f"recipe {recipe}") else str(file)),
    )
    values: Values = {}
    origins: dict[str, str] = {}
    for layer, origin in layers:
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    for path, flag in flags.items():
        if path in defaults:
            values[path], origins[path] = defaults[path], flag
    values |= assigned
    origins |= dict.fromkeys(assigned, "--set")
    order = [path for path in leaves() if path in values]
    return Settings(
        values={path: values[path] for path in order},
        origins={path: origins[path] for path in order},
        recipe=f"recipe {recipe}",
    )


def _parts(name: str | None, recipe: str) -> Values:
    """What a recipe sets of a model, by path. Raises ModelError for an unknown model."""
    parts = {} if name is None else spec_of(name).parts.get(recipe, {})
    return {f"model.{part}": value for part, value in parts.items()}


@cache
def leaves() -> Mapping[str, Any]:
    """The type of each setting by its path, in the order of the config."""
    return MappingProxyType({path: kind for path, kind in _leaves(TrainConfig, "") if path not in FOLLOW_THE_DATASET})


@cache
def _groups() -> frozenset[str]:
    """The names that settings have, or their groups, as a file nests them; not those of what a run notes beside."""
    return frozenset(path.partition(".")[0] for path in leaves()) - NOTED


def _leaves(kind: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from _leaves(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def _read(file: Path) -> Values:
    """The settings of a config.yaml, checked. Raises ConfigError."""
    remedy = "pass the config.yaml of a run, or what `cifar train --print-config` prints"
    try:
        content = parse_yaml(read_text(file, MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(f"--config {file} can't be read ({error.strerror})", remedy=remedy) from error
    except ValueError as error:
        reason = "is not a YAML file" if isinstance(error, UnicodeDecodeError) else error
        raise ConfigError(f"--config {file} {reason}", remedy=remedy) from error
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        # Beside it a run notes its classes and its device. A setting there would be passed over.
        misplaced = next((str(key) for key in content if f"{key}".partition(".")[0] in _groups()), None)
        if misplaced is not None:
            raise ConfigError(
                f"--config {file} has {misplaced} beside config, where it is no setting",
                remedy="move it below config, indented like the others",
            )
        content = content["config"]
    if not isinstance(content, dict):
        raise ConfigError(f"--config {file} holds no settings", remedy=remedy)
    flat = dict(_flat(content, ""))
    if "accelerator" in flat:  # an earlier name, whose "gpu" meant CUDA or MPS
        flat["device"] = str(flat.pop("accelerator")).replace("gpu", "auto")
    left = [path for path in flat if not f"{path}.".startswith(tuple(f"{each}." for each in NOT_SET))]
    return {path: checked(path, flat[path], where=str(file)) for path in left}


def _flat(nested: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict) and not prefix:  # deeper, and so endless, nesting is no setting
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def assignment(text: str) -> tuple[str, Any]:
    """The path and the value of "path=value". Raises ConfigError."""
    path, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(f"--set {text} has no =", remedy="pass for example --set recipe.weight_decay=1e-3")
    try:
        read = parse_yaml(value)
    except ValueError:
        read = value
    return path.strip(), value if isinstance(read, (dict, list)) else read


def checked(path: str, value: Any, *, where: str) -> Any:
    """The value of a setting, as its type. Raises ConfigError for an unknown path or a value of another type."""
    known = leaves()
    if path not in known:
        raise ConfigError(f"{where}: there is no setting {path}", remedy=_nearest(path, known))
    result = _as(known[path], value)
    if result is _OFF:
        kinds = " or ".join(dict.fromkeys(_kinds(known[path])))
        raise ConfigError(f"{where}: {path} can't be {value!r}", remedy=f"set it to {kinds}")
    group, _, name = path.rpartition(".")
    return None if group == "recipe" and name in ZERO_IS_OFF and result == 0 else result


def _nearest(path: str, known: Mapping[str, Any]) -> str:
    """The similar paths; a name alone is looked for in every group."""
    matching = [each for each in known if each.rpartition(".")[2] == path]
    return f"did you mean {' or '.join(matching)}?" if matching else nearest(path, known)


def _as(kind: Any, value: Any) -> Any:
    """The value converted to a type, _OFF where it isn't one. YAML reads 1e-3 as text, and 32 as a number."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None if type(None) in get_args(kind) else _OFF
        converted = (_as(each, value) for each in get_args(kind))
        return next((each for each in converted if each is not _OFF), _OFF)
    if get_origin(kind) is Literal:
        return {str(each): each for each in get_args(kind)}.get(str(value), _OFF)
    if kind is type(None):
        return _OFF
    if kind is bool:
        return value if isinstance(value, bool) else _OFF
    if kind in (Path, str):
        value = "null" if value is None else value  # the model's name, without its quotes
        return kind(value) if isinstance(value, (str, Path)) else _OFF
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return _OFF
    if kind is int and isinstance(value, float):
        return _OFF
    try:
        return kind(value)
    except (ValueError, OverflowError):
        return _OFF


def _kinds(kind: Any) -> Iterator[str]:
    """What a setting takes, in words."""
    if get_origin(kind) in (Union, types.UnionType):
        for each in get_args(kind):
            yield from _kinds(each)
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    else:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
        yield words.get(kind, "null")
