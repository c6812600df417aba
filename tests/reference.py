"""docs/reference.md, the modules in docs/architecture.md and the methods in docs/method.md, made from the code.

`python tests/reference.py` (or `make docs`) writes them.

What a key or field means is the comment beside it in the source, so that there is one place to change it.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import runpy
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo

from spurbench.bench.cli.main import build_app
from spurbench.bench.plugin_files.components import alternatives
from spurbench.bench.plugin_files.reader import PluginInfo
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.method import NEEDS, Method
from spurbench.bench.plugins.metric import CountedMetric
from spurbench.bench.plugins.training_settings import choices, training_fields
from spurbench.bench.records import metrics

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "reference.md"
GRID = {
    "GridSheet": "The file", "DatasetSheet": "An entry of `datasets:`", "MethodSheet": "An entry of `methods:`",
    "SearchSheet": "`search:`", "BaseSheet": "`base:`", "GroupsSheet": "`groups:`",
}  # fmt: skip
RECORD = ("Summary", "Record", "Counts", "Look", "Curve", "Cost", "Cause", "Provenance")
PLAN = ("Plan", "Cell", "Search", "Draw", "Choice", "Origin")
WORDS = {"str": "text", "int": "whole number", "float": "number", "int | float": "number", "bool": "true or false",
         "Given": "mapping", "FilePlace": "name",
         "Text": "text", "Name": "name", "FileName": "name", "Id": "id", "RuleName": "selection rule",
         "Whole": "whole number", "Natural": "whole number ≥ 0", "Positive": "whole number ≥ 1", "Number": "number",
         "Amount": "number ≥ 0", "Splits": "mapping", "SearchSheet": "mapping",
         "BaseSheet": "mapping or name", "GroupsSheet": "mapping or name",
         "Groups": "mapping, list or name", "Seeds": "seeds",
         "Precision": "float32, bf16, fp16 or auto"}  # fmt: skip
PLURALS = {"str": "texts", "Whole": "whole numbers", "Natural": "whole numbers ≥ 0", "Amount": "numbers ≥ 0",
           "Name": "names", "Text": "texts", "Id": "ids", "tuple": "pairs", "dict": "mappings",
           "DatasetSheet": "entries", "MethodSheet": "entries"}  # fmt: skip
"""Types in words."""
TRAINING_FILES = (
    "bench/plugins/training_settings.py", "bench/plugin_files/components.py", "bench/training/networks/*.py",
    "bench/training/optimizers/*.py",
)  # fmt: skip


def reference() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Made from the code by `make docs`; a test keeps it current. The pages beside this one say how to use what is "
        "listed here.",
        "## Keys of a grid file", *grid_keys(),
        "## Fields of training", *training(),
        "## Selection rules", *rules(),
        "## Metrics", *metric_table(),
        "## Fields of a record", *structs("bench/records/record.py", RECORD),
        "## Fields of a plan", *structs("bench/records/plan.py", PLAN),
        "## Commands", *commands(),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    cells = ([" ".join(str(cell).replace("|", "\\|").split()) for cell in one] for one in rows)
    return "\n".join(f"| {' | '.join(one)} |" for one in (heads, ["---"] * len(heads), *cells))


def code(value: object) -> str:
    return f"`{value}`" if value not in ("", None) else ""


# ---- fields and the comments beside them ----------------------------------------------------------------------------


class Fields:
    """The fields of a file's classes, each with its type, default and comment."""

    def __init__(self, file: str) -> None:
        text = (ROOT / file).read_text()
        self.lines, self.comments = text.splitlines(), dict[int, str]()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith(("# type:", "# fmt:")):
                self.comments[token.start[0]] = token.string.removeprefix("#").strip()
        self.tree = ast.parse(text)

    def of(self, name: str) -> Iterator[tuple[str, str, str, str]]:
        """Name, type in words, default and meaning of each field of a class."""
        for node in self.cls(name).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield (
                    node.target.id.removesuffix("_"),
                    in_words(node.annotation),
                    default(node.value),
                    self.beside(node),
                )

    def cls(self, name: str) -> ast.ClassDef:
        return next(node for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name == name)

    def doc(self, name: str) -> str:
        """A class's docstring, as Markdown."""
        return ast.get_docstring(self.cls(name)) or ""

    def meanings(self) -> Iterator[tuple[str, str]]:
        """Every commented field, and every commented `Option("name", ...)`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and self.beside(node):
                yield node.target.id, self.beside(node)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Option":
                if isinstance(first := node.args[0] if node.args else None, ast.Constant):
                    yield str(first.value), self.beside(node)

    def beside(self, node: ast.AnnAssign | ast.Call) -> str:
        """The comment that ends the lines of a field, or the lines of comment above it."""
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
            if number in self.comments:
                return self.comments[number]
        above, number = list[str](), node.lineno - 1
        while number in self.comments and self.lines[number - 1].lstrip().startswith("#"):
            above.insert(0, self.comments[number])
            number -= 1
        return " ".join(above)


def in_words(annotation: ast.expr) -> str:
    """A type as a reader of YAML or JSON knows it."""
    text = ast.unparse(annotation).removesuffix(" | None")
    text = re.sub(r"^Annotated\[(.+), (Meta|Before|short_for).*\]$", r"\1", text)
    if found := re.fullmatch(r"list\[(?:Annotated\[)?(\w+).*\]", text):
        return f"list of {PLURALS.get(found[1]) or WORDS.get(found[1], found[1])}"
    if found := re.fullmatch(r"Literal\[(.*)\]", text):
        return " or ".join(ast.literal_eval(f"({found[1]},)"))
    return "mapping" if text.startswith("dict") else WORDS.get(text, text)


def default(value: ast.expr | None) -> str:
    """A field's default; nothing for one that is required or stands for nothing."""
    if isinstance(value, ast.Call):
        value = next((word.value for word in value.keywords if word.arg == "default"), None)
    text = "" if value is None else ast.unparse(value)
    return code("" if text in ("None", "{}", "[]", "''") else text.strip("'"))


