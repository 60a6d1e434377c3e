"""Policy files written by albumentations' `A.save`: parsed as data, checked, then built.

A file can only name transforms that albumentations registers as serialisable, with plain values as arguments. A
Lambda, which would need code, is rejected.
"""

from __future__ import annotations

import inspect
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from packaging.version import Version

from cifar_cli.core.augment.offline import TRANSFORMS, A
from cifar_cli.core.augment.old_policy import forced, modernised, replaced, written_by
from cifar_cli.core.limits import (
    MAX_POLICY_BYTES,
    MAX_POLICY_COUNT,
    MAX_POLICY_DEPTH,
    MAX_POLICY_KELVIN,
    MAX_POLICY_NUMBER,
    MAX_POLICY_PIXELS,
    MAX_POLICY_SCALE,
    MAX_POLICY_VALUES,
    MAX_TRIAL_SECONDS,
    MIN_POLICY_STEP,
)
from cifar_cli.core.plain_yaml import parse_yaml
from cifar_cli.core.regular import read_regular
from cifar_cli.core.suggest import nearest
from cifar_cli.errors import ConfigError

_CLASS = "__class_fullname__"
_REMEDY = "write one with albumentations: A.save(A.Compose([...]), 'policy.yaml', data_format='yaml')"
_PLAIN = (dict, list, str, int, float, type(None))
_LARGEST = {
    **dict.fromkeys(("scale", "scale_limit", "scale_range", "percent", "max_factor"), MAX_POLICY_SCALE),
    **dict.fromkeys(("grid", "num_grid_xy", "grid_yx", "tile_grid_size"), MAX_POLICY_COUNT),
    "temperature_limit": MAX_POLICY_KELVIN,
    **dict.fromkeys(("num_control_points", "num_steps", "iterations"), MAX_POLICY_COUNT),
}
"""The largest values of arguments with a smaller limit than MAX_POLICY_NUMBER."""
_ENDING = ("Normalize", "ToTensorV2", "ToFloat")  # every policy is followed by these steps anyway
_SAME = 1e-3  # means and deviations are given to three or four digits
_BENIGN = "This augmenter is very slow|[A-Za-z]+ is (a special|an alias)"  # warnings about a choice, not about a value


