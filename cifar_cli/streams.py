"""stdout and stderr that may be closed, full, left by their reader, or unable to encode a character."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from cifar_cli.errors import ResourceError

PLAIN = {"×": "x", "±": "+-", "…": "...", "–": "-", "—": "-", "−": "-", "→": "->", "≤": "<=", "≥": ">=", "·": ".",
         "’": "'", "‘": "'", "“": '"', "”": '"', "│": "|", "├": "|", "└": "`", "\u00a0": " "}  # fmt: skip
SIGPIPE_STATUS = 141  # of a program that SIGPIPE ends, as shells report it


def guard_streams() -> None:
    """Make sure that no message ends the command because of where it goes.

    A closed stream becomes the null device, so that no other file gets its number, and nothing meant for stderr comes
    out on stdout. Characters that the encoding lacks become plain ones. What stderr can't take is lost; what stdout
    can't take ends the command, quietly if its reader has left.
    """
    codecs.register_error("cifar-plain", _plain)
    for name, number, failed in (("stdin", 0, _ignore), ("stdout", 1, _end), ("stderr", 2, _ignore)):
        stream = getattr(sys, name)
        if stream is None:
            stream = _null_device(number)
        if name != "stdin":
            stream.reconfigure(errors="cifar-plain")
            stream = GuardedStream(stream, failed)
        setattr(sys, name, stream)


class GuardedStream:
    """A text stream that calls `failed` in place of raising OSError. Everything else is the stream's own."""

    def __init__(self, stream: TextIO, failed: Callable[[TextIO, OSError], None]) -> None:
        self._stream, self._failed = stream, failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._failed(self._stream, error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(self._stream, error)


def _ignore(stream: TextIO, error: OSError) -> None:
    _silence(stream)


def _end(stream: TextIO, error: OSError) -> NoReturn:
    """Exit for a reader that has left, such as `head`. Raises ResourceError for a full disk and the like."""
    _silence(stream)
    if isinstance(error, BrokenPipeError):
        raise SystemExit(SIGPIPE_STATUS)
    raise ResourceError(
        f"the result can't be written to stdout ({error.strerror})", remedy="send stdout somewhere else"
    ) from error


def _silence(stream: TextIO) -> None:
    """Send the rest to the null device, what the stream still holds included: Python flushes it at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _null_device(number: int) -> TextIO:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    return open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The characters that an encoding lacks, written with those of ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(character) or _escaped(character) for character in missing), error.end


def _escaped(character: str) -> str:
    # Block characters and frames are decoration; a letter of a name must stay recognisable.
    return "#" if "\u2500" <= character <= "\u259f" else character.encode("ascii", "backslashreplace").decode()
