"""Suggest names similar to an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return "did you mean a or b?", or a list of the known names if none is similar and there are at most 12."""
    known = sorted(known)
    lowered = {item.lower(): item for item in known}
    matches = [lowered[match] for match in get_close_matches(name.lower(), lowered, n=most, cutoff=0.5)]
    if matches:
        return f"did you mean {' or '.join(matches)}?"
    return f"choose one of {', '.join(known)}" if len(known) <= 12 else "check the spelling"
