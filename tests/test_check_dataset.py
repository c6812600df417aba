"""`new-dataset` writes a file that passes `check-dataset`, which names each promise that a dataset breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spurbench.bench.api.dataset_check import check
from spurbench.bench.checks.questions import Check
from spurbench.bench.checks.scaffold import write_plugin
from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins import registry
from spurbench.datasets.data import twins

PAGE = Path(__file__).parent.parent / "docs" / "dataset.md"


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    yield
    registry.forget_plugins()


def answers(folder: Path, *changes: tuple[str, str], sets: Any = ()) -> dict[str, Check]:
    """What is said of the scaffold with some of its text replaced."""
    file = write_plugin("dataset", "fresh", folder)
    text = file.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    file.write_text(text)
    registry.add_plugin(file)
    return {one.name: one for one in check("fresh", sets)}


def test_the_scaffold_passes(tmp_path: Path) -> None:
    found = answers(tmp_path)
    assert all(one.ok for one in found.values()), found
    assert found["options"].message == "examples=1000, agreement=0.9"
    assert found["seeds"].message.endswith("seed 1 has other data, another network")
    assert found["memory"].message.startswith("0.0 MB of inputs, 0.0 MB of them memory-mapped")
    assert "inputs [2] of float32, labels, groups; " in found["a method is handed"].message
    assert "without what they need: coral, fishr" in found["a method is handed"].message
    assert found["network"].message == "mlp takes the inputs, 201 parameters"


@pytest.mark.parametrize("agreement", [0.75, 1.0])
def test_the_correlation_is_shown(tmp_path: Path, agreement: float) -> None:
    """P(a | y) of each split, beside the group's count."""
    found = answers(tmp_path, sets=[f"fresh.agreement={agreement}", "fresh.examples=20000"])
    shares = [float(text.split("(")[1].rstrip("%)")) for text in found["groups of train"].message.split("), ")]
    wanted = [agreement, 1 - agreement, 1 - agreement, agreement]
    assert shares == pytest.approx([100 * share for share in wanted], abs=1.5)


BROKEN: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "other data each time": ([("torch.manual_seed(seed)", "pass")], "seeds", "split 'train' differs when"),
    "another network each time": (
        [("build(train.x)", "(torch.seed(), build(train.x))[1]")], "seeds", "the network differs when"),
    "one network for all": (
        [("build(train.x)", "(torch.manual_seed(0), build(train.x))[1]")], "seeds", "seeds 0 and 1 have the same"),
    "training in the test": (
        [('"test": test}', '"test": train}')], "copies", "inputs that training has too: 1,000 of"),
    "groups that are not declared": (
        [('frozenset({"groups"})', "frozenset()")], "a method is handed", "training has groups, which"),
    "splits of another name": (
        [('("validation", "test")', '("val", "test")')], "splits", "the class names the splits val, test"),
    "a headline of no split": (
        [('("test", "accuracy")', '("tset", "accuracy")')], "splits", "headline names the split 'tset'"),
    "no licence": ([("Licence", "License")], "docstring", "the docstring lacks the line 'Licence: …'"),
    "labels out of range": ([("return Split(torch.stack([core, spurious], 1), y, a)",
                              "return Split(torch.stack([core, spurious], 1), y + 1, a)")], "loads", "are not in 0..1"),
    "a network that cannot take it": (
        [('network="mlp", width=50', 'network="small_conv"')], "network", "takes pictures"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_promises(tmp_path: Path, case: str) -> None:
    changes, name, words = BROKEN[case]
    found = answers(tmp_path, *changes)
    assert [one.name for one in found.values() if not one.ok] == [name] and words in found[name].message
    assert "\n" not in found[name].message


def test_on_the_command_line(tmp_path: Path, command: Any) -> None:
    said = command("new-dataset", "mine", cwd=tmp_path).stdout
    assert "spurbench check-dataset mine.py" in said
    assert "FAIL" not in command("check-dataset", "mine.py", "--set", "mine.examples=50", cwd=tmp_path).stdout
    said = command("check-dataset", "mine.py", "--set", "training.network=small_conv", code=2, cwd=tmp_path)
    assert said.stderr == "spurbench: mine.py fails 1 of 14 checks\n" and "FAIL  network: " in said.stdout
    assert "did you mean two_moon?" in command("check-dataset", "two_mon", code=2).stderr
    assert "no option of mine" in command("check-dataset", "mine.py", "--set", "mine.n=1", code=2, cwd=tmp_path).stderr


def test_files_are_checked_where_they_are_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin's folder serves instead, and leaves nothing behind; without one the way to prepare them is shown."""
    monkeypatch.setenv("SPURBENCH_DATA", str(tmp_path / "data"))
    lines = ["n,y,split", *(f"{i},{i % 2},{i // 2 % 3}" for i in range(60))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    missing = check("own_table", ["own_table.name=mine"])[-1]
    assert missing.name == "loads" and "spurbench data prepare own_table --from FILE" in missing.message
    found = {one.name: one for one in check("own_table", ["own_table.name=mine"], tmp_path / "rows.csv")}
    assert found["prepares"].message.startswith("prepared mine: 60 rows") and found["copies"].ok
    assert "of inputs, 0.0 MB of them memory-mapped" in found["memory"].message and not (tmp_path / "data").exists()
    assert {one.name for one in found.values() if not one.ok} == set()
    with pytest.raises(UserError, match="no dataset 'own_tables'; did you mean own_table"):
        check("own_tables")


# ---- data of other libraries ----------------------------------------------------------------------------------------


def headlines(folder: Path) -> None:
    """A DatasetDict of Hugging Face's, saved."""
    from datasets import Dataset, DatasetDict

    def part(n: int, seed: int) -> Dataset:
        random = np.random.default_rng(seed)
        columns = {"input_ids": random.integers(0, 99, (n, 6)), "attention_mask": np.ones((n, 6), int)}
        return Dataset.from_dict(columns | {"label": np.arange(n) % 2, "source": np.arange(n) // 2 % 2})

    DatasetDict({"train": part(40, 0), "test": part(20, 1)}).save_to_disk(str(folder / "headlines"))


def pets(folder: Path) -> None:
    """Folders of pictures."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / "pets" / split / name).mkdir(parents=True)
            for i in range(10):
                picture = Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8))
                picture.save(folder / "pets" / split / name / f"{i}.png")


def wild_birds(folder: Path) -> None:
    """Waterbirds' twin, which the wilds package takes for the true one."""
    (folder / "wilds").mkdir()
    twins.waterbirds(folder / "wilds", 80, 40, 0)


@pytest.mark.parametrize("make", [headlines, pets, wild_birds], ids=lambda make: make.__name__)
def test_adapters_of_other_libraries(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    """Those that the page on datasets shows load, pass their checks and train; each has at most 15 lines of code."""
    text = PAGE.read_text().partition(f"# {make.__name__}.py\n")[2].partition("```")[0]
    code = text.partition('"""\n\n')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 19  # with five of imports, or fewer
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    (tmp_path / f"{make.__name__}.py").write_text(text)
    registry.add_plugin(f"{make.__name__}.py")
    found = check(make.__name__)
    assert not [one for one in found if not one.ok], found
    run = f"run --plugin {make.__name__}.py --dataset {make.__name__} --method erm --seeds 0 --set training.steps=2"
    command(*run.split(), "--store", tmp_path / "store")
