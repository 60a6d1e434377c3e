"""Measurements of this machine that later runs use again, as JSON files in the user's cache folder.

The same command makes the same choice again, though its own measurement would differ a little.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cifar_cli.core.limits import MAX_CACHE_BYTES
from cifar_cli.core.regular import read_regular

LOCK_SECONDS = 5.0


def cache_file(name: str) -> Path:
    """cifar/<name>.json in $XDG_CACHE_HOME (or ~/.cache). Raises RuntimeError where the user has no home directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cifar" / f"{name}.json"


def remembered(name: str, key: str) -> Any:
    """The value kept under a key; None where there is none or the file can't be read."""
    with suppress(OSError, RuntimeError):
        return _read(cache_file(name)).get(key)
    return None


def remember(name: str, key: str, value: Any, *, replace: bool = False) -> Any:
    """Keep a value. Returns the one that stands: of two runs that measure at the same time, the first one's.

    replace: whether a value that is there already is given up; None removes it. A file that can't be written is
    ignored.
    """
    with suppress(OSError, RuntimeError, Timeout):
        path = cache_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
            known = _read(path)
            if not replace and known.get(key) is not None:
                return known[key]
            known[key] = value
            kept = {each: held for each, held in known.items() if held is not None}
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                written = Path(folder) / path.name
                written.write_text(json.dumps(kept, indent=1), encoding="utf-8")
                written.replace(path)
    return value


def _read(path: Path) -> dict[str, Any]:
    """The content of a file; nothing where it isn't a JSON object."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(read_regular(path, MAX_CACHE_BYTES))
        if isinstance(content, dict):
            return content
    return {}
