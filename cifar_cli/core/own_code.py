"""Functions of the user's own: path/to/file.py:function, or an entry point of an installed package."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_cli.core.suggest import nearest
from cifar_cli.errors import CifarError

if TYPE_CHECKING:
    from importlib import metadata

_FILE = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
TRUSTED = "CIFAR_TRUSTED_FILES"
_executed: set[Path] = set()
"""Files that this process has executed, on the word of the user."""


def file_and_function(text: str) -> tuple[Path, str] | None:
    """The parts of path/to/file.py:function; None for any other text."""
    found = _FILE.fullmatch(text)
    return (Path(found[1]), found[2]) if found else None


def entry_point(group: str, name: str) -> metadata.EntryPoint | None:
    """The entry point of an installed package; None where there is none."""
    from importlib import metadata  # here, because it is slow, and few commands need it

    return next(iter(metadata.entry_points(group=group, name=name)), None)


def function_in(text: str, error: type[CifarError]) -> Callable[..., Any]:
    """Execute the file of path/to/file.py:function and get the function. Raises `error` where that fails."""
    import importlib.util

    parts = file_and_function(text)
    assert parts is not None
    path, name = parts
    if not path.is_file():
        raise error(f"there is no file {path}", remedy="pass path/to/file.py:function")
    key = f"cifar_own.{path.resolve()}"  # of no module that a file can import
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[key] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        with _neighbours_of(path):
            spec.loader.exec_module(module)
    except Exception as failure:
        del sys.modules[key]
        raise error(
            f"{path} can't be imported ({type(failure).__name__}: {failure})", remedy="run it alone to see why"
        ) from failure
    _executed.add(path.resolve())
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None or not callable(function):
        functions = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise error(f"{path} has no function {name}", remedy=nearest(name, functions) if functions else None)
    declared = function

    @functools.wraps(declared)
    def beside_its_neighbours(*args: Any, **kwargs: Any) -> Any:
        with _neighbours_of(path):  # which a function may import as late as this
            return declared(*args, **kwargs)

    return beside_its_neighbours


@contextmanager
def _neighbours_of(path: Path) -> Iterator[None]:
    """Let the code of a file import the files beside it."""
    folder = str(path.parent.absolute())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def in_full(text: str) -> str:
    """path/to/file.py:function with an absolute path; any other text as it is."""
    parts = file_and_function(text)
    return text if parts is None else f"{parts[0].absolute()}:{parts[1]}"


def function_of(point: metadata.EntryPoint, error: type[CifarError]) -> Callable[..., Any]:
    """The function of an entry point. Raises `error` where its package can't be imported."""
    try:
        function: Callable[..., Any] = point.load()
    except Exception as failure:
        raise error(
            f"the entry point {point.name} = {point.value} can't be loaded ({type(failure).__name__}: {failure})",
            remedy="install the package again, or ask its author",
        ) from failure
    return function


def trust(text: str) -> None:
    """Let this process and those it starts execute the file of path/to/file.py:function, which the user has named."""
    if (parts := file_and_function(text)) is not None:
        known = [each for each in os.environ.get(TRUSTED, "").split(os.pathsep) if each]
        os.environ[TRUSTED] = os.pathsep.join(dict.fromkeys([*known, str(parts[0].absolute())]))


def require_trusted(text: str, error: type[CifarError], *, wanted_by: str) -> None:
    """Raise `error` for a file that something read from disk wants to execute, unless the user trusts it.

    The environment variable CIFAR_TRUSTED_FILES lists trusted files. wanted_by: what names the file.
    """
    parts = file_and_function(text)
    if parts is None:
        return
    trusted = {Path(each).resolve() for each in os.environ.get(TRUSTED, "").split(os.pathsep) if each}
    if parts[0].resolve() not in trusted | _executed:
        raise error(
            f"{wanted_by} was trained with the model in {parts[0]}, and reading it executes that file",
            remedy=f"if you trust the file: export {TRUSTED}={shlex.quote(str(parts[0].absolute()))}",
        )
