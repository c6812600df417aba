"""YAML with the line of every key, so that an error can name it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.fields import WHOLE, quote_value, show_value, unwritable

MOST_BYTES = 4_000_000
Where = tuple[str | int, ...]
"""The path to a value: keys and list positions from the root."""
MOST_CHARACTERS, MOST_VALUES = 4_000_000, 200_000  # in a file; an anchor counts wherever it is used
SHARE = "<<"  # the key for what a mapping has in common with another one
LONGEST_KEY, LONGEST_TEXT = 100, 10_000  # characters


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

    What was given on the command line has the option that gave it instead of a line.
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
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{name}: {len(text):,} characters; {MOST_CHARACTERS:,} are the most")
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


def load(path: Path, name: str) -> tuple[Any, Origin]:
    """The document in a file, and the line of each thing in it; errors as for `read`.

    Errors: UserError also for a file that cannot be read, is not text or is far too large; FileNotFoundError.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{name}: more than {MOST_BYTES // 10**6} MB, too large for a file of settings")
        return read(content.decode("utf-8-sig"), name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start}): {error.reason}") from None


def scalar(text: str, name: str) -> Any:
    """One value as YAML reads it: `1e-3`, `true`, `[0.1, 0.2]`, `adam`; `name` is what errors begin with."""
    try:
        return read(text, "")[0] if text.strip() else ""
    except UserError as error:
        raise UserError(f"{name}: {re.sub('^:([0-9]+:)? ', '', str(error))}") from None


def build(node: yaml.Node, where: Where, lines: dict[Where, int], name: str) -> Any:
    lines.setdefault(where, node.start_mark.line + 1)
    if len(lines) > MOST_VALUES:
        raise UserError(f"{name}: more than {MOST_VALUES:,} values (do anchors contain each other?)")
    if isinstance(node, yaml.SequenceNode):
        return [build(part, (*where, place), lines, name) for place, part in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return build_mapping(node, where, lines, name)
    return plain(node, name)


def build_mapping(node: yaml.MappingNode, where: Where, lines: dict[Where, int], name: str) -> dict[str, Any]:
    found, own = shared_part(node, where, lines, name), set[str]()
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{name}:{line}: a key must be text")
        key = str(key_node.value)
        if reason := unwritable(key, LONGEST_KEY):
            raise UserError(f"{name}:{line}: the key {quote_value(key)} has {reason}")
        if key in own:
            raise UserError(f"{name}:{line}: the key '{key}' is given twice (line {lines[(*where, key)]})")
        own.add(key)
        lines[(*where, key)] = line
        if key != SHARE:
            found[key] = build(value, (*where, key), lines, name)
    return found


def shared_part(node: yaml.MappingNode, where: Where, lines: dict[Where, int], name: str) -> dict[str, Any]:
    """What a mapping takes over from another one with the key `<<`."""
    for key, value in node.value:
        if key.value == SHARE:
            if not isinstance(value, yaml.MappingNode):
                raise UserError(f"{name}:{key.start_mark.line + 1}: '<<' takes a mapping such as *anchor")
            return build_mapping(value, where, lines, name)
    return {}


def plain(node: yaml.Node, name: str) -> Any:
    """The value of a scalar node."""
    text, place = str(node.value), f"{name}:{node.start_mark.line + 1}"
    if node.tag == "null":
        return None
    if node.tag == "bool":
        return text == "true"
    if node.tag in {"int", "float"}:
        return number(text, node.tag, place)
    if node.tag not in {"tag:yaml.org,2002:str", "!"}:
        raise UserError(f"{place}: the tag {node.tag} is not used in grids")
    if reason := unwritable(text, LONGEST_TEXT):
        raise UserError(f"{place}: the text {quote_value(text)} has {reason}")
    return text


def number(text: str, kind: str, place: str) -> int | float:
    """A number that records can hold: whole ones fit into 64 bits, others are neither too large nor too small."""
    if kind == "int" and len(text) <= 20 and abs(int(text)) <= WHOLE:
        return int(text)
    value = float(text) if kind == "float" and len(text) <= LONGEST_KEY else math.inf
    if not math.isfinite(value):
        raise UserError(f"{place}: {show_value(text)} is too large for a number")
    if value == 0 and re.search("[1-9]", text.lower().partition("e")[0]):
        raise UserError(f"{place}: {show_value(text)} is too small for a number; write 0 if that is meant")
    return value


T = TypeVar("T")


def located(origin: Origin, where: tuple[str | int, ...], action: Callable[[], T]) -> T:
    """What `action` returns; its errors get the file and the line of `where`."""
    try:
        return action()
    except (UserError, ValueError) as error:
        raise origin.error(where, str(error)) from None