def load_policy(path: Path, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Any:
    """Read a policy file, YAML or JSON, into an `A.Compose` whose transforms are its steps.

    Normalize, ToFloat and ToTensorV2 at its end are left out, because normalisation follows every policy. mean, std: of
    that normalisation; with them, a Normalize with other numbers is refused.
    Files of older albumentations are read with the meaning they had.
    Raises ConfigError when the file is missing or is not a valid policy.
    """
    document = _parse(path)
    _require_small(document, path)
    tree = document.get("transform") if isinstance(document, dict) else None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is not an augmentation policy", remedy=_REMEDY)
    version = written_by(document)
    checked = _checked(tree, path, version)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations warns when it replaces an invalid value
            warnings.filterwarnings("ignore", _BENIGN, UserWarning)
            built = A.from_dict({"transform": checked})
    except Exception as error:  # each constructor raises what it likes for an odd value
        raise ConfigError(
            f"{path} can't be built into a policy ({_brief(error)}){_origin(version)}", remedy=_REMEDY
        ) from error
    if type(built) is not A.Compose or built.p != 1:
        return A.Compose([built], is_check_shapes=False)
    steps = list(built.transforms)
    while steps and type(steps[-1]).__name__ in _ENDING:
        ending = steps.pop()
        if mean is not None and std is not None:
            divided = any(type(each).__name__ == "ToFloat" for each in steps)
            _require_same(ending, mean, std, path, largest=1 if divided else 255)
    return A.Compose(steps, is_check_shapes=False)


def _require_same(ending: Any, mean: Sequence[float], std: Sequence[float], path: Path, *, largest: int) -> None:
    """Raise ConfigError if a step at the end scales pixels to other numbers than the run does. largest: pixel value."""
    name = type(ending).__name__
    if name == "ToFloat" and ending.max_value not in (None, 255):
        raise ConfigError(
            f"{path} ends with a ToFloat that divides by {ending.max_value:g}, and this run divides by 255",
            remedy="delete ToFloat from the file: every policy is followed by the run's normalisation",
        )
    if name != "Normalize":
        return
    same = ending.normalization == "standard" and ending.p == 1 and ending.max_pixel_value == largest
    for own, used in ((ending.mean, mean), (ending.std, std)):
        values = [own] * len(used) if isinstance(own, int | float) else list(own or ())
        same = same and len(values) == len(used)
        same = same and all(abs(value - each) <= _SAME for value, each in zip(values, used, strict=True))
    if not same:
        mean_text, std_text = (", ".join(f"{each:.4g}" for each in values) for values in (mean, std))
        raise ConfigError(
            f"{path} ends with a Normalize whose numbers are not this run's: mean {mean_text}, deviation {std_text}",
            remedy="delete Normalize from the file: every policy is followed by the run's normalisation",
        )


def _parse(path: Path) -> Any:
    try:
        text = read_regular(path, MAX_POLICY_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"the augmentation policy {path} can't be read ({reason})", remedy=_REMEDY) from error
    unbounded = partial(parse_yaml, most_values=math.inf)  # _require_small counts, with limits of its own
    for parse in (json.loads, unbounded):
        with suppress(ValueError, RecursionError):
            return parse(text)
    raise ConfigError(f"{path} is neither JSON nor YAML", remedy=_REMEDY)


def _require_small(document: Any, path: Path) -> None:
    """Raise ConfigError for a document that takes much time or memory to build or to apply.

    A part to which others refer counts as often as they do, so that references can't multiply, nor form a circle.
    """
    waiting, values = [(document, "", 0)], 0
    while waiting:
        value, name, depth = waiting.pop()
        inner = [(key, each) for key, each in value.items()] if isinstance(value, dict) else []
        inner = [(name, each) for each in value] if isinstance(value, list) else inner
        values += 1 + len(inner)
        if values > MAX_POLICY_VALUES or depth > MAX_POLICY_DEPTH:
            raise ConfigError(
                f"{path} is too large for a policy: it nests deeper than {MAX_POLICY_DEPTH} levels, refers to itself, "
                f"or has more than {MAX_POLICY_VALUES:,} values",
                remedy=_REMEDY,
            )
        if not all(isinstance(key, str) for key, _ in inner) or not isinstance(value, _PLAIN):
            raise ConfigError(f"{path} contains {type(value).__name__} values, which no policy has", remedy=_REMEDY)
        if isinstance(value, int | float) and not _is_usual(name, value):
            raise ConfigError(
                f"{path} sets {name} to {value}, which would take too much time or memory", remedy="pass another value"
            )
        waiting += [(each, key, depth + 1) for key, each in inner]


def _is_usual(name: str, value: float) -> bool:
    return abs(value) <= _LARGEST.get(name, MAX_POLICY_NUMBER) and not (
        name == "step_factor" and value < MIN_POLICY_STEP
    )


@contextmanager
def guarded(policy: Any, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Within the block, a transform of the policy raises ValueError where its image is too large, or time is up."""
    leaves, end = list(leaves_of(policy)), clock() + MAX_TRIAL_SECONDS

    def apply(leaf: Any, *args: Any, **inputs: Any) -> Any:
        made = type(leaf).apply_with_params(leaf, *args, **inputs)
        pixels = math.prod(made["image"].shape[:2])
        if pixels > MAX_POLICY_PIXELS:
            raise ValueError(f"{type(leaf).__name__} makes {pixels:,} pixels, more than {MAX_POLICY_PIXELS:,}")
        if clock() > end:
            raise ValueError(f"{type(leaf).__name__} is slow: a few images took more than {MAX_TRIAL_SECONDS} s")
        return made

    for leaf in leaves:
        leaf.apply_with_params = partial(apply, leaf)
    try:
        yield
    finally:
        for leaf in leaves:
            del leaf.apply_with_params


def leaves_of(transform: Any) -> Iterator[Any]:
    """The single transforms in a policy or in a step of one."""
    if isinstance(transform, A.BaseCompose):
        for inner in transform.transforms:
            yield from leaves_of(inner)
    else:
        yield transform


def _checked(tree: Any, path: Path, version: Version | None) -> dict[str, Any]:
    """The tree after a check of all names, in the installed version's words.

    Arguments that `A.save` writes but no constructor takes are left out.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get(_CLASS), str):
        raise ConfigError(f"{path} is not an augmentation policy: a transform lacks {_CLASS}", remedy=_REMEDY)
    name = tree[_CLASS].rsplit(".", 1)[-1]
    if name == "Lambda":
        raise ConfigError(
            f"{path} contains a Lambda, which would need code from outside the file",
            remedy="use transforms that A.save can write completely",
        )
    if name not in TRANSFORMS:
        if (other := replaced(name, tree)) is not None:
            return _checked(other, path, version)
        origin = _origin(version)
        raise ConfigError(
            f"{path} names an unknown transform {tree[_CLASS]}{origin}",
            remedy=f"replace {name} in the file by one of {A.__version__}" if origin else nearest(name, TRANSFORMS),
        )
    known, inherited = _arguments(TRANSFORMS[name])
    checked = {_CLASS: name}
    try:
        arguments = modernised(name, tree, known, version)
        if isinstance(arguments.get("transforms"), list):
            arguments["transforms"] = forced(name, arguments["transforms"], version)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} can't be applied as it was meant: its {name} {_brief(error)}{_origin(version)}",
            remedy=f"replace {name} in the file, or write the file with albumentations {A.__version__}",
        ) from error
    for argument, value in arguments.items():
        if argument == "transforms":
            if not isinstance(value, list):
                raise ConfigError(f"{path}: the transforms of {name} are not a list", remedy=_REMEDY)
            checked[argument] = [_checked(inner, path, version) for inner in value]
        elif argument in known:
            checked[argument] = value
        elif argument not in inherited and argument != _CLASS:
            raise ConfigError(
                f"{path} passes an unknown argument to {name}: {argument}{_origin(version)}",
                remedy=nearest(argument, known),
            )
    return checked


def _origin(version: Version | None) -> str:
    """The end of a message about a file of another version."""
    if version is None or version == Version(A.__version__):
        return ""
    return f"; albumentations {version} wrote it, and {A.__version__} is installed"


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
