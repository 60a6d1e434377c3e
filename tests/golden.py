"""Golden files: complete outputs that tests compare with, rewritten by `pytest --update-golden`."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from rich.console import RenderableType

from cifar_cli.render.console import console_on

FOLDER = Path(__file__).parent / "golden_files"
WIDTHS = (80, 120)


def rendered(*renderables: RenderableType, width: int) -> str:
    """The text of tables at a terminal width, without colour and without trailing blanks."""
    console = console_on(sys.stdout, width=width, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        for renderable in renderables:
            console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


class Golden:
    """Compares a text with the golden file of a name, or rewrites the file.

    update: write instead of comparing.
    """

    def __init__(self, *, update: bool) -> None:
        self.update = update

    def __call__(self, name: str, text: str) -> None:
        """Compare `text` with golden_files/NAME.txt. Raises AssertionError with a diff."""
        self.file(FOLDER / f"{name}.txt", text)

    def file(self, path: Path, text: str) -> None:
        """Compare `text` with a file of the repository, or rewrite it. Raises AssertionError with a diff."""
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.is_file(), f"{path} is missing: run pytest -m '' --update-golden and read what it writes"
        expected = path.read_text(encoding="utf-8")
        diff = difflib.unified_diff(expected.splitlines(), text.splitlines(), "golden", "now", lineterm="")
        assert text == expected, "\n".join([f"{path.name} differs", *diff])

    def tables(self, name: str, *renderables: RenderableType) -> None:
        """Compare tables at 80 and at 120 columns; no line may be wider than the terminal, no text cut."""
        for width in WIDTHS:
            text = rendered(*renderables, width=width)
            assert max(map(len, text.splitlines()), default=0) <= width, text
            assert "…" not in text, text
            self(f"{name}-{width}", text)
