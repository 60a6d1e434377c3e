"""Parsers of option values: a text becomes a number, so that configs hold no text to be read again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin

from cifar_cli.errors import UsageError

_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_UNITS = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_Value = TypeVar("_Value", int, float)


class BadValue(ValueError):
    """A text that an option does not accept. `explained` turns it into a usage error that names the flag."""

    def __init__(self, reason: str, *, example: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """The rest of the sentence "--flag TEXT …"."""
        self.example = example
        """A value that the option accepts."""


def _converted(convert: Callable[[str], _Value], text: str, bad: BadValue) -> _Value:
    """What `convert` reads. Raises `bad` where that raises ValueError."""
    try:
        return convert(text)
    except ValueError:
        raise bad from None


def integer(text: str) -> int:
    """Read "128". Raises BadValue."""
    return _converted(int, text, BadValue("is not a whole number", example="8"))


def number(text: str) -> float:
    """Read "0.1" or "1e-3". Raises BadValue, also for "nan"."""
    bad = BadValue("is not a number", example="0.1")
    value = _converted(float, text, bad)
    if math.isnan(value):
        raise bad
    return value


def integer_or_auto(text: str) -> int | Literal["auto"]:
    """Read "128" or "auto". Raises BadValue."""
    bad = BadValue("is neither a whole number nor auto", example="128")
    return "auto" if text == "auto" else _converted(int, text, bad)


def duration(text: str) -> float:
    """Read "HH:MM:SS", "MM:SS", "SS", or "1h30m" with any of h, m and s, as seconds. Raises BadValue."""
    units = _UNITS.fullmatch(text)
    parts = [part or "0" for part in units.groups()] if text and units else text.split(":")
    if len(parts) > 3 or not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise BadValue("is not a duration", example="00:20:00")
    return float(sum(int(part) * 60**place for place, part in enumerate(reversed(parts))))


def seed(text: str) -> int:
    """Read a seed of torch's generators. Raises BadValue for more than 63 bits."""
    value = integer(text)
    if value >= 2**63:
        raise BadValue("is too large for a seed", example="42")
    return value


def byte_count(text: str) -> int:
    """Read "24GiB", "100MB" or "512B". Raises BadValue, also without a unit and for less than one byte."""
    digits = text.strip().rstrip("bBkKmMgGiI ")
    unit = text.strip()[len(digits) :].strip().lower()
    if not unit and digits.isdecimal():
        raise BadValue("has no unit", example=f"{digits}GiB" if len(digits) < 4 else f"{digits}B")
    try:
        size = float(digits) * _BYTES[unit]
    except (ValueError, KeyError):
        raise BadValue("is not an amount of memory", example="24GiB") from None
    if not 1 <= size < math.inf:
        raise BadValue("is less than one byte" if size < 1 else "is not an amount of memory", example="24GiB")
    return int(size)


def sides(text: str) -> tuple[int, int]:
    """Read "224" or "224x320", height first, as height and width in pixels. Raises BadValue."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
        raise BadValue("is not a size in pixels", example="224x320")
    return int(numbers[0]), int(numbers[-1])


def margin(text: str) -> float:
    """Read "5%" or "0.05" as a fraction. Raises BadValue outside 0 to 90 %."""
    bad = BadValue("is not a share between 0% and 90%", example="5%")
    fraction = _converted(float, text.removesuffix("%"), bad) / (100 if text.endswith("%") else 1)
    if not 0 <= fraction <= 0.9:
        raise bad
    return fraction


def share(text: str) -> float:
    """Read "20%" or "0.2" as a fraction. Raises BadValue unless it is between 0 and 1."""
    bad = BadValue("is not a share between 0% and 100%", example="20%")
    fraction = _converted(float, text.removesuffix("%"), bad) / (100 if text.endswith("%") else 1)
    if not 0 < fraction < 1:
        raise bad
    return fraction


def two_columns(text: str) -> tuple[str, str]:
    """Read "id,breed". Raises BadValue unless it is two different texts."""
    words = [word.strip() for word in text.split(",")]
    if len(words) != 2 or not all(words) or words[0] == words[1]:
        raise BadValue("is not two columns", example="id,breed")
    return words[0], words[1]


def seeds(text: str) -> tuple[int, ...]:
    """Read "0,1,2": different whole numbers, 0 or more. Raises BadValue."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise BadValue("is not a list of whole numbers", example="0,1,2")
    numbers = tuple(seed(word) for word in words)
    if len(set(numbers)) < len(numbers):
        raise BadValue("names a seed twice", example="0,1,2")
    return numbers


def one_of(values: Iterable[Any]) -> Callable[[str], Any]:
    """A parser for a closed set. It raises BadValue, which names the allowed values."""
    allowed = {str(value): value for value in values}

    def parse(text: str) -> Any:
        if text not in allowed:
            near = get_close_matches(text.lower(), allowed, n=1, cutoff=0.6)
            raise BadValue(f"is not one of {', '.join(allowed)}", example=(near or list(allowed))[0])
        return allowed[text]

    return parse


def parser_of(annotation: Any) -> Callable[[str], Any] | None:
    """The parser of an option of this type; None where Typer's own reading of it is right."""
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    return {int: integer, float: number}.get(annotation)


def explained(flag: str, parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`parse` with its BadValue turned into a usage error about `flag`. Defaults, which are not text, pass through."""

    def parse_or_explain(value: Any) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value
        except BadValue as error:
            shown = value if value.strip() else repr(value)
            raise UsageError(
                f"{flag} {shown} {error.reason}", remedy=f"pass for example {flag} {error.example}"
            ) from None

    return parse_or_explain
