"""Plug-ins are listed without being imported, with the reason where one cannot be used."""

import subprocess
import sys
from pathlib import Path

import pytest

from spurbench.bench.checks.scaffold import write_plugin
from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.training_settings import Training

HEAD = "from dataclasses import dataclass\nfrom spurbench.bench.plugins.method import Method, hyper\n"
LOSS = "    def loss(self, logits, batch, state, step):\n        return batch.losses(logits).mean()\n"
MINE = "@dataclass(frozen=True)\nclass Mine(Method):\n    a: float = hyper(0.5, low=0.1, high=1.0)\n"
GOOD = HEAD + MINE + LOSS


@pytest.fixture(autouse=True)
def clean_registry():
    registry.forget_plugins()
    yield
    registry.forget_plugins()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that takes the place of methods/."""
    monkeypatch.setitem(registry.FOLDERS, "method", tmp_path)
    registry.forget_plugins()
    return tmp_path


def test_listing_imports_neither_torch_nor_plugins():
    code = (
        "import sys; from spurbench.bench.plugins import registry as r; assert r.methods() and r.datasets();"
        "bad = [n for n in sys.modules if n in ('torch', 'numpy') or n.startswith('spurbench.methods')];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def essence(option):
    return option.name, option.default, dict(option.search), [(one.key, one.hint) for one in option.only]


@pytest.mark.parametrize("kind", ["method", "dataset"])
def test_what_is_read_is_what_is_imported(kind):
    for name, info in registry.plugins(kind).items():
        assert info.problem is None, name
        assert info.literal, f"{name}: write literals, or listing it needs an import"
        assert info.summary and info.sections.get("Source"), name
        imported = registry.resolved(info)
        assert [essence(option) for option in info.options] == [essence(option) for option in imported.options]
        assert (info.needs, info.provides, info.headline) == (
            imported.needs,
            imported.provides,
            imported.headline,
        )
        assert (info.stackable, info.trains) == (imported.stackable, imported.trains)
        if kind == "dataset":
            assert Training(**info.training).flat() == imported.training


DATASET = """\
from dataclasses import dataclass
from typing import ClassVar
from spurbench.bench.plugins.dataset import Dataset, Training
HALF = float("0.5")
@dataclass(frozen=True)
class Mine(Dataset):
    training: ClassVar[Training] = Training(optimizer="adam", lr=0.5, batch=8)
    def load(self, seed, build):
        ...
