"""YAML with the line of every key, so that an error can name it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from spurbench.bench.errors import UserError

Where = tuple[str | int, ...]
"""The way to a value: keys and list positions from the root."""


class Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `1e-3` is a number, `no` and `12:30` are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}


Loader.add_implicit_resolver("null", re.compile(r"^(~|null|)$"), None)
Loader.add_implicit_resolver("bool", re.compile(r"^(true|false)$"), None)
Loader.add_implicit_resolver("int", re.compile(r"^[-+]?[0-9]+$"), None)
Loader.add_implicit_resolver("float", re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"), None)


@dataclass(frozen=True)
class Origin:
    """Where a document came from: its name and the line of every value.

    What was given on the command line has, instead of a line, the option that gave it.
    """

    name: str
    lines: Mapping[Where, int] = field(default_factory=dict)
    given: Mapping[Where, str] = field(default_factory=dict)

    def error(self, where: Where, message: str) -> UserError:
        """`file:line: message` for the value at `where`, or for the nearest thing around it."""
        if where in self.given:
            return UserError(f"{self.given[where]}: {message}")
        while where and where not in self.lines:
            where = where[:-1]
        line = self.lines.get(where)
        place = f"{self.name}:{line}: " if line else f"{self.name}: " if self.name else ""
        return UserError(place + message)


def read(text: str, name: str) -> tuple[Any, Origin]:
    """The document as plain dicts, lists and scalars, and the line of each.

    Errors: UserError with file and line for bad syntax, a key given twice or a key that is not text.
    """
    try:
        root = yaml.compose(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if root is None:
        raise UserError(f"{name}: the file is empty")
    lines: dict[Where, int] = {}
    try:
        return build(root, (), lines, name), Origin(name, lines)
    except RecursionError:
        raise UserError(f"{name}: an anchor contains itself, or the nesting is too deep") from None


def scalar(text: str, name: str) -> Any:
    """One value as YAML reads it: `1e-3`, `true`, `[0.1, 0.2]`, `adam`; `name` is what errors begin with."""
    try:
        return read(text, "")[0] if text.strip() else ""
    except UserError as error:
        raise UserError(f"{name}: {re.sub('^:([0-9]+:)? ', '', str(error))}") from None


def build(node: yaml.Node, where: Where, lines: dict[Where, int], name: str) -> Any:
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [build(part, (*where, place), lines, name) for place, part in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return build_mapping(node, where, lines, name)
    return plain(node, name)


def build_mapping(node: yaml.MappingNode, where: Where, lines: dict[Where, int], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{name}:{line}: a key must be text")
        key = str(key_node.value)
        if key in found:
            raise UserError(f"{name}:{line}: the key '{key}' is given twice (line {lines[(*where, key)]})")
        lines[(*where, key)] = line
        found[key] = build(value, (*where, key), lines, name)
    return found


def plain(node: yaml.Node, name: str) -> Any:
    """The value of a scalar node."""
    text = str(node.value)
    if node.tag == "null":
        return None
    if node.tag == "bool":
        return text == "true"
    if node.tag == "int":
        return int(text)
    if node.tag == "float":
        value = float(text)
        if not math.isfinite(value):
            raise UserError(f"{name}:{node.start_mark.line + 1}: {text} is too large for a number")
        return value
    if node.tag not in {"tag:yaml.org,2002:str", "!"}:
        raise UserError(f"{name}:{node.start_mark.line + 1}: the tag {node.tag} is not used in grids")
    return text
