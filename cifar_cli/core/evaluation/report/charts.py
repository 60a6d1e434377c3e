"""The charts of a report: SVG drawn by matplotlib, with a title element on every point.

Matplotlib is installed already, draws real vector charts of a few kilobytes, and needs no script in the page; the
titles are tooltips in every browser, and the page's script shows them at once.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cifar_cli.core.lettering import lettered, plain_lettering

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Colours that the page's style sheet replaces: matplotlib writes them, and no other element has them.
_INK, _GRID = "#010101", "#020202"
_SERIES = [f"#0{number}0{number}0{number}" for number in range(3, 10)]
SERIES = len(_SERIES)
_WIDTH, _HEIGHT = 5.4, 3.2  # inches at 72 points: 389 points wide, so that a phone shows the letters in their size
_LEGEND_EMS = 14.0  # of a name in the legend, which has two side by side


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    """Number of its colour, 0 to SERIES - 1."""
    dashed: bool = False
    marked: bool = True
    """Draw its points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A drawn chart."""

    name: str
    title: str
    summary: str
    """What it shows, for people who can't see it."""
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Its values as a table."""


@plain_lettering
def line_chart(
    name: str,
    title: str,
    lines: Sequence[Series],
    *,
    summary: str,
    x_label: str,
    y_label: str,
    percent: bool = False,
    marks: Mapping[str, float] | None = None,
    level: tuple[str, float] | None = None,
    from_zero: bool = False,
) -> Chart:
    """Lines over epochs or steps.

    marks: vertical lines, by their text. level: a horizontal line. from_zero: begin the y axis at 0.
    """
    figure, axes = _figure()
    titles: dict[str, list[str]] = {}
    legend: list[tuple[Line2D, str]] = []  # not matplotlib's own, which leaves out names that begin with _
    for number, line in enumerate(lines):
        colour, gid = _SERIES[line.colour % SERIES], f"points-{number}"
        (drawn,) = axes.plot(line.x, line.y, color=colour, ls="--" if line.dashed else "-", lw=1.6)
        legend.append((drawn, lettered(line.name, _LEGEND_EMS)))
        size = 3.5 if line.marked else 0.0
        axes.plot(line.x, line.y, ls="", marker="o", ms=size, color=colour)
        axes.plot(line.x, line.y, ls="", marker="o", ms=12, color=colour, alpha=0, gid=gid)  # what the pointer hits
        shown = [(x, y) for x, y in zip(line.x, line.y, strict=True) if x == x and y == y]
        titles[gid] = [f"{line.name}, {x_label} {x:g}: {_value(y, percent=percent)}" for x, y in shown]
    if level is not None:
        legend.append((axes.axhline(level[1], color=_INK, lw=0.9, ls=":"), level[0]))
    for text, place in (marks or {}).items():
        legend.append((axes.axvline(place, color=_INK, lw=0.9, ls="--"), text))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if from_zero:
        axes.set_ylim(bottom=0)
    figure.legend(*zip(*legend, strict=True), loc="upper center", ncols=2, frameon=False, fontsize=10, labelcolor=_INK)
    _fit(figure, entries=len(legend))
    xs = sorted({x for line in lines for x in line.x})
    values = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    rows = tuple((f"{x:g}", *(_value(at[x], percent=percent) if x in at else "" for at in values)) for x in xs)
    columns = (x_label, *(line.name for line in lines))
    return Chart(name=name, title=title, summary=summary, svg=_svg(figure, name, titles), columns=columns, rows=rows)


@plain_lettering
def bar_chart(name: str, title: str, bars: Mapping[str, float], *, summary: str, x_label: str) -> Chart:
    """Horizontal bars, the first one on top."""
    figure, axes = _figure(height=0.3 * len(bars) + 0.8)
    drawn = axes.barh([lettered(label) for label in bars], list(bars.values()), color=_SERIES[0])
    titles = {}
    for number, (bar, (label, value)) in enumerate(zip(drawn, bars.items(), strict=True)):
        bar.set_gid(f"bar-{number}")
        titles[f"bar-{number}"] = [f"{label}: {value:,.1f}"]
    axes.invert_yaxis()
    axes.set_xlabel(x_label)
    axes.grid(visible=False, axis="y")
    figure.subplots_adjust(left=0.42, right=0.97, top=0.98, bottom=0.5 / figure.get_figheight())
    rows = tuple((label, f"{value:,.1f}") for label, value in bars.items())
    svg = _svg(figure, name, titles)
    return Chart(name=name, title=title, summary=summary, svg=svg, columns=("part", x_label), rows=rows)


def _value(value: float, *, percent: bool) -> str:
    return f"{value:.2%}" if percent else f"{value:.4g}"


def _figure(height: float = _HEIGHT) -> tuple[Figure, matplotlib.axes.Axes]:
    figure = Figure(figsize=(_WIDTH, height))
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=10)
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=10.5)
    return figure, axes


def _fit(figure: Figure, *, entries: int) -> None:
    """Room for the axes' labels, and for the legend in two columns above."""
    height = figure.get_figheight()
    rows = -(-entries // 2)
    figure.subplots_adjust(left=0.17, right=0.97, top=1 - (0.12 + 0.2 * rows) / height, bottom=0.52 / height)


def _svg(figure: Figure, name: str, titles: Mapping[str, Sequence[str]]) -> str:
    """The figure as an element for the page. titles: texts of the points, by the gid of the line that has them."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(file.getvalue())
    for first in root.findall(f"{{{_SVG}}}defs"):
        root.remove(first)  # a style sheet, which would hold for the whole page
    for gid, texts in titles.items():
        (group,) = root.iterfind(f".//*[@id='{gid}']")
        points = group.findall(f".//{{{_SVG}}}use") or [group]
        for point, text in zip(points, texts, strict=False):
            point.set("class", "point")
            ElementTree.SubElement(point, f"{{{_SVG}}}title").text = text
    for attribute in ("width", "height"):
        root.attrib.pop(attribute)
    text = ElementTree.tostring(root, encoding="unicode")
    # Several charts are in one page: their ids must differ.
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    for number, colour in enumerate(_SERIES):
        text = text.replace(colour, f"var(--series-{number})")
    return text.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
