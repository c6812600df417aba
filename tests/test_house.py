"""The rules of the house that a machine can hold: who may import whom, sizes, packaging."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STDLIB_AND = {
    "methods": {"torch", "numpy", "spurbench.bench.method"},
    "datasets": {
        "torch", "numpy", "scipy", "sklearn", "spurbench.bench.dataset", "spurbench.bench.errors",
        "spurbench.bench.pictures", "spurbench.datasets",
    },
}  # fmt: skip
PLUGINS = {path.stem for room in ("methods", "datasets") for path in (ROOT / room).glob("*.py")}


def files(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("room", STDLIB_AND)
def test_plugins_know_only_their_base_class(room: str) -> None:
    import sys

    for path in (ROOT / room).glob("*.py"):
        for name in imports(path):
            known = name.split(".")[0] in sys.stdlib_module_names or any(
                name == allowed or name.startswith(f"{allowed}.") for allowed in STDLIB_AND[room]
            )
            assert known, f"{path.name} imports {name}"


def test_bench_names_no_plugin_and_no_cluster() -> None:
    for path in files("bench"):
        for name in imports(path):
            assert not re.match(r"spurbench\.(methods|datasets|slurm)\b|submitit", name), f"{path.name} imports {name}"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in PLUGINS - {"random", "oracle"}, f"{path.name}:{node.lineno} names {node.value}"


def test_sizes() -> None:
    for path in files("bench"):
        assert len(path.read_text().splitlines()) <= 400, f"{path} has two nouns in it"
    for path in (ROOT / "methods").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 80, path


def test_only_bench_is_a_package_with_init() -> None:
    """datasets/__init__.py would hide Hugging Face's datasets from whoever works in the repository's folder."""
    for room in ("methods", "datasets", "slurm"):
        assert not list((ROOT / room).rglob("__init__.py"))
    assert (ROOT / "bench" / "__init__.py").exists()


def test_every_folder_is_packaged() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    holding = {path.parent for room in ("bench", "methods", "datasets", "slurm") for path in (ROOT / room).rglob("*.*")}
    wanted = {f"spurbench.{'.'.join(path.relative_to(ROOT).parts)}" for path in holding if path.name[0] not in "._"}
    assert wanted == listed


def test_readme_shows_the_two_commands() -> None:
    top = (ROOT / "README.md").read_text().splitlines()[:40]
    assert "make run" in "\n".join(top) and "make test" in "\n".join(top)
