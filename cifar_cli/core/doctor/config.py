"""Config of `cifar doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig:
    """The folders to look at, and the model hub to ask."""

    data_dir: Path = Path("data")
    runs_dir: Path = Path("runs")
    hub: str | None = None
    """Its address; None for the one that the hub's client is set to."""
    hub_seconds: float = 3.0
    """How long to wait for the hub's answer."""
