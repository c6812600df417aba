"""The rules of the house that a machine can hold: who may import whom, sizes, names, packaging."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "core", "plugin_files", "plugins", "checks", "prepared", "images", "tabular", "records", "provenance", "grid",
    "store", "training", "evaluation", "jobs", "launch", "cluster", "leaderboard", "formats", "figures", "api", "cli",
)  # fmt: skip
"""The packages of bench/ in the order in which data walk through them: each imports only those before it."""
OPEN_TO_PLUGINS = {
    "methods": {"torch", "numpy", "sklearn", "spurbench.bench.plugins.method", "spurbench.methods"},
    "datasets": {
        "torch", "numpy", "scipy", "sklearn", "spurbench.bench.plugins.dataset", "spurbench.bench.core.errors",
        "spurbench.bench.images", "spurbench.bench.prepared", "spurbench.bench.tabular", "spurbench.datasets",
    },
    "bench/records/rules": {"spurbench.bench.plugins.rule"},
    "bench/evaluation/metrics": {
        "numpy", "sklearn", "spurbench.bench.plugins.counts", "spurbench.bench.plugins.metric",
    },
}  # fmt: skip
LAUNCHERS = ("slurm", "ray_pool")
ROOMS = ("bench", "methods", "datasets", *LAUNCHERS)
PLUGINS = {path.stem for room in ("methods", "datasets") for path in (ROOT / room).glob("*.py")}


def files(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def name_of(path: Path) -> str:
    return "spurbench." + ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {name_of(path): path for path in files(*ROOMS) if path.stem != "__init__"}


def imports(path: Path) -> Iterator[str]:
    """Every name a file imports anywhere in it, in functions too; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


def package(module: str) -> int:
    """The place of a module's package among PACKAGES; of one that is not in bench/, after all of them."""
    parts = module.split(".")
    return PACKAGES.index(parts[2]) if parts[1] == "bench" else len(PACKAGES)


@pytest.mark.parametrize("room", OPEN_TO_PLUGINS)
def test_plugins_know_only_their_interface(room: str) -> None:
    for path in (ROOT / room).glob("*.py"):
        for name in imports(path):
            known = name.split(".")[0] in sys.stdlib_module_names or any(
                name == allowed or name.startswith(f"{allowed}.") for allowed in OPEN_TO_PLUGINS[room]
            )
            assert known or any(allowed.startswith(f"{name}.") for allowed in OPEN_TO_PLUGINS[room]), f"{path}: {name}"


def test_bench_names_no_plugin_and_no_cluster() -> None:
    for path in files("bench"):
        for name in imports(path):
            assert not re.match(r"spurbench\.(methods|datasets|slurm|ray_pool)\b|(submitit|ray)\b", name), (
                f"{path.name} imports {name}"
            )
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in PLUGINS - {"random", "oracle"}, f"{path.name}:{node.lineno} names {node.value}"


def test_every_module_is_in_a_package() -> None:
    assert {path.name for path in (ROOT / "bench").iterdir() if path.is_dir()} - {"__pycache__"} == set(PACKAGES)
    assert [path.name for path in (ROOT / "bench").glob("*.py")] == ["__init__.py"]


def test_packages_import_only_those_before_them() -> None:
    upward = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in set(imports(path)) & MODULES.keys()
        if package(other) > package(name)
    ]
    assert not upward


def test_no_circle_of_modules() -> None:
    arrows = {name: set(imports(path)) & MODULES.keys() - {name} for name, path in MODULES.items()}
    while free := {name for name, others in arrows.items() if not others & arrows.keys()}:
        arrows = {name: others for name, others in arrows.items() if name not in free}
    assert not arrows


def test_no_two_modules_of_one_name() -> None:
    names = Counter(path.stem for path in MODULES.values())
    assert not [name for name, times in names.items() if times > 1]


def test_sizes() -> None:
    for path in files("bench", *LAUNCHERS, "datasets"):
        assert len(path.read_text().splitlines()) <= 350, f"{path} has two nouns in it"
    for path in (ROOT / "methods").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 80, path


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_has_few_enough_modules_to_be_known(name: str) -> None:
    """Four to ten; folders in a package into which plug-ins are dropped may hold any number."""
    modules = [path.stem for path in (ROOT / "bench" / name).glob("*.py") if path.stem != "__init__"]
    assert 4 <= len(modules) <= 10, f"{name} has {len(modules)}: {', '.join(sorted(modules))}"


def test_only_bench_is_a_package_with_init() -> None:
    """datasets/__init__.py would hide Hugging Face's datasets from whoever works in the repository's folder."""
    for room in ("methods", "datasets", *LAUNCHERS):
        assert not list((ROOT / room).rglob("__init__.py"))
    assert (ROOT / "bench" / "__init__.py").exists()


def test_every_folder_is_packaged() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    holding = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.*")}
    wanted = {f"spurbench.{'.'.join(path.relative_to(ROOT).parts)}" for path in holding if path.name[0] not in "._"}
    assert wanted | {"spurbench"} == listed


def test_readme_shows_the_two_commands() -> None:
    top = (ROOT / "README.md").read_text().splitlines()[:40]
    assert "make run" in "\n".join(top) and "make test" in "\n".join(top)
