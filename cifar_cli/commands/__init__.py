"""One module per subcommand: each checks what is cheap, calls one function of the core, shows the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

COMMANDS: dict[str, Callable[..., Any]] = {}
