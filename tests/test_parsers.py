"""Texts of the command line as numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from cifar_cli import parsers
from cifar_cli.errors import UsageError
from cifar_cli.parsers import BadValue


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parsers.integer, "-3", -3),
        (parsers.number, "1e-3", 0.001),
        (parsers.integer_or_auto, "128", 128),
        (parsers.integer_or_auto, "auto", "auto"),
        (parsers.duration, "00:20:00", 1200),
        (parsers.duration, "1:30", 90),
        (parsers.duration, "45", 45),
        (parsers.byte_count, "24GiB", 24 * 2**30),
        (parsers.byte_count, "100 MB", 10**8),
        (parsers.byte_count, "1.5kib", 1536),
        (parsers.byte_count, "512B", 512),
        (parsers.sides, "224", (224, 224)),
        (parsers.sides, "224x320", (224, 320)),
        (parsers.margin, "5%", 0.05),
        (parsers.margin, "0.9", 0.9),
        (parsers.margin, "0", 0.0),
        (parsers.seeds, "0, 1,2", (0, 1, 2)),
        (parsers.one_of([2, 4]), "4", 4),
    ],
)
def test_texts_become_values(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        (parsers.integer, "1.5", "is not a whole number"),
        (parsers.number, "much", "is not a number"),
        (parsers.number, "nan", "is not a number"),
        (parsers.integer_or_auto, "many", "is neither a whole number nor auto"),
        (parsers.duration, "soon", "is not a duration"),
        (parsers.duration, "1:2:3:4", "is not a duration"),
        (parsers.duration, "-1", "is not a duration"),
        (parsers.byte_count, "abc", "is not an amount of memory"),
        (parsers.byte_count, "20XB", "is not an amount of memory"),
        (parsers.byte_count, "inf", "is not an amount of memory"),
        (parsers.byte_count, "nan", "is not an amount of memory"),
        (parsers.byte_count, "24", "has no unit"),
        (parsers.byte_count, "0B", "is less than one byte"),
        (parsers.sides, "224x", "is not a size in pixels"),
        (parsers.sides, "1x2x3", "is not a size in pixels"),
        (parsers.sides, "-4", "is not a size in pixels"),
        (parsers.margin, "95%", "is not a share between 0% and 90%"),
        (parsers.margin, "-1%", "is not a share between 0% and 90%"),
        (parsers.margin, "some", "is not a share between 0% and 90%"),
        (parsers.seeds, "1,x", "is not a list of whole numbers"),
        (parsers.seeds, "-1", "is not a list of whole numbers"),
        (parsers.seeds, "1,1", "names a seed twice"),
        (parsers.one_of([2, 4]), "3", "is not one of 2, 4"),
    ],
)
def test_a_bad_value_is_refused_and_the_example_shown_instead_is_good(
    parse: Callable[[str], Any], text: str, reason: str
) -> None:
    with pytest.raises(BadValue) as caught:
        parse(text)
    assert caught.value.reason == reason
    parse(caught.value.example)


@pytest.mark.parametrize(("text", "shown"), [("", "''"), (" ", "' '"), ("one", "one")])
def test_an_empty_value_is_quoted_in_the_message(text: str, shown: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsers.explained("--seeds", parsers.seeds)(text)
    assert caught.value.what == f"--seeds {shown} is not a list of whole numbers"


def test_a_name_that_is_almost_right_gets_the_right_one_as_the_example() -> None:
    with pytest.raises(BadValue) as caught:
        parsers.one_of(["constant", "one-cycle"])("onecycle")
    assert caught.value.example == "one-cycle"


def test_a_bad_value_is_a_usage_error_that_names_the_flag_and_shows_a_good_value() -> None:
    read = parsers.explained("--max-time", parsers.duration)
    with pytest.raises(UsageError) as caught:
        read("soon")
    assert caught.value.exit_code == 2
    assert caught.value.what == "--max-time soon is not a duration"
    assert caught.value.remedy == "pass for example --max-time 00:20:00"
    assert read(90.0) == 90.0  # a default


def test_types_have_the_parsers_of_their_values() -> None:
    assert parsers.parser_of(int) is parsers.integer
    assert parsers.parser_of(float) is parsers.number
    assert parsers.parser_of(str) is None
    choice = parsers.parser_of(Literal["a", "b"])
    assert choice is not None
    assert choice("b") == "b"
