"""Draw what commands print on a terminal of 80 columns as an SVG picture for the pages.

Usage: python benchmarks/terminal_picture.py PICTURE.svg "cifar doctor" ...

The commands are run, one after the other; the picture shows each of them and its standard output.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 80
ELSEWHERE = re.compile(r"@font-face \{.*?\}\n|<!-- .*? -->\n", re.DOTALL)  # a font from another server, an address


def picture(*lines: RenderableType, title: str) -> str:
    """A terminal window with these lines. Its colours are dark on light and on dark pages."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH, color_system="truecolor", force_terminal=True)
    for line in lines:
        console.print(line, highlight=False, markup=False)
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id="terminal")
    return ELSEWHERE.sub("", svg).replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace") + "\n"


def prompt(command: str) -> Text:
    """The line on which the command is typed."""
    return Text.assemble(("$ ", "dim"), (command, "bold"))


def printed(command: str) -> Text:
    """What the command prints on its standard output, with its colours."""
    env = os.environ | {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}
    done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, text=True, check=False, env=env)
    return Text.from_ansi(done.stdout.rstrip("\n"))


if __name__ == "__main__":
    out, *commands = sys.argv[1:]
    shown = [line for command in commands for line in (prompt(command), printed(command))]
    Path(out).write_text(picture(*shown, title=commands[0]), encoding="utf-8")
