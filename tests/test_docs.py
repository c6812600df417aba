"""README and docs: what is made from the code is current, and what is shown runs."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from spurbench.bench.api import running
from spurbench.bench.cli.main import build_app
from spurbench.bench.core.files import at_home
from spurbench.bench.grid import load
from spurbench.bench.grid.cells import only
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.method import NEEDS, Batch, Draw, Examples, Means, Method, Problem

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_AS_THEY_ARE = {"rescore", 
    "list", "plan", "status", "leaderboard", "pack", "merge", "new-method", "check-method", "data list",
    "new-dataset", "check-dataset", "figure",
}  # fmt: skip
"""Commands that take seconds on the stores made here; of the others the options and what they name are checked."""
NOT_HERE = ("stores/paper", "stores/celeba_twin", "paper results/", "/shared/", "figure fig5")
"""What marks commands that need other stores than these, or draw for long."""
SMALL = {"two_moon": ["two_moon.examples=20"], "colored_mnist": ["colored_mnist.train_size=50"]}
GRID = """
seeds: 0-1
datasets:
  - {dataset: two_moon, options: {examples: 20}, training: {width: 10, steps: 5}, methods: [erm, sd]}
"""


def commands(page: Path) -> list[str]:
    """The lines of a page's `sh` blocks, without their comments."""
    blocks = [text for language, text in BLOCK.findall(page.read_text()) if language == "sh"]
    lines = (shlex.join(shlex.split(line, comments=True)) for text in blocks for line in text.splitlines())
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store that `run quick` leaves, only smaller."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "quick.yaml").write_text(GRID)
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        assert running.run(load.load_grid("quick.yaml"), Path("stores/quick"), running.Settings(jobs=0)) == 0
    (folder / "quick.yaml").unlink()
    return folder


@pytest.fixture
def folder(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for a page, with that store, the committed results and a home without data."""
    where = tmp_path / "page"
    shutil.copytree(stores, where)
    (where / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(where)
    monkeypatch.setenv("SPURBENCH_DATA", str(tmp_path / "data"))
    yield where
    registry.forget_plugins()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, folder: Path, command: Callable[..., Any]) -> None:
    """Files that a page shows are written, its Python is run, its commands are run or checked, in their order."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for language, text in BLOCK.findall(page.read_text()):
        if file := re.match(r"# (\w+\.(?:py|yaml))\n", text):
            (folder / file[1]).write_text(text.removeprefix(file[0]))
        elif language == "python":
            exec(compile(text, page.name, "exec"), namespace)
            registry.forget_plugins()
        elif language == "sh":
            for line in text.splitlines():
                follow(shlex.split(line, comments=True), command)


def follow(words: list[str], command: Callable[..., Any]) -> None:
    """Run a line of a page, or check it."""
    if not words or words[0] in ("pip", "source", "export", "slurm/local_cluster.sh"):
        return
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), words
    elif words[0] == "python":
        module = words[1] == "-m" and f"{words[2].removeprefix('spurbench.').replace('.', '/')}.py"
        assert (ROOT / (module or words[1])).is_file(), words
    else:
        assert words[0] == "spurbench", words
        name, options = parsed(words[1:])
        if smaller := in_small(name, words[1:], options):
            command(*smaller)
        else:
            named(name, options)


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command's name and its options, as the command line reads them; fails for one that it refuses."""
    at: Any = typer.main.get_group(build_app())
    name = ""
    while hasattr(at, "commands"):
        assert words[0] in at.commands, f"no command {name}{words[0]}"
        at, name, words = at.commands[words[0]], f"{name} {words[0]}".strip(), words[1:]
    return name, at.make_context(name, list(words)).params


def in_small(name: str, words: list[str], options: dict[str, Any]) -> list[str] | None:
    """The command as it can be run here in a second; None if it cannot."""
    if any(mark in " ".join(words) for mark in NOT_HERE):
        return None
    if name == "probe":
        return [*words, "--features=2", "--points=2", "--jobs=1"]
    if name in RUN_AS_THEY_ARE:
        return words
    if name not in ("run", "estimate") or options.get("fresh"):
        return None
    if options["grid"]:
        return words if Path(options["grid"]).suffix else None
    if {*options["dataset"]} <= SMALL.keys():
        smaller = [one for dataset in options["dataset"] for one in SMALL[dataset]]
        given = " ".join(options["set_"] or [])
        smaller += [] if "training.steps" in given else ["training.steps=2"]
        smaller += [] if "training.network" in given else ["training.width=10"]
        return [*words, *(f"--set={one}" for one in smaller), *["--seeds=0"] * (name == "run")]
    return [*words, "--seeds=0"] if options.get("plugin") else None


def named(name: str, options: dict[str, Any]) -> None:
    """Look up the grid, cells, datasets and methods that a command names."""
    if name in ("run", "estimate", "submit", "plan"):
        registry.add_plugins([at_home(path) for path in options.get("plugin") or ()])
        ad_hoc = [options.get(one) or [] for one in ("dataset", "method", "set_")]
        grid = running.choose_grid(options["grid"], *ad_hoc[:2], options.get("seeds"), ad_hoc[2], None)
        only(grid, options.get("only") or [])
    if name == "data prepare":
        registry.dataset_info(options["dataset"])


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
            anchors = [re.sub(r"[^\w\- ]", "", head).replace(" ", "-").lower() for head in heads]
            assert not anchor or anchor in anchors, f"{page.name}: {target}#{anchor}"


def test_the_reference_is_current() -> None:
    for path, text in runpy.run_path(str(ROOT / "tests" / "reference.py"))["pages"]().items():
        assert path.read_text() == text, f"{path.name}: run `make docs`"


def test_every_key_and_field_is_explained() -> None:
    """In the tables of grid keys, training fields and commands the last column says what each is."""
    text = (ROOT / "docs" / "reference.md").read_text()
    for section in ("Keys of a grid file", "Fields of training", "Metrics", "Commands"):
        part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        rows = [line for line in part.splitlines() if line.startswith("| `")]
        assert rows and not [line for line in rows if line.endswith("|  |")]


def test_the_page_on_methods_names_what_a_method_may_use() -> None:
    text = (ROOT / "docs" / "method.md").read_text()
    assert not [need for need in NEEDS if f"\n| `{need}` | " not in text]
    for cls in (Method, Problem, Batch, Means, Examples, Draw):
        names = {name for name in {*vars(cls), *cls.__annotations__} if not name.startswith("_")}
        assert not [name for name in sorted(names - {"mixes"}) if not re.search(rf"[`.]{name}\b", text)], cls.__name__


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 5 and not any(cell["outputs"] for cell in code)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for cell in code:
        exec(compile("".join(cell["source"]), "tutorial.ipynb", "exec"), namespace)
    registry.forget_plugins()
    assert {row["label"] for row in namespace["results"].leaderboard().rows} > {"erm", "sd"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
