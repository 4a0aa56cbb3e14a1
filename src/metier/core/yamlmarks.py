"""YAML with the line of every key, so that an error can say where.

A day stays the text that it is written as: where a date is wanted, it is wanted as text, whether quoted or not, and
who reads it says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from metier.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Marked:
    """Plain data, and the 1-based line of every dotted key (`data.sources.0.path`)."""

    value: Any
    lines: dict[str, int]


NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What reading raises: beside YAML's own errors those of Python's numbers and dates, and too deep a nesting."""
_DAY = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Plain data without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _DAY]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_value(text: str) -> Any:
    """Read one value, such as that of an override; None where there is none.

    Raises:
        NOT_YAML: it is not YAML.
    """
    return yaml.load(text, _Loader)  # a safe loader, as load_marked's


def load_marked(text: str, file: str) -> Marked:
    """Read one YAML document.

    Raises:
        ConfigError: E204, not YAML; E205, a key given twice (YAML itself would silently keep the last).
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[str, int] = {}
            if node is not None:
                _walk(node, "", lines, file)
            value = loader.construct_document(node) if node is not None else {}
        finally:
            loader.dispose()
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            204,
            "This is not valid YAML",
            place=f"{file}:{mark.line + 1}" if mark else file,
            received=str(getattr(error, "problem", "") or error).splitlines()[0],
            fix="quote values that hold `:`, `{` or `#`; indent with spaces",
        ) from None
    return Marked(value, lines)


def _walk(node: yaml.Node, prefix: str, lines: dict[str, int], file: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, child in node.value:
            path = f"{prefix}.{key_node.value}" if prefix else str(key_node.value)
            line = key_node.start_mark.line + 1
            if path in lines:
                raise ConfigError(
                    205,
                    f"`{path}` is given twice (line {lines[path]} and here)",
                    place=f"{file}:{line}",
                    fix="keep one of the two",
                )
            lines[path] = line
            _walk(child, path, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            path = f"{prefix}.{index}"
            lines[path] = child.start_mark.line + 1
            _walk(child, path, lines, file)
