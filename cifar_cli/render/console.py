"""Printing: results go to stdout, everything else to stderr. With --json, stdout is one JSON document."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cifar_cli.printable import printable


class SafeConsole(Console):
    """A console that prints every control character as an escape, whatever table or text it comes in.

    A line break is kept, because tables consist of lines.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(printable, text.split("\n"))), segment.style)


def console_on(file: IO[str], **options: Any) -> Console:
    """A console that shows every text as it is: brackets and colons in names are no markup and no emoji codes."""
    return SafeConsole(file=file, highlight=False, markup=False, emoji=False, **options)


def stdout() -> Console:
    """A console on the current stdout. It is looked up at each call, because tests replace it."""
    return console_on(sys.stdout)


_flags: ContextVar[Mapping[str, bool]] = ContextVar("flags")


@contextmanager
def following(flags: Mapping[str, bool]) -> Iterator[None]:
    """Print no hints and no progress in the block once flags["quiet"] is set."""
    token = _flags.set(flags)
    try:
        yield
    finally:
        _flags.reset(token)


def stderr() -> Console:
    """A console on the current stderr: hints and progress. With --quiet it prints nothing."""
    return console_on(sys.stderr, quiet=_flags.get({}).get("quiet", False))


def show(*renderables: RenderableType) -> None:
    """Print results on stdout."""
    console = stdout()
    for renderable in renderables:
        console.print(renderable)


def note(message: str, console: Console | None = None) -> None:
    """Print a remark, which is not part of the result, on stderr or another console."""
    _print_sentence(console or stderr(), printable(message), "dim")


def warn(message: str) -> None:
    """Print a warning on stderr, with --quiet too."""
    _print_sentence(console_on(sys.stderr), printable(f"note: {message}"), "yellow")


def print_json(document: Mapping[str, Any]) -> None:
    """Print exactly one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Print text on stdout as it is, for a file that another command reads."""
    sys.stdout.write(text)
    sys.stdout.flush()


def error(what: str, remedy: str | None) -> None:
    """Print an error and its remedy on stderr. The remedy is one line, so that its commands can be copied."""
    console = console_on(sys.stderr)
    _print_sentence(console, f"error: {what}", "bold red")
    if remedy:
        console.print(f"  try: {remedy}", soft_wrap=True)


def _print_sentence(console: Console, text: str, style: str) -> None:
    """Print one line, which a terminal gets wrapped between words. An indented line is a command, and stays whole."""
    if console.is_terminal and not text.startswith(" "):
        text = textwrap.fill(text, console.width, break_long_words=False, break_on_hyphens=False)
    console.print(text, style=style, soft_wrap=True)
