"""Printing: results go to stdout, everything else to stderr. With --json, stdout is one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType


def stdout() -> Console:
    """A console on the current stdout. It is looked up at each call, because tests replace it."""
    return Console(file=sys.stdout, highlight=False)


def stderr() -> Console:
    """A console on the current stderr: hints, progress, errors."""
    return Console(file=sys.stderr, highlight=False)


def show(*renderables: RenderableType) -> None:
    """Print results on stdout."""
    console = stdout()
    for renderable in renderables:
        console.print(renderable)


def note(message: str, console: Console | None = None) -> None:
    """Print a remark, which is not part of the result, on stderr or another console."""
    (console or stderr()).print(message, markup=False, style="dim", soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    stderr().print(f"note: {message}", markup=False, style="yellow", soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print exactly one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Print text on stdout as it is, for a file that another command reads."""
    sys.stdout.write(text)
    sys.stdout.flush()


def error(what: str, remedy: str | None) -> None:
    """Print an error and its remedy on stderr, one line each. Lines are not wrapped, so that commands can be copied."""
    console = stderr()
    console.print(f"error: {what}", markup=False, style="bold red", soft_wrap=True)
    if remedy:
        console.print(f"  try: {remedy}", markup=False, soft_wrap=True)
