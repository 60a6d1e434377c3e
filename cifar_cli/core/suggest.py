"""Nearest names, for the message about an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return "did you mean a, b or c?", or the list of known names when none is near and they are few."""
    known = sorted(known)
    lowered = {item.lower(): item for item in known}
    matches = [lowered[match] for match in get_close_matches(name.lower(), lowered, n=most, cutoff=0.5)]
    if matches:
        return f"did you mean {' or '.join(matches)}?"
    return f"choose one of {', '.join(known)}" if len(known) <= 12 else "check the spelling"
