"""Results in notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

MOST_ROWS = 30


class NotebookView:
    """Shows a result in a notebook as the table of its `to_dict()`. A mixin for dataclasses with slots."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Read by Jupyter."""
        return f"<strong>{escape(type(self).__name__)}</strong>{_html(self.to_dict())}"


def _html(value: Any) -> str:
    """Nested values as nested tables; rows of equal keys as one table with headings."""
    if isinstance(value, Mapping):
        rows = "".join(f"<tr><th>{escape(str(key))}</th><td>{_html(item)}</td></tr>" for key, item in value.items())
        return f"<table>{rows}</table>"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _rows(value) if value and all(isinstance(item, Mapping) for item in value) else _list(value)
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _rows(items: Sequence[Mapping[str, Any]]) -> str:
    headings = "".join(f"<th>{escape(str(key))}</th>" for key in items[0])
    shown = items[:MOST_ROWS]
    cells = ("".join(f"<td>{_html(item.get(key))}</td>" for key in items[0]) for item in shown)
    rows = "".join(f"<tr>{row}</tr>" for row in cells)
    more = f"<p>and {len(items) - MOST_ROWS:,} more</p>" if len(items) > MOST_ROWS else ""
    return f"<table><tr>{headings}</tr>{rows}</table>{more}"


def _list(items: Sequence[Any]) -> str:
    more = f" and {len(items) - MOST_ROWS:,} more" if len(items) > MOST_ROWS else ""
    return ", ".join(_html(item) for item in items[:MOST_ROWS]) + more
