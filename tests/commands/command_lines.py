"""Every option of every command, and command lines made from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from cifar_cli.app import app

GROUP: Any = get_command(app)

# A value for each kind of value, by its placeholder on the help page.
VALUES = {
    "N": "3",
    "X": "0.5",
    "K": "7",
    "RATE": "1e-3",
    "SHARE": "0.1",
    "SIZE": "24GiB",
    "PIXELS": "32",
    "N|auto": "64",
    "HH:MM:SS": "00:20:00",
    "0,1,2": "0,1,2",
    "KEY=A,B": "lr=0.1,0.2",
    "KEY=LOW:HIGH": "lr=0.1:0.2",
    "DIR": "folder",
    "RUN_DIR": "folder",
    "RUN_DIR|CHECKPOINT": "folder",
    "IMAGE": "image.png",
    "FILE": "policy.yaml",
    "FILE.csv": "table.csv",
    "FILE.png": "picture.png",
    "NAME|PATH": "none",
    "URL|PATH": "images.tar",
    "RUN": "first",
    "KEY=VALUE": "seed=7",
}
NAMES = {"model": "null", "policy": "none", "backbone": "resnet18", "gpu": "T4", "memory_format": "contiguous"}


def commands() -> dict[str, Any]:
    """Typer's command objects by name."""
    return dict(GROUP.commands)


def words_of(param: Any) -> list[str]:
    """A spelling of the option with a valid value: ["--batch", "3"], or ["--json"] for a flag."""
    if param.is_flag:
        return [param.opts[-1]]
    if param.metavar in VALUES:
        return [param.opts[-1], VALUES[param.metavar]]
    return [param.opts[-1], NAMES.get(param.name, param.metavar.split("|")[-1])]


def options_of(command: Any) -> list[Any]:
    """The options of a command without its arguments and without --help."""
    return [param for param in command.params if param.param_type_name == "option"]


def required_words(command: Any, *, beside: Any = None) -> list[str]:
    """What a command line of this command can't do without, but for one option that is given anyway."""
    words: list[str] = []
    for param in command.params:
        if param.required and param is not beside:
            words += words_of(param) if param.param_type_name == "option" else [VALUES[param.metavar]]
    return words


def parse(name: str, words: list[str]) -> typer.Context:
    """Parse a command line without running it. Raises what parsing raises."""
    context: typer.Context = commands()[name].make_context(name, list(words))
    return context


def every_option() -> Iterator[tuple[str, Any]]:
    """The name of a command and one of its options, for all of them."""
    for name, command in commands().items():
        for param in options_of(command):
            yield name, param
