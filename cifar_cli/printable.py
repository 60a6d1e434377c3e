r"""Text from outside, such as a file's name or a server's answer, made safe to print.

A terminal obeys control characters: they move the cursor, change colours, and forge lines that look like this program's
own. Other characters are invisible, or change the order in which text is shown. All of them are written as escapes
(\x1b, \u202e), so that a message shows what is really there.
"""

from __future__ import annotations

import re

MAX_PRINTED = 2000  # characters of one message
# Control characters and lone surrogates. No name may contain one; other invisible characters are accepted.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with every character escaped that isn't printable; a very long text is cut in the middle."""
    if len(text) > MAX_PRINTED:
        half = MAX_PRINTED // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text if text.isprintable() else "".join(map(_escaped, text))


def has_control(text: str) -> bool:
    """Whether a text contains control characters, such as line breaks, or bytes that aren't UTF-8 (surrogates)."""
    return not text.isprintable() and _CONTROL.search(text) is not None


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
