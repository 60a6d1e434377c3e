"""Draw the picture of README.md, test accuracy by minutes of training, from the table in docs/performance.md.

Usage: python benchmarks/accuracy_by_minutes.py

It trains nothing. After a change of the table, run it and commit the picture with the page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "accuracy-by-minutes.svg"
TABLE = re.compile(r"<!-- accuracy by minutes begins -->\n(.*?)<!-- accuracy by minutes ends -->", re.DOTALL)

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 40, 52  # of the axes, in pixels
TICKS = 5  # at most, on each axis
CHARACTER = 6.8  # mean width in pixels
NEAR = 24.0  # pixels between a label and another point, below which a reader may take it for that point's
ANCHORS = {"right": "start", "left": "end", "above": "middle", "below": "middle"}
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328;
         paint-order: stroke; stroke: #ffffff; stroke-width: 5; }
  .small { font-size: 12px; fill: #59636e; }
  .grid { stroke: #d1d9e0; }
  .point { fill: #0969da; stroke: #0969da; stroke-width: 2; }
  .rebuilt { fill: #bc4c00; stroke: #bc4c00; }
  .assumed { fill: none; }
  .ground { fill: #ffffff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; stroke: #0d1117; }
    .small { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .point { fill: #4493f8; stroke: #4493f8; }
    .rebuilt { fill: #f0883e; stroke: #f0883e; }
    .assumed { fill: none; }
    .ground { fill: #0d1117; }
  }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the table."""

    name: str
    minutes: float
    percent: float
    own: bool
    """Trained by `cifar train`, not by the course's program."""
    timed: bool
    """The time was measured in this run."""

    @property
    def label(self) -> tuple[str, str]:
        """Two lines."""
        about = "" if self.timed else "about "
        return self.name, f"{self.percent:.2f} %, {about}{self.minutes:.1f} min"


def rows(page: str) -> list[Row]:
    """The rows of the table in the page. Raises ValueError where there is no such table."""
    found = TABLE.search(page)
    if found is None:
        raise ValueError("the page has no table of accuracy by minutes")
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in found[1].strip().splitlines()[2:]]
    return [
        Row(
            name=name.replace("`", ""),
            minutes=float(minutes.removeprefix("about ")),
            percent=float(accuracy.removesuffix(" %")),
            own="the course's program" not in name,
            timed=not minutes.startswith("about "),
        )
        for name, minutes, accuracy, *_ in cells
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle of the picture, in pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    def shared(self, other: Box) -> float:
        """Area that both cover."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        return max(across, 0) * max(down, 0)

    def distance(self, x: float, y: float) -> float:
        """From its nearest edge to a point; 0 inside."""
        across = max(self.left - x, x - self.right, 0)
        down = max(self.top - y, y - self.top - self.height, 0)
        return (across**2 + down**2) ** 0.5


def labels(points: Sequence[tuple[float, float]], found: Sequence[Row]) -> list[tuple[str, Box]]:
    """Where the label of each point stands.

    That is the first side on which it covers least of the points and of other labels, and is least near another point.
    """
    frame = Box(left=0, top=0, width=WIDTH, height=HEIGHT - BOTTOM)
    taken = [Box(left=x - 7, top=y - 7, width=14, height=14) for x, y in points]
    placed: list[tuple[str, Box]] = []
    for (x, y), row in zip(points, found, strict=True):
        width, height = CHARACTER * max(map(len, row.label)), 34.0
        corners = {
            "right": (x + 12, y - height / 2),
            "left": (x - 12 - width, y - height / 2),
            "above": (x - width / 2, y - 8 - height),
            "below": (x - width / 2, y + 8),
        }
        boxes = {side: Box(left=at[0], top=at[1], width=width, height=height) for side, at in corners.items()}
        covered = {
            side: sum(box.shared(other) for other in taken) + width * height - box.shared(frame)
            for side, box in boxes.items()
        }
        near = {
            side: sum(max(NEAR - box.distance(*other), 0) for other in points if other != (x, y))
            for side, box in boxes.items()
        }
        side = min(boxes, key=lambda side: (covered[side], near[side]))
        taken.append(boxes[side])
        placed.append((side, boxes[side]))
    return placed


def drawn(found: Sequence[Row]) -> str:
    """The picture as SVG, light or dark as the reader's system."""
    right = next(step for step in range(5, 1000, 5) if step >= max(row.minutes for row in found) + 1)
    low = 10 * int(min(row.percent for row in found) // 10)
    high = min(100, 10 * int(max(row.percent for row in found) // 10 + 1))

    def x(minutes: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * minutes / right

    def y(percent: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (percent - low) / (high - low)

    parts = [f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="6"/>']
    for percent in _ticks(low, high):
        at = y(percent)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="small" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{percent} %</text>')
    for minutes in _ticks(0, right):
        parts.append(
            f'<text class="small" x="{x(minutes):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{minutes}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="small" x="{middle:.0f}" y="{HEIGHT - 12}" text-anchor="middle">minutes of training</text>'
    )
    points = [(x(row.minutes), y(row.percent)) for row in found]
    for row, at, (side, box) in zip(found, points, labels(points, found), strict=True):
        kind = "point" + " rebuilt" * (not row.own) + " assumed" * (not row.timed)
        parts.append(f'<circle class="{kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="5"/>')
        beside = {"start": box.left, "end": box.right, "middle": at[0]}[ANCHORS[side]]
        for kind, below, line in zip(("", "small"), (13, 29), row.label, strict=True):
            place = f'x="{beside:.1f}" y="{box.top + below:.1f}" text-anchor="{ANCHORS[side]}"'
            parts.append(f'<text class="{kind}" {place}>{escape(line)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">'
    title = "<title>Test accuracy on CIFAR-10 by minutes of training on two CPU cores</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _ticks(low: int, high: int) -> range:
    """Round numbers from `low` to `high`."""
    step = next(step for step in (5, 10, 20, 50, 100, 200) if (high - low) / step <= TICKS)
    return range(low, high + 1, step)


if __name__ == "__main__":
    PICTURE.write_text(drawn(rows(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
