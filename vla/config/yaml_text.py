"""YAML 1.2 as people read it: `no` and `1:30` are texts, 1e-3 is a number, and what is ambiguous or
could fill the memory is refused with its line.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from vla.common.errors import UserError

MOST_CHARACTERS = 4_000_000
"""Of a file; configs have some thousand."""
MOST_VALUES = 200_000
"""In a file, with what aliases repeat counted as often as it stands there."""
DEEPEST = 60
"""Lists and mappings within each other."""


class YamlError(UserError):
    """A text is no YAML, or none that has one meaning; the message names the line."""


def parse_yaml(text: str) -> Any:
    """The value in a text. Raises YamlError."""
    if len(text) > MOST_CHARACTERS:
        raise YamlError(f"has {len(text)} characters; expected at most {MOST_CHARACTERS}")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise YamlError(_with_line(error)) from error
    except yaml.YAMLError as error:  # characters that no text has
        raise YamlError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise YamlError(f"is nested more than {DEEPEST} deep; flatten it") from error
    except (ValueError, OverflowError) as error:  # a number of more digits than Python reads
        raise YamlError(str(error)) from error


class _Loader(yaml.SafeLoader):
    # an empty table of its own: that of SafeLoader knows YAML 1.1, in which `no` is a truth value,
    # `010` is eight and `1:30` is ninety
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - as PyYAML declares it

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return super().construct_mapping(node, deep=deep)

    def construct_whole_number(self, node: Any) -> int:
        text = str(self.construct_scalar(node))
        digits = text.lstrip("+-")
        if len(digits) > 1 and digits.startswith("0"):
            plain = digits.lstrip("0") or "0"
            raise yaml.MarkedYAMLError(
                problem=f"{text} may be read in two ways; write {plain}, or '{text}' if it is a "
                "text",
                problem_mark=node.start_mark,
            )
        return int(text)

    def construct_decimal(self, node: Any) -> float:
        text = str(self.construct_scalar(node)).lower()
        # Python spells infinity and NaN without the point
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
):
    _firsts = [character.replace("\0", "") for character in _first]
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})$"), _firsts)
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_whole_number)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_decimal)


def _check_keys(node: yaml.MappingNode) -> None:
    """Raises MarkedYAMLError if a key is given twice: one of the two would win in silence."""
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
            continue
        line = key.start_mark.line + 1
        if key.value in seen:
            raise yaml.MarkedYAMLError(
                problem=f"{key.value!r} is given twice, first in line {seen[key.value]}; "
                "keep one of them",
                problem_mark=key.start_mark,
            )
        seen[key.value] = line


def _check_size(root: yaml.Node) -> None:
    """Raises YamlError if the value is endless, deep, or larger than it looks."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        place = id(node)  # an alias is the very node of its anchor
        if place in open_nodes:
            raise yaml.MarkedYAMLError(
                problem="an anchor that holds itself has no end", problem_mark=node.start_mark
            )
        if depth > DEEPEST:
            raise RecursionError
        if place in sizes:
            return sizes[place]
        open_nodes.add(place)
        total = 1 + sum(size(inner, depth + 1) for inner in _inner(node))
        open_nodes.discard(place)
        sizes[place] = total
        return total

    total = size(root, 0)
    if total > MOST_VALUES:
        raise YamlError(f"stands for {total} values; expected at most {MOST_VALUES}")


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _with_line(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}{error.problem or error.context or 'is not valid'}"