# ---- sections -------------------------------------------------------------------------------------------------------


def grid_keys() -> Iterator[str]:
    found = Fields("bench/grid/schema.py")
    for name, title in GRID.items():
        yield f"### {title}"
        yield table(("key", "value", "default", "meaning"),
                    ((code(key), kind, value, text) for key, kind, value, text in found.of(name)))  # fmt: skip


def training() -> Iterator[str]:
    """Every field of `training:`, and the networks and optimizers."""
    yield ("`training:` in a grid and `--set training.FIELD=VALUE`; a dataset has defaults of its own. A field "
           "that has no effect beside the others is refused.")  # fmt: skip
    files = [path for pattern in TRAINING_FILES for path in sorted(ROOT.glob(pattern))]
    meanings = {name: text for path in files for name, text in Fields(str(path.relative_to(ROOT))).meanings()}
    meanings |= {kind: f"the {kind}, see below" for kind in ("network", "optimizer")}
    owners: dict[str, list[str]] = {}
    for choice in choices().values():
        for word, options in choice.fields.items():
            for option in options:
                owners.setdefault(option.name, []).extend([word] if len(choice.fields) > 1 else [])
    counts = {name: len(choice.fields) for choice in choices().values() for name in choice.options()}
    rows = []
    for name, one in training_fields().items():
        of = "" if len(owners[name]) in (0, counts[name]) else ", ".join(owners[name])
        rows.append((code(name), values(one), code(one.default), of, meanings.get(name, "")))
    yield table(("field", "value", "default", "only with", "meaning"), rows)
    for kind in ("network", "optimizer"):
        yield f"### {kind.title()}s"
        yield table((kind, "what it is"), ((code(name), info.summary) for name, info in alternatives(kind).items()))


def values(option: Any) -> str:
    """What a field may hold."""
    limits = option.limits
    if isinstance(limits, tuple) and limits and isinstance(limits[0], str):
        return ", ".join(map(code, limits))
    kind = WORDS.get(option.type.removesuffix(" | None"), option.type)
    return f"{kind}, {limits[0]:g} to {limits[1]:g}" if isinstance(limits, tuple) and limits else kind


def rules() -> Iterator[str]:
    yield ("`selection:` and `rule:` in a grid. Equal scores are decided by the next criterion; what is equal in all "
           "goes to the latest step of a run, or to the first draw of a search.")  # fmt: skip
    yield table(("rule", "chooses by", "then by", "splits", "uses"),
                ((code(name), rule.text, rule.refined, ", ".join(map(code, rule.splits)), ", ".join(rule.uses))
                 for name, rule in ((name, registry.rule(name)) for name in registry.rules())))  # fmt: skip


def metric_table() -> Iterator[str]:
    yield ("Of every split. Those from counts are in every record; those from predictions are computed by `rescore`, "
           "each also of the worst group (`worst_group_ece`). Datasets add measures of their own, such as Two-Moon's "
           "`min_margin`, and attacks theirs.")  # fmt: skip
    better = {True: "higher is better", False: "lower is better", None: ""}
    found = registry.plugins("metric")
    yield table(("metric", "unit", "", "from", "what it is"),
                ((code(name), metrics.unit_of(name), better[metrics.direction(name)],
                  "counts" if isinstance(registry.metric(name), CountedMetric) else "predictions", info.summary)
                 for name, info in found.items()))  # fmt: skip


def structs(file: str, names: Sequence[str]) -> Iterator[str]:
    found = Fields(file)
    for name in names:
        yield f"### {name}"
        yield " ".join(found.doc(name).split())
        yield table(("field", "value", "meaning"), ((code(key), kind, text) for key, kind, _, text in found.of(name)))


