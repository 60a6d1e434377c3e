"""The settings of a run as YAML, each with a comment that says where it came from."""

from __future__ import annotations

import yaml

from cifar_cli.core.plain import plain
from cifar_cli.core.training.settings import Settings

COMMENT = 44  # the column of the comments


def settings_yaml(settings: Settings) -> str:
    """A file for `cifar train --config`. Origins are comments, aligned where the value leaves space."""
    lines: list[str] = []
    group = ""
    for path, value in settings.values.items():
        head, _, name = path.rpartition(".")
        if head and head != group:
            lines.append(f"{head}:")
        group = head
        text = yaml.safe_dump({name: plain(value)}, width=10_000).strip()
        lines.append(f"{'  ' * bool(head)}{text}".ljust(COMMENT) + f"  # {settings.origins[path]}")
    return "\n".join(lines) + "\n"
