"""Policy files written by albumentations' `A.save`: parsed as data, checked, then built.

A file can only name transforms that albumentations registers as serialisable, with plain values as arguments. A
Lambda, which would need code, is rejected.
"""

from __future__ import annotations

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import yaml

from cifar_cli.core.augment.offline import TRANSFORMS, A
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

_CLASS = "__class_fullname__"
_REMEDY = "write one with albumentations: A.save(A.Compose([...]), 'policy.yaml', data_format='yaml')"
_REDUNDANT = ("Normalize", "ToTensorV2", "ToFloat")  # every policy is followed by these steps anyway


def load_policy(path: Path) -> Any:
    """Read a policy file, YAML or JSON, into an `A.Compose` whose transforms are its steps.

    Normalize, ToFloat and ToTensorV2 at its end are left out, because normalisation follows every policy.
    Raises ConfigError when the file is missing or is not a valid policy.
    """
    document = _parse(path)
    tree = document.get("transform") if isinstance(document, dict) else None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is not an augmentation policy", remedy=_REMEDY)
    checked = _checked(tree, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations warns when it replaces an invalid value
            built = A.from_dict({"transform": checked})
    except (TypeError, ValueError, KeyError, AttributeError, UserWarning) as error:
        raise ConfigError(f"{path} can't be built into a policy ({_brief(error)})", remedy=_REMEDY) from error
    if type(built) is not A.Compose or built.p != 1:
        return A.Compose([built], is_check_shapes=False)
    steps = list(built.transforms)
    while steps and type(steps[-1]).__name__ in _REDUNDANT:
        steps.pop()
    return A.Compose(steps, is_check_shapes=False)


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"the augmentation policy {path} can't be read ({reason})", remedy=_REMEDY) from error
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is neither JSON nor YAML", remedy=_REMEDY) from error


def _checked(tree: Any, path: Path) -> dict[str, Any]:
    """The tree after a check of all names, without arguments that `A.save` writes but no constructor takes."""
    if not isinstance(tree, dict) or not isinstance(tree.get(_CLASS), str):
        raise ConfigError(f"{path} is not an augmentation policy: a transform lacks {_CLASS}", remedy=_REMEDY)
    name = tree[_CLASS].rsplit(".", 1)[-1]
    if name == "Lambda":
        raise ConfigError(
            f"{path} contains a Lambda, which would need code from outside the file",
            remedy="use transforms that A.save can write completely",
        )
    if name not in TRANSFORMS:
        raise ConfigError(f"{path} names an unknown transform {tree[_CLASS]}", remedy=nearest(name, TRANSFORMS))
    known, inherited = _arguments(TRANSFORMS[name])
    checked = {_CLASS: name}
    for argument, value in tree.items():
        if argument == "transforms":
            if not isinstance(value, list):
                raise ConfigError(f"{path}: the transforms of {name} are not a list", remedy=_REMEDY)
            checked[argument] = [_checked(inner, path) for inner in value]
        elif argument in known:
            checked[argument] = value
        elif argument not in inherited and argument != _CLASS:
            raise ConfigError(
                f"{path} passes an unknown argument to {name}: {argument}", remedy=nearest(argument, known)
            )
    return checked


def _arguments(transform: Any) -> tuple[set[str], set[str]]:
    """Arguments of a transform's constructor, and of its base classes': `A.save` writes both."""
    known = set(inspect.signature(transform.__init__).parameters) - {"self"}
    inherited = {
        name
        for ancestor in transform.__mro__
        if "__init__" in vars(ancestor) and ancestor is not object
        for name in inspect.signature(ancestor.__init__).parameters
    }
    return known, inherited


def _brief(error: Exception) -> str:
    return " ".join(f"{error}".split())[:200]
