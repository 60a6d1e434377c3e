"""Results of `cifar doctor`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from cifar_cli.core.notebook import NotebookView

State = Literal["ok", "warning", "error"]
STATES: tuple[State, ...] = ("ok", "warning", "error")  # from the best to the worst
EXIT_STATUS: dict[State, int] = {"ok": 0, "warning": 3, "error": 1}
"""2 is a usage error's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One part of the installation."""

    name: str
    state: State
    found: str
    """What is installed or available, in a phrase."""
    remedy: str | None = None
    """How to mend it; None where nothing needs to be done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport(NotebookView):
    """Every check, in the order of the table."""

    checks: tuple[Check, ...]

    @property
    def worst(self) -> State:
        return max((check.state for check in self.checks), key=STATES.index, default="ok")

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.worst]

    def count(self, state: State) -> int:
        return sum(check.state == state for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {"state": self.worst, "checks": [asdict(check) for check in self.checks]}