"""


def test_a_dataset_says_flat_how_it_is_trained(monkeypatch, tmp_path):
    """What is wrong with it is told with its file, read or imported."""
    monkeypatch.setitem(registry.FOLDERS, "dataset", tmp_path)
    texts = {"mine": DATASET, "sums": DATASET.replace("lr=0.5", "lr=HALF")}
    texts |= {f"{name}_wrong": text.replace("batch=8", "momentum=0.9") for name, text in texts.items()}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    registry.forget_plugins()
    assert registry.datasets()["mine"].training == {"optimizer": "adam", "lr": 0.5, "batch": 8}
    assert registry.dataset_info("sums").training == Training(optimizer="adam", lr=0.5, batch=8).flat()
    for name in ("mine_wrong", "sums_wrong"):
        with pytest.raises(UserError, match=rf"'{name}' .*momentum has no effect with optimizer adam.*{name}\.py"):
            registry.dataset_info(name)


def test_a_hyper_parameter_may_hang_on_another(folder):
    kind = "    kind: str = hyper('x', choices=('x', 'y'))\n    a:"
    for name, key in (("good", "kind"), ("bad", "knd"), ("own", "a")):
        text = GOOD.replace("    a:", kind).replace("high=1.0", f"high=1.0, only={{'{key}': 'x'}}")
        (folder / f"{name}.py").write_text(text)
    (folder / "text.py").write_text(GOOD.replace("high=1.0", "high=1.0, only='kind'"))
    with pytest.raises(UserError, match=r"'text' does not import: ValueError: only='kind': expected a mapping"):
        registry.method_info("text")
    assert registry.methods()["good"].problem is None
    assert registry.methods()["bad"].problem == "field 'a': no other field 'knd'; did you mean kind? there are: kind"
    assert registry.methods()["own"].problem == "field 'a': no other field 'a'; there are: kind"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def broken(:\n", "syntax error, line 1"),
        ("import no_such_package\n" + GOOD, "imports 'no_such_package', which is not installed"),
        ("from spurbench.bench.no_such_module import x\n" + GOOD, "imports 'spurbench.bench.no_such_module'"),
        ("x = 1\n", "holds no class derived from Method"),
        (GOOD + GOOD.replace("Mine", "Other"), "holds 2 methods (Mine, Other); one file holds one"),
        (GOOD.replace(" = hyper(0.5, low=0.1, high=1.0)", ""), "field 'a' has no default"),
        (
            GOOD.replace("    a:", "    needs = frozenset({'enviroments'})\n    a:"),
            "declares the unknown need 'enviroments'; did you mean 'environments'?",
        ),
        ("a\0b", "syntax error"),
        (f"x = {'-' * 50_000}1\n" + GOOD, "nested too deep"),
        ("x = [0] * 10**10\ny = 'a' * 10**11\nz = 10**10**9\n", "holds no class derived from Method"),
    ],
)
def test_a_broken_plugin_is_listed_and_hides_no_other(folder, text, reason):
    (folder / "bad.py").write_text(text)
    (folder / "good.py").write_text(GOOD)
    assert registry.methods()["good"].problem is None
    assert reason in (registry.methods()["bad"].problem or "")
    with pytest.raises(UserError, match="method 'bad' cannot be used") as error:
        registry.load_method("bad")
    assert "\n" not in str(error.value)


def test_an_import_that_raises_is_one_line(folder):
    (folder / "late.py").write_text(GOOD + "raise RuntimeError('first\\nsecond')\n")
    with pytest.raises(UserError, match="'late' does not import: RuntimeError: first") as error:
        registry.load_method("late")
    assert "\n" not in str(error.value)


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match=r"no method 'gruop_dro'; did you mean group_dro\? there are: "):
        registry.method_info("gruop_dro")
    with pytest.raises(UserError, match="no dataset 'two_mon'; did you mean two_moon"):
        registry.load_dataset("two_mon")


def test_defaults_that_are_no_literals(folder):
    text = GOOD.replace("    a:", "    b: float = hyper(RATIO / 4, low=0.1, high=1.0)\n    c: float = half(3)\n    a:")
    text = text.replace("@dataclass", "RATIO = 2 * 3.0\ndef half(x):\n    return x / 2\n@dataclass", 1)
    (folder / "sums.py").write_text(text)
    listed = {option.name: option.default for option in registry.methods()["sums"].options}
    assert listed["b"] == 1.5 and listed["c"] is not None and not registry.methods()["sums"].literal
    assert {option.name: option.default for option in registry.method_info("sums").options}["c"] == 1.5


@pytest.mark.parametrize(
    ("line", "needs", "literal"),
    [
        ('trains, needs = True, frozenset({"groups"})', {"groups"}, True),
        ('(trains, (needs, stackable)) = [True, (frozenset({"groups"}), True)]', {"groups"}, True),
        ("trains, needs = PAIR", {"groups"}, False),
        ('trains, *rest = True, 1, 2\n    needs = frozenset({"index"})', {"index"}, False),
        ('needs = frozenset()\n    if True:\n        needs = frozenset({"groups"})', {"groups"}, False),
        ('needs = frozenset()\n    needs |= {"groups"}', {"groups"}, False),
    ],
)
def test_what_a_class_body_assigns_is_read_or_imported(folder, line, needs, literal):
    """Several names at once, too; never is another value taken for it than the class has."""
    text = GOOD.replace("    a:", f"    {line}\n    a:").replace(
        "@dataclass", 'PAIR = (True, frozenset({"groups"}))\n@dataclass', 1
    )
    (folder / "several.py").write_text(text)
    assert registry.methods()["several"].literal == literal
    info = registry.method_info("several")
    assert (info.needs, info.trains) == (needs, True) and registry.load_method("several").needs == needs


def test_a_method_may_extend_another(folder):
    text = "from dataclasses import dataclass\nfrom spurbench.methods.sd import SD\n"
    (folder / "mine.py").write_text(text + "@dataclass(frozen=True)\nclass Mine(SD):\n    extra: int = 3\n")
    info = registry.method_info("mine")
    assert [option.name for option in info.options] == ["coef", "delay", "rescale", "extra"]
    assert registry.load_method("mine")().extra == 3


def test_what_a_dataset_cannot_give():
    pairs = {
        ("irm", "two_moon"): "needs environments",
        ("group_dro", "two_moon"): "needs groups",
        ("lff", "two_moon"): None,
        ("oracle", "colored_mnist"): None,
    }
    for (method, dataset), expected in pairs.items():
        assert registry.requirements(registry.method_info(method), registry.dataset_info(dataset)) == expected


def test_a_plugin_file(tmp_path):
    path = tmp_path / "fresh.py"
    path.write_text(GOOD)
    registry.add_plugin(path)
    registry.add_plugin(path)  # twice is once
    assert registry.plugin_paths() == [str(path.resolve())]
    assert registry.load_method("fresh").__name__ == "Mine"
    assert "erm" in registry.methods()


def test_bad_plugin_files(tmp_path):
    for name, text, reason in [("erm.py", GOOD, "exists"), ("bad.py", "def (", "syntax error, line 1")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=reason):
            registry.add_plugin(tmp_path / name)
    with pytest.raises(UserError, match="no plug-in .*nothing.py: expected a Python file"):
        registry.add_plugin(tmp_path / "nothing.py")


def test_new_method(tmp_path):
    path = write_plugin("method", "my_method", tmp_path)
    assert "class MyMethod(Method)" in path.read_text()
    with pytest.raises(UserError, match="already exists"):
        write_plugin("method", "my_method", tmp_path)
    for name, hint in [
        ("My-Method", "my_method"),
        ("2fast", "my_method"),
        ("class", "my_method"),
        ("../x", "x"),
    ]:
        with pytest.raises(UserError, match=f"cannot name a method.* such as {hint}$"):
            write_plugin("method", name, tmp_path)
    for name in ("selectors", "torch", "pytest", "spurbench"):
        with pytest.raises(UserError, match=f"'{name}' is the name of a module.* such as my_{name}$"):
            write_plugin("method", name, tmp_path)
    with pytest.raises(UserError, match="there is already a method 'erm'"):
        write_plugin("method", "erm", tmp_path)
    with pytest.raises(UserError, match="cannot write .*No such file"):
        write_plugin("method", "other", tmp_path / "missing")
    assert [file.name for file in Path(tmp_path).iterdir()] == ["my_method.py"]
