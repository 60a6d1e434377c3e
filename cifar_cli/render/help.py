"""The help page of a command: options in titled panels, wrapped at words, examples at the end."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cifar_cli.render.console import console_on

LEFT = 24  # columns of the flags; a longer declaration has the line to itself
NO_BREAK = "\u00a0"
NARROWEST, WIDEST = 60, 120  # shorter and longer lines are hard to read


def help_page(command: Any, ctx: Any) -> str:
    """The text of a page, as wide as the terminal within limits, with colours if it has them."""
    console = console_on(sys.stdout)
    console.width = min(max(console.width, NARROWEST), WIDEST)
    with console.capture() as captured:
        console.print(Text(f"\n{command.get_usage(ctx)}\n", style="bold"))
        console.print(Text(f"{_paragraphs(command.help)}\n"))
        right = console.width - LEFT - 6  # without the border and the gap between the columns
        for title, rows in _panels(command, ctx, right).items():
            console.print(Panel(Group(*rows), title=title, title_align="left", border_style="dim"))
    return captured.get()


def _panels(command: Any, ctx: Any, width: int) -> dict[str, list[RenderableType]]:
    """The rows of each panel by its title, in the order in which the options are declared, and the examples.

    width: of descriptions.
    """
    panels: dict[str, list[RenderableType]] = {}
    for name, sub in getattr(command, "commands", {}).items():
        panels.setdefault("Commands", []).append(
            _row(Text(name, style="bold cyan"), Text(_paragraphs(sub.help).split("\n\n")[0]))
        )
    last = "Options"
    for param in command.get_params(ctx):
        if not getattr(param, "hidden", False):
            last = param.rich_help_panel or last  # `--help`, which Typer adds at the end, belongs to the last panel
            panels.setdefault(last, []).append(_row(_declaration(param), _description(param, ctx, width)))
    for line in (command.epilog or "").splitlines():
        style = "dim" if line.startswith("#") else ""
        panels.setdefault("Examples", []).append(Text(line, style=style, no_wrap=True, overflow="ignore"))
    return panels


def _row(left: Text, right: Text) -> RenderableType:
    """Two columns, or the left text above the right one where it is too long for its column."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=LEFT, no_wrap=True)
    table.add_column(ratio=1)
    if len(left) > LEFT:
        table.add_row("", right)
        return Group(left, table)
    table.add_row(left, right)
    return table


def _declaration(param: Any) -> Text:
    """Every spelling, the short ones first, and the placeholder of the value: "-b, --batch N"."""
    if param.param_type_name == "argument":
        return Text(param.metavar, style="bold yellow")
    spellings = sorted(param.opts, key=lambda name: name.startswith("--"))
    pair = [", ".join(spellings), ", ".join(param.secondary_opts)]
    text = Text(" / ".join(filter(None, pair)), style="bold cyan")
    if not param.is_flag and param.metavar:
        text.append(f" {param.metavar}", style="yellow")
    return text


def _description(param: Any, ctx: Any, width: int) -> Text:
    """The help text and the default. A short default stays on one line."""
    default = _default(param, ctx)
    end = "[required]" if param.required else f"[default: {default}]" if default else ""
    end = end.replace(" ", NO_BREAK) if len(end) <= width // 2 else end
    lines = textwrap.wrap(f"{_paragraphs(param.help)} {end}", width, break_long_words=False, break_on_hyphens=False)
    text = Text("\n".join(lines).replace(NO_BREAK, " "))
    text.highlight_regex(r"\[(default: [^\]]*|required)\]$", "dim")
    return text


def _default(param: Any, ctx: Any) -> str:
    """The default value as the user would type it; empty where the option has none."""
    if isinstance(param.show_default, str):
        return param.show_default
    value = param.get_default(ctx, call=False)
    if value is None or (getattr(param, "is_flag", False) and not param.secondary_opts):
        return ""
    if getattr(param, "is_flag", False):
        return str(param.opts[0] if value else param.secondary_opts[0])
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _paragraphs(text: str | None) -> str:
    """The text with its line breaks undone, except those between paragraphs."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))
