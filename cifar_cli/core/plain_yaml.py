"""YAML of unknown origin, as plain values."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Without merge keys (`<<`): they copy mappings into each other, and can double the size each time."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("merge keys")
        super().flatten_mapping(node)


def parse_yaml(text: str) -> Any:
    """Parse a document. References (`*name`) share one value, or refer to a value that contains them.

    Raises ValueError for anything that can't be parsed.
    """
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # constructors raise a dozen types for values that they can't convert
        raise ValueError("no YAML") from error
