"""Config of a report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cifar_cli.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Runs to report on. Raises ConfigError without a run, or for a file that is not named as a page."""

    runs: tuple[Path, ...]
    out: Path | None = None
    """The page to write; None for report.html in the run directory, or in the folder of the first of several."""
    explain: bool = False
    """Run the best weights to find out which part of each mistake and suspect its prediction rests on."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("there is no run to report on", remedy="pass a run directory")
        if self.out is not None and self.out.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"--out {self.out} is not named as a page", remedy="pass for example --out report.html")

    @property
    def page(self) -> Path:
        """The file to write."""
        if self.out is not None:
            return self.out
        if len(self.runs) == 1:
            return self.runs[0] / "report.html"
        return Path(os.path.abspath(self.runs[0])).parent / "report.html"  # noqa: PTH100 - of "." and ".." too
