"""Values in a Python file that can be known without running it: literals, arithmetic, the text of a docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from spurbench.bench.core.fields import Option, conditions

SECTIONS = re.compile(r"^\W*(Source|Needs|Uses|Differs|Licence|Groups)\b\W*\s(.*)$")


MISSING: Any = type("Missing", (), {"__repr__": lambda _: "missing"})()


UNREAD: Any = type("Unread", (), {"__repr__": lambda _: "not a literal"})()


def assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of each name that a statement gives a value; one that only running it tells is no literal."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from unpacked(target, node.value)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, node.value
    elif not isinstance(node, ast.AnnAssign | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield from unread(node)


def unpacked(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of a target: of a name, or of several with as many values, `a, b = 1, 2`."""
    several = ast.Tuple | ast.List
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, several) and isinstance(value, several) and pairs(target.elts, value.elts):
        for one, part in zip(target.elts, value.elts, strict=True):
            yield from unpacked(one, part)
    else:
        yield from unread(target)


def pairs(targets: list[ast.expr], values: list[ast.expr]) -> bool:
    """Whether each target has a value of its own; `*rest` may have several, or none."""
    return len(targets) == len(values) and not any(isinstance(one, ast.Starred) for one in (*targets, *values))


def unread(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names that are set somewhere in a node, each with a value that cannot be read."""
    names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
    yield from ((name, ast.Name("")) for name in names)


def base_name(base: ast.expr) -> str:
    return base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""


def option(name: str, kind: str, value: ast.expr | None, constants: Mapping[str, Any]) -> Option:
    """One field; `hyper(...)`, `setting(...)` and `field(default=...)` are understood."""
    if value is None:
        return Option(name, kind, MISSING)
    if not (isinstance(value, ast.Call) and base_name(value.func) in {"hyper", "setting", "field"}):
        return Option(name, kind, evaluate(value, constants))
    given = {keyword.arg: evaluate(keyword.value, constants) for keyword in value.keywords}
    default = evaluate(value.args[0], constants) if value.args else given.get("default", MISSING)
    if base_name(value.func) == "field":
        return Option(name, kind, UNREAD if default is MISSING and "default_factory" in given else default)
    if base_name(value.func) == "setting":
        limits = {key: found for key, found in given.items() if key and key != "default"}
        return Option(name, kind, UNREAD if UNREAD in limits.values() else default, limits)
    search = {key: given.get(key) for key in ("low", "high")} | {"scale": given.get("scale", "linear")}
    if given.get("choices"):
        search = {"choices": given["choices"]}
    only = given.get("only") or {}
    if not isinstance(only, Mapping) or UNREAD in (*search.values(), *only.values()):
        default, only = UNREAD, {}
    return Option(name, kind, default, search, given.get("symbol", ""), only=conditions(only))


def training_call(value: ast.expr, constants: Mapping[str, Any]) -> Any:
    """The keywords of `Training(...)`."""
    if not (isinstance(value, ast.Call) and base_name(value.func) == "Training" and not value.args):
        return UNREAD
    given = {keyword.arg: evaluate(keyword.value, constants) for keyword in value.keywords}
    return UNREAD if None in given or any(part is UNREAD for part in given.values()) else given


def evaluate(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """The value of a literal, of arithmetic on literals and of the file's own constants, else UNREAD."""
    try:
        return compute(node, constants)
    except (ValueError, TypeError, ArithmeticError, KeyError):
        return UNREAD


def number(value: Any) -> Any:
    """The value if it is a number; a list of ten billion is not made by looking at a file."""
    if not isinstance(value, int | float):
        raise TypeError(value)
    return value


OPERATIONS: dict[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: number(a) * number(b),
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b if abs(number(a)) < 2**16 and abs(number(b)) <= 64 else float(a) ** b,
    ast.BitOr: lambda a, b: a | b,
}


def compute(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.BinOp):
        left, right = compute(node.left, constants), compute(node.right, constants)
        return OPERATIONS[type(node.op)](left, right)
    if isinstance(node, ast.Name):
        if constants[node.id] is UNREAD:
            raise ValueError(node.id)
        return constants[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -compute(node.operand, constants)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        kind = {ast.Tuple: tuple, ast.List: list, ast.Set: set}[type(node)]
        return kind(compute(part, constants) for part in node.elts)
    if isinstance(node, ast.Call) and base_name(node.func) == "frozenset" and not node.keywords:
        return frozenset(*(compute(part, constants) for part in node.args))
    return ast.literal_eval(node)


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph)[0]


def sections(text: str) -> dict[str, str]:
    """The paragraphs of a docstring that begin with Source, Needs, Uses, Differs or Licence."""
    found: dict[str, str] = {}
    current = ""
    for line in text.splitlines():
        match = SECTIONS.match(line)
        if match:
            current = match[1]
            found[current] = match[2].strip()
        elif current and line.strip():
            found[current] = f"{found[current]} {line.strip()}".strip()
        else:
            current = ""
    return found
