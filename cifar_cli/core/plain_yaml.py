"""YAML of unknown origin, as plain values."""

from __future__ import annotations

import math
from typing import Any

import yaml

from cifar_cli.core.limits import MAX_YAML_VALUES


class _Loader(yaml.SafeLoader):
    """Without merge keys (`<<`): they copy mappings into each other, and can double the size each time."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("merge keys")
        super().flatten_mapping(node)


def parse_yaml(text: str, *, most_values: float = MAX_YAML_VALUES) -> Any:
    """Parse a document. References (`*name`) share one value.

    most_values: so many values it may have, those that are referred to counted as often as they are; inf for a caller
    that counts them itself, where a value may even contain itself.
    Raises ValueError, whose text is the rest of a sentence, for anything that can't be parsed or is larger.
    """
    try:
        document = yaml.load(text, _Loader)
    except Exception as error:  # constructors raise a dozen types for values that they can't convert
        raise ValueError("is not a YAML file") from error
    waiting, values = [document], 1
    while waiting and most_values < math.inf:
        value = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        values += len(inner)
        if values > most_values:
            raise ValueError(f"has more than {most_values:,} values, or refers to itself")
        waiting += inner
    return document