def commands() -> Iterator[str]:
    yield "Every command also has `--help`."
    for name, command in sorted(every_command(build_app())):
        yield f"### {name}"
        yield inspect.cleandoc(command.__doc__ or "").split("[dim]")[0].strip()
        if rows := list(parameters(command)):
            yield table(("argument or option", "default", "meaning"), rows)


def every_command(app: typer.Typer, before: str = "") -> Iterator[tuple[str, Any]]:
    """All commands by their whole names."""
    for one in app.registered_commands:
        assert one.callback
        yield before + (one.name or one.callback.__name__.replace("_", "-")), one.callback
    for group in app.registered_groups:
        if group.typer_instance:
            yield from every_command(group.typer_instance, f"{before}{group.name} ")


def parameters(command: Any) -> Iterator[tuple[str, str, str]]:
    """Each argument and option of a command, as `GRID`, `--seeds TEXT` or `--retry`, with its default and meaning."""
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        kind, info = get_args(hints[name])[:2]
        kinds = [one for one in get_args(kind) or (kind,) if one is not type(None)]
        several = getattr(kinds[0], "__origin__", kind) is list
        given = "" if parameter.default in (inspect.Parameter.empty, None, False, True, "") else parameter.default
        if isinstance(info, ArgumentInfo):
            shown = name.rstrip("_").upper() + " ..." * several
        else:
            names = [one for one in (info.default, *(info.param_decls or ())) if str(one).startswith("-")]
            shown = (names or [f"--{name.replace('_', '-')}"])[0]
            shown = shown.replace("/", " / ") if kinds == [bool] else f"{shown} {VALUES.get(kinds[0], 'TEXT')}"
        yield code(shown), code(given), info.help or ""


VALUES = {int: "INTEGER", float: "NUMBER", Path: "PATH", list[Path]: "PATH"}


# ---- the packages ---------------------------------------------------------------------------------------------------


def renewed(page: Path, what: str, text: str) -> str:
    """A page with the part between its comments `<!-- what -->` and `<!-- end of what -->` renewed."""
    start, end = f"<!-- {what} -->", f"<!-- end of {what} -->"
    before, _, rest = page.read_text().partition(start)
    return f"{before}{start}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


def modules() -> str:
    """Every package in the order of imports, and its modules, each with the first sentence of its docstring."""
    house = runpy.run_path(str(ROOT / "tests" / "test_house.py"))
    folders = [*(ROOT / "bench" / name for name in house["PACKAGES"]), *(ROOT / name for name in house["LAUNCHERS"])]
    return "\n\n".join(part for folder in folders for part in package(folder))


def package(folder: Path) -> Iterator[str]:
    yield f"### {folder.relative_to(ROOT)}"
    if (folder / "__init__.py").exists():
        yield first_sentence(folder / "__init__.py")
    files = sorted(path for path in folder.rglob("*.py") if path.stem != "__init__")
    yield "\n".join(f"- `{path.relative_to(folder)}`: {first_sentence(path)}" for path in files)


def first_sentence(file: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


# ---- the methods ----------------------------------------------------------------------------------------------------


HOOKS = ("init_state", "weight_penalty", "resets", "transform", "draw", "mix")


def methods() -> str:
    """Every shipped method: what it does, what it needs, which hooks it has, and where it is from."""
    found = [info for info in registry.methods().values() if info.origin == "folder"]
    return table(("method", "what it does", "needs", "hooks", "source"), map(method_row, found))


def method_row(info: PluginInfo) -> tuple[str, ...]:
    cls = registry.load_method(info.name)
    hooks = [code(name) for name in HOOKS if getattr(cls, name) is not getattr(Method, name)]
    needs = [need for need in NEEDS if need in info.needs]
    name = f"[`{info.name}`](../methods/{info.path.name})"
    return name, info.summary.rstrip("."), ", ".join(needs), ", ".join(hooks), origin(info.sections["Source"])


def origin(source: str) -> str:
    """The authors, the venue and the arXiv number of the first work that a Source names."""
    untitled = re.sub(r'"[^"]*",? ?', "", source)
    short = re.match(r".*?arXiv \d{4}\.\d{4,5}", untitled) or re.match(r"[^;(.]*", untitled)
    words = short[0].rpartition("(")[2].strip(" ,") if short else ""
    return re.sub(r"arXiv (\S+)", r"[arXiv \1](https://arxiv.org/abs/\1)", words)


def pages() -> dict[Path, str]:
    """What the pages made from the code are to hold."""
    docs = ROOT / "docs"
    return {
        FILE: reference(),
        docs / "architecture.md": renewed(docs / "architecture.md", "modules", modules()),
        docs / "method.md": renewed(docs / "method.md", "methods", methods()),
    }


def main() -> None:
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
