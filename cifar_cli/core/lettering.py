r"""Text from outside in a picture: class names, file names, names of models and datasets.

Matplotlib reads text between two $ as mathematics, draws an empty box for a character that no font has, and lets long
text run off the picture. Every function that draws text is decorated with `plain_lettering`, and passes text from
outside through `lettered`, `titled` or `class_names`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font, LoadFlags

from cifar_cli.printable import printable

MAX_EMS = 12.0  # of a class name: about 20 letters
_SIZE = 100  # points, of the measured glyphs
_LEFT_TO_RIGHT = "\u200e"  # ends a text with Arabic or Hebrew: numbers that follow it stay behind it
_USUAL = "DejaVu Sans"  # comes with matplotlib
_FALLBACKS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Source Han Sans"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAGothic", "NanumGothic"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "SimHei", "Nirmala UI", "Leelawadee UI", "Segoe UI Symbol"),
    *("Hiragino Sans", "PingFang SC", "Heiti TC", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai"),
    *("Noto Emoji", "Segoe UI Emoji", "Symbola"),
    "STIXGeneral",  # symbols; comes with matplotlib
)
"""Common fonts of Linux, Windows and macOS for scripts that DejaVu Sans lacks; those that are installed are used.

Fonts of coloured pixels, such as Noto Color Emoji, are no help: matplotlib draws outlines.
"""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def plain_lettering(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function that draws: its text is never mathematics, and is drawn in any font that has the glyphs."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with matplotlib.rc_context({"text.parse_math": False, "font.family": list(families())}):
            return draw(*args, **kwargs)

    return drawn


@cache
def families() -> tuple[str, ...]:
    """The installed fonts for text, in the order in which they are asked for a glyph."""
    installed = set(font_manager.get_font_names())
    return _USUAL, *(name for name in _FALLBACKS if name in installed)


def lettered(text: str, ems: float = MAX_EMS, *, from_end: bool = False) -> str:
    r"""The text as a picture shows it: cut to a width, and characters that no installed font has as escapes (\u732b).

    ems: the width, in units of the font's size. from_end: keep the end, as of a path.
    """
    characters = list(map(_drawable, printable(text)))
    if sum(map(ems_of, characters)) > ems:
        width, kept = ems_of("…"), 0
        for each in reversed(characters) if from_end else characters:
            width += ems_of(each)
            if width > ems:
                break
            kept += 1
        characters = ["…", *characters[len(characters) - kept :]] if from_end else [*characters[:kept], "…"]
    shown = "".join(characters)
    return shown + _LEFT_TO_RIGHT if any(unicodedata.bidirectional(each) in ("R", "AL") for each in shown) else shown


def class_names(classes: Sequence[str], ems: float = MAX_EMS) -> list[str]:
    """The names of all classes, lettered. A name that is then unclear begins with the number of its class.

    Unclear is a name with escapes, and one that its shortening made equal to another.
    """
    names = [lettered(name, ems) for name in classes]
    often = Counter(names)
    return [
        lettered(f"{number}: {name}", ems) if often[shown] > 1 or _with_escapes(name) != name else shown
        for number, (name, shown) in enumerate(zip(classes, names, strict=True))
    ]


def titled(text: str, *, inches: float, points: float, lines: int = 2) -> str:
    """A title, lettered and broken into lines that fit a width; what exceeds the last line is cut."""
    ems, shown = inches * 72 / points, [""]
    for word in lettered(text, ems * lines).split(" "):
        longer = f"{shown[-1]} {word}" if shown[-1] else word
        if ems_of(longer) <= ems:
            shown[-1] = longer
        else:
            shown += [word] if shown[-1] else []
            shown[-1] = shown[-1] or word
    if len(shown) > lines:
        shown[lines - 1 :] = [" ".join(shown[lines - 1 :])]
    return "\n".join(lettered(line, ems) for line in shown)


def ems_of(text: str) -> float:
    """How wide a drawn text is, in units of the font's size."""
    return sum(map(_advance, text))


def _with_escapes(text: str) -> str:
    return "".join(map(_drawable, printable(text)))


@cache
def _drawable(character: str) -> str:
    if _font_of(character) is not None:
        return character
    return character.encode("unicode_escape").decode()


@cache
def _advance(character: str) -> float:
    font = _font_of(character)
    if font is None:
        return 1.0
    font.set_size(_SIZE, 72)
    return float(font.load_char(ord(character), flags=LoadFlags.NO_HINTING).linearHoriAdvance) / 65536 / _SIZE


def _font_of(character: str) -> FT2Font | None:
    return next((font for font in _fonts() if font.get_char_index(ord(character))), None)


@cache
def _fonts() -> tuple[FT2Font, ...]:
    return tuple(FT2Font(font_manager.findfont(name)) for name in families())
