"""Whatever lies in a store or arrives in a packed one: commands give a result or one clear line, and name the rest."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_record, seal

from spurbench.bench.cluster import status
from spurbench.bench.core.errors import StoreTrouble, UserError
from spurbench.bench.core.hashing import canonical
from spurbench.bench.formats.render import render
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.launch.runner import Settings, find_outstanding
from spurbench.bench.leaderboard import build
from spurbench.bench.records import parsing, record
from spurbench.bench.records.parsing import is_file_name, plan_from, record_from
from spurbench.bench.records.record import SCHEMA, Cause, Record
from spurbench.bench.records.run import Run
from spurbench.bench.store import artifacts, packed, store
from spurbench.bench.store.merge import merge
from spurbench.bench.store.store import Packed, Store

COUNTS = {"n": [5], "correct": [1], "loss_sum": 0.0, "entropy_sum": 0.0}
GRID = """\
name: small
notes: [a note]
seeds: 0-1
selection: validation_worst_group
datasets:
  - dataset: two_moon
    options: {held_out: 0.2}
    training: {steps: 20, evaluate: 10}
    methods:
      - erm
      - {method: sd, label: shifted, search: {draws: 2, seeds: 5, rule: train_accuracy}}
"""


def finished(run: Run) -> Record:
    """A record as a worker leaves it, with all that one may hold."""
    counts = {"n": [5, 4], "correct": [run.seed % 5, 3], "loss_sum": 1.5, "entropy_sum": 1.0}
    looks = [{"step": step, "splits": {"validation": counts, "test": counts}} for step in (10, 20)]
    return make_record(
        **run.to_dict(), needs=["environments"], headline=[["test", "accuracy"], ["train", "min_margin"]],
        groups=["y0", "y1"], conflicting=[1], looks=looks,
        splits={name: counts for name in ("train", "validation", "test")},
        measures={"train": {"min_margin": 0.1}, "grid": {"easy_share": 0.5}},
        history=[{"step": 0, "loss": 1.0, "train_accuracy": 0.5}],
        curves={"margin": {"split": "train", "n": 9, "flipped": [0, 4, 9]}},
        predictions=f"predictions/{run.id[:2]}/{run.id}.npz",
        provenance={"commit": "abc", "device": "cpu", "versions": {"torch": "2"},
                    "hardware": {"cpu": "one", "gpu": None}, "finished": "2026-01-01T00:00:00+00:00"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid, a store of all its runs, and that store packed."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "small.yaml").write_text(GRID)
    made, grid = Store.open(folder / "store", create=True), load_grid(str(folder / "small.yaml"))
    for _ in range(2):  # the search, then what it chose
        plan = expand(grid, {one.id: one for one in made.records()[0]})
        for run, _ in plan.runs():
            made.write_record(finished(run))
    made.write_plan(plan)
    made.pack(folder / "packed.jsonl")
    return folder


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Store:
    """A copy of the good store."""
    shutil.copytree(good / "store", tmp_path / "store")
    return Store.open(tmp_path / "store")


def lines_of(good: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (good / "packed.jsonl").read_text().splitlines()]


def packed_of(folder: Path, lines: list[Any], name: str = "p.jsonl") -> Store:
    text = b"".join((one if isinstance(one, bytes) else canonical(one)) + b"\n" for one in lines)
    (folder / name).write_bytes(text)
    return Store.open(folder / name)


def reasons(where: Store) -> dict[str, str]:
    return {one.path: one.reason for one in where.records()[1]}


# ---- any content ----------------------------------------------------------------------------------------------------

ODD: list[Any] = [None, True, -1, 0, 0.5, 1e300, -1e300, 2**63, 10**30, float("nan"), "", "x" * 100_000, "../../x",
                  "\x00", "\ud800", "[red]", "done", [], {}, [[]], [{}], {"a": 1}, [None], ["a", "b"]]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


def changed(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The content without one of its parts, or with another value there."""
    content = json.loads(json.dumps(content))
    every = list(places(content))
    *above, last = rng.choice([path for path in every if len(path) <= rng.choice([1, 2, 9])])
    at = content
    for key in above:
        at = at[key]
    if rng.random() < 0.25:
        del at[last]
    else:
        at[last] = rng.choice([*ODD, nested(rng.choice([100, 900]))])
    return content


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def resealed(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """As if the writer had written it so: with the digest, and in half of the cases the id, that it ought to have."""
    try:
        if rng.random() < 0.5:
            content["id"] = Run.from_dict(content).id
        return seal(content)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return content


def bytes_changed(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice([1, 5, 50])):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found[: rng.randrange(len(found))] if rng.random() < 0.3 else found)


def damaged(good: Path, folder: Path, rng: random.Random) -> Path:
    """A store, packed or not, in which something is not as it was written."""
    kind = rng.choice(["plan", "record", "bytes"])
    lines = lines_of(good)
    if kind == "bytes":
        content = canonical(lines[1]) + b"\n" + canonical(lines[0]) + b"\n"
        (folder / "p.jsonl").write_bytes(bytes_changed(gzip.compress(content) if rng.random() < 0.3 else content, rng))
        return folder / "p.jsonl"
    line = rng.choice([one for one in lines if kind in one])
    content = changed(line[kind], rng)
    content = resealed(content, rng) if kind == "record" else content
    if rng.random() < 0.5:
        text = "".join(json.dumps({kind: content} if one is line else one) + "\n" for one in lines)
        (folder / "p.jsonl").write_text(text)
        return folder / "p.jsonl"
    shutil.copytree(good / "store", folder / "store")
    own = content.get("id") if isinstance(content.get("id"), str) and len(content["id"]) == 16 else line[kind].get("id")
    file = Path("plans/small.json") if kind == "plan" else Path(f"records/{own[:2]}/{own}.json")
    (folder / "store" / file).parent.mkdir(exist_ok=True)
    (folder / "store" / file).write_text(json.dumps(content))
    return folder / "store"


def commands(where: Path, good: Path, folder: Path) -> Iterator[Callable[[], Any]]:
    yield lambda: [render(build.build_from_store(Store.open(where)), form, False) for form in ("table", "json", "html")]
    yield lambda: status.states_of(Store.open(where))
    yield lambda: Store.open(where).pack(folder / "again.jsonl.gz")
    yield lambda: merge(Store.open(folder / "new", create=True), [Store.open(where)])
    if where.is_dir():
        for _ in range(2):  # the second time nothing is left to be set aside
            yield lambda: find_outstanding(load_grid(str(good / "small.yaml")), Store.open(where), Settings())


@pytest.mark.parametrize("seed", range(100))
def test_no_content_breaks_a_command(good: Path, tmp_path: Path, seed: int) -> None:
    where = damaged(good, tmp_path, random.Random(seed))
    for do in commands(where, good, tmp_path):
        try:
            do()
        except UserError as error:
            assert len(str(error)) < 1500
    assert {path.name for path in tmp_path.iterdir()} <= {"p.jsonl", "store", "again.jsonl.gz", "new"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "x" * 3_000_000}, "length <= 200 at `.dataset`"),
        ({"method": "a\nb"}, "at `.method`"),
        ({"method": "a\n"}, "at `.method`"),
        ({"status": "x" * 100_000}, "xxx' at `.status`"),
        ({"status": "gone"}, "'gone' at `.status`"),
        ({"splits": {"test": COUNTS | {"correct": [6]}}}, "a split has more correct predictions"),
        ({"splits": {"test": COUNTS | {"n": [5, 4]}}}, "or they are of different groups"),
        ({"measures": {"test": {"m": 1e200}}}, "at `.measures[...][...]`"),
        ({"cost": {"seconds": 1}}, "`peak_memory_mb` at `.cost`"),
        ({"groups": None}, "got `null` at `.groups`"),
        ({"conflicting": [2]}, "conflicting groups are not among its groups"),
        ({"looks": [{"step": 1, "splits": {"other": COUNTS}}]}, "looks are at other splits"),
        ({"predictions": "../../../etc/passwd"}, "at `.predictions`"),
        ({"status": "failed"}, "its status is failed and its cause null"),
        ({"needs": "groups"}, "at `.needs`"),
        ({"provenance": {"finished": 3}}, "at `.provenance.finished`"),
    ],
)  # fmt: skip
def test_a_record_is_no_record_if_a_field_is_not_as_it_should_be(
    good: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    plan, line, *_ = lines_of(good)
    one = line["record"] | change
    one |= {"id": Run.from_dict(one).id}
    where = packed_of(tmp_path, [plan, {"record": seal(one)}])
    (reason,) = reasons(where).values()
    assert words in reason and len(reason) < 300
    with pytest.raises(UserError, match="cannot be kept"):
        record = record_from(line["record"]).with_(**change | {"id": one["id"]})
        Store.open(tmp_path / "s", create=True).write_record(record)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("cells",), [3], "got `int` at `.cells[0]`"),
        (("cells", 0, "seeds"), ["0"], "got `str` at `.cells[0].seeds[0]`"),
        (("cells", 0, "ids"), ["0" * 16, "1" * 16], "its ids are not those of the runs it describes"),
        (("cells", 1, "search", "chosen"), 7, "cell 2: its search has chosen draw 7 of 2"),
        (("cells", 1, "search", "draws", 0, "ids"), ["0" * 16], "its ids are not those"),
        (("cells", 0, "label"), None, "got `null` at `.cells[0].label`"),
        (("selection",), {"rule": "no such", "text": ""}, "its rule is 'no such'"),
        (("cells", 0, "selection"), {"rule": "no such", "text": ""}, "cell 1: its rule is 'no such'"),
        (("cells", 1, "search", "rule"), "no such", "cell 2: its rule is 'no such'"),
        (("cells", 0, "selection"), "", "got `str` at `.cells[0].selection`"),
        (("notes",), "one", "at `.notes`"),
        (("origin",), 0, "got `int` at `.origin`"),
        (("origin",), {"content": "a"}, "`place` at `.origin`"),
        (("superseded",), ["../x"], "at `.superseded[0]`"),
        (("schema",), "1", "its schema"),
        (("schema",), SCHEMA + 1, "newer spurbench"),
    ],
)
def test_a_plan_is_no_plan_if_a_field_is_not_as_it_should_be(
    good: Path, tmp_path: Path, path: tuple[Any, ...], value: Any, words: str
) -> None:
    plan, one = (line for line in lines_of(good)[:2])
    at = plan["plan"]
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    where = packed_of(tmp_path, [plan, one])
    assert where.plans() == [] and words in reasons(where)["p.jsonl:1"]


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "a/b", "a\\b", "..", ".", ".x", "", "x" * 300, "a\nb", "a\x00", 3, None]
)
def test_no_plan_is_written_outside_its_folder(good: Path, tmp_path: Path, name: Any) -> None:
    line = lines_of(good)[0]
    plan = plan_from(line["plan"]).with_(grid=name)
    line["plan"]["grid"] = name
    where = packed_of(tmp_path, [line, lines_of(good)[1]])
    assert not (isinstance(name, str) and is_file_name(name)) and "grid" in reasons(where)["p.jsonl:1"]
    merge(Store.open(tmp_path / "new", create=True), [where])
    assert not (tmp_path / "new" / "plans").exists() and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(UserError, match="cannot be kept"):
        Store.open(tmp_path / "new").write_plan(plan)


# ---- what lies in a store -------------------------------------------------------------------------------------------


def put(path: Path, content: bytes | None = b"foreign") -> Path:
    """A file, or a folder with a file in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (path / "inside.json" if content is None else path).parent.mkdir(parents=True, exist_ok=True)
    (path / "inside.json" if content is None else path).write_bytes(content or b"")
    return path


def test_what_no_one_put_there_is_not_even_named(copy: Store) -> None:
    before = len(copy.records()[0])
    for folder in ("records", "plans", f"records/{copy.records()[0][0].id[:2]}"):
        for name in (".DS_Store", "._x.json", "Thumbs.db", "desktop.ini", ".nfs0001", ".x.json.host.1.tmp"):
            put(copy.root / folder / name)
    assert len(copy.records()[0]) == before and copy.records()[1] == [] and len(copy.plans()) == 1


def test_what_is_foreign_is_named_left_alone_and_stops_no_command(copy: Store, good: Path, command: Any) -> None:
    one = next(copy.whole_records())
    home = copy.path("records", one.id, ".json")
    copies = [
        f"{one.id} (conflicted copy).json",
        f"{one.id}.sync-conflict-1.json",
        f"{one.id}.json~",
        "a.json",
    ]
    strays = [put(home.with_name(name), home.read_bytes()) for name in copies]
    strays += [put(copy.root / "records" / name, content) for name, content in
               (("notes.txt", b"mine"), ("backup", None), ("zz", None), ("AB", None), ("a\nb", b"x"))]  # fmt: skip
    strays += [put(home.parent / "folder", None), put(copy.root / "records" / "00" / home.name, home.read_bytes())]
    plan = copy.root / "plans" / "small.json"
    strays += [put(plan.with_name(name), plan.read_bytes()) for name in ("small (copy).json", "small.json.bak")]
    strays.append(put(plan.with_name("old"), None))
    (home.parent / "pipe").touch()
    os.unlink(home.parent / "pipe")
    os.mkfifo(home.parent / "pipe")
    os.symlink("nowhere", home.parent / "link.json")
    strays += [home.parent / "pipe", home.parent / "link.json"]
    usable, unusable = copy.records()
    assert len(usable) == len(Store.open(good / "store").records()[0]) and len(copy.plans()) == 1
    assert len(unusable) == len(strays) and not any(one.ours for one in unusable)
    said = command("status", copy.root).stderr.splitlines()
    assert len(said) == len(strays) and all(line.startswith("spurbench: not used: ") for line in said)
    assert f"not used: {Path(*strays[0].parts[-3:])}" in " ".join(command("leaderboard", copy.root).stdout.split())
    command("pack", copy.root, copy.root.parent / "p.jsonl.gz")
    for _ in range(2):
        assert find_outstanding(load_grid(str(good / "small.yaml")), copy, Settings()).waiting == set()
    assert all(os.path.lexists(path) for path in strays) and not (copy.root / "set-aside").exists()


@pytest.mark.parametrize(
    "what", ["cut", "empty", "other", "folder", "link", "loop", "pipe", "large", "nested", "latin"]
)
def test_what_cannot_be_used_where_a_record_belongs_is_set_aside_once(
    copy: Store, good: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    one, other = list(copy.whole_records())[:2]
    home = copy.path("records", one.id, ".json")
    content = home.read_bytes()
    home.unlink()
    if what in ("link", "loop"):
        os.symlink("nowhere" if what == "link" else home.name, home)
    elif what == "pipe":
        os.mkfifo(home)
    elif what == "folder":
        put(home, None)
    else:
        odd = {"cut": content[:99], "empty": b"", "other": canonical(seal(other.to_dict())), "nested": b"[" * 10_000,
               "latin": content.replace(b"abc", b"\xe4bc"), "large": content + b" " * 100_000}  # fmt: skip
        home.write_bytes(odd[what])
        monkeypatch.setattr(parsing, "LIMIT", 100_000)
    (bad,) = copy.records()[1]
    assert bad.path == str(home.relative_to(copy.root)) and bad.ours and len(bad.reason) < 200
    assert copy.record(one.id) is None and one.id not in {each.id for each in copy.records()[0]}
    grid = load_grid(str(good / "small.yaml"))
    assert one.id in find_outstanding(grid, copy, Settings()).waiting
    assert copy.records()[1] == [] and len(list((copy.root / "set-aside").iterdir())) == 1
    copy.write_record(one)
    assert find_outstanding(grid, copy, Settings()).waiting == set()


def test_nothing_is_lost_of_what_is_replaced(copy: Store) -> None:
    """Neither by a record written where a damaged one lies, nor by two set aside in the same second."""
    one = next(copy.whole_records())
    home = copy.path("records", one.id, ".json")
    for content in (b"first", b"second"):
        home.write_bytes(content)
        copy.write_record(one)
    assert {path.read_bytes() for path in (copy.root / "set-aside").iterdir()} == {b"first", b"second"}
    assert copy.record(one.id) == one


def test_a_record_of_a_newer_spurbench_is_not_done_again(copy: Store, good: Path) -> None:
    one = next(copy.whole_records())
    home = copy.path("records", one.id, ".json")
    home.write_bytes(canonical(seal(one.to_dict() | {"schema": SCHEMA + 1})))
    with pytest.raises(UserError, match=f"{home}: written by a newer spurbench.*upgrade"):
        find_outstanding(load_grid(str(good / "small.yaml")), copy, Settings())
    with pytest.raises(UserError, match="newer spurbench"):
        copy.write_record(one)
    assert home.exists() and build.build_from_store(Store.open(copy.root)).set_aside


def test_a_file_that_may_not_be_read_is_named(copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = next(copy.whole_records()).id
    read = store.read_whole

    def refused(path: Any) -> bytes:
        if one in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(store, "read_whole", refused)
    (reason,) = reasons(Store.open(copy.root)).values()
    assert reason == "cannot be read: Permission denied"


@pytest.mark.parametrize("folder", ["records", "plans"])
def test_a_folder_that_is_a_file_is_named(copy: Store, folder: str) -> None:
    shutil.rmtree(copy.root / folder)
    (copy.root / folder).write_text("foreign")
    assert "cannot be read" in reasons(copy)[folder]
    status.states_of(Store.open(copy.root))


def test_what_is_left_of_a_store_is_one_again(copy: Store, tmp_path: Path) -> None:
    """Its mark may be lost, or everything but what a worker had still to write; what a desktop leaves is nothing."""
    (copy.root / store.MARK).unlink()
    with pytest.raises(UserError, match="no store at"):
        Store.open(copy.root)
    assert len(Store.open(copy.root, create=True).records()[0]) == len(copy.records()[0])
    put(tmp_path / "left" / "claims" / "ab" / "x.json")
    put(tmp_path / "desktop" / ".DS_Store")
    for name in ("left", "desktop"):
        assert Store.open(tmp_path / name, create=True).records() == ([], [])
    put(tmp_path / "home" / ".bashrc")
    with pytest.raises(UserError, match="not empty and not a store"):
        Store.open(tmp_path / "home", create=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": "1"}', '{"schema": true}', '{"schema": -1}',
                                  '{"schema": 1e400}', '{"schema": 1, "oldest": 2}', "null"])  # fmt: skip
def test_a_damaged_mark_is_one_line(copy: Store, text: str) -> None:
    (copy.root / store.MARK).write_text(text)
    with pytest.raises(UserError, match=f"{store.MARK} is damaged; it should read"):
        Store.open(copy.root)


# ---- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hyper_parameters": {"delay": 10**30}}, "hyper_parameters.delay is 1000000.*more than 64 bits"),
        ({"measures": {"test": {"m": 2**64}}}, "measures.test.m is 18446744073709551616"),
        ({"measures": {"test": {"m": float("nan")}}}, "measures.test.m is nan"),
        ({"measures": {"test": {"m": float("inf")}}}, "measures.test.m is inf"),
        ({"measures": {"test": {"m": np.float32(1)}}}, "measures.test.m is of type float32"),
        ({"measures": {"test": {1: 1.0}}}, "measures.test.the key 1 is no text"),
        ({"history": [{"loss": 1.0}, {"loss": float("-inf")}]}, "history.1.loss is -inf"),
        ({"dataset_options": {"root": "\udcff"}}, "dataset_options.root is .*not valid Unicode"),
        ({"hyper_parameters": {"deep": nested(5000)}}, "cannot be kept"),
    ],
)
def test_a_record_that_could_not_be_read_again_is_not_written(copy: Store, change: dict[str, Any], words: str) -> None:
    one = next(copy.whole_records()).with_(**change)
    one = one if "deep" in one.hyper_parameters else one.with_(id=one.run.id)
    before = sorted(copy.root.rglob("*"))
    with pytest.raises(UserError, match=words):
        copy.write_record(one)
    assert sorted(copy.root.rglob("*")) == before


def test_a_run_that_fails_with_any_words_leaves_a_record(copy: Store) -> None:
    one = next(copy.whole_records())
    cause = Cause("exception", f"cannot open \udcff {'x' * 10**6}", "y" * 10**6)
    copy.write_record(one.with_(status="failed", cause=cause))
    found = copy.record(one.id)
    assert found and found.cause and found.cause.message.startswith("cannot open ? xxx")
    assert (len(found.cause.message), len(found.cause.detail or "")) == (parsing.MESSAGE, parsing.DETAIL)


# ---- packed stores --------------------------------------------------------------------------------------------------


def test_half_a_packed_store_is_merged_and_the_rest_named(good: Path, tmp_path: Path, command: Any) -> None:
    whole = (good / "packed.jsonl").read_bytes()
    for name, cut in (("p.jsonl", whole[: len(whole) * 4 // 5]), ("p.jsonl.gz", gzip.compress(whole)[:-20])):
        (tmp_path / name).write_bytes(cut)
        said = command("merge", tmp_path / name.replace(".", "-"), tmp_path / name, code=2)
        count = int(said.stdout.split()[0])
        assert 0 < count <= 6 and f"{count} records added" in said.stdout
        assert f"not used: {tmp_path / name}:{count + 2}: " in said.stderr and len(said.stderr.splitlines()) == 1


def test_what_is_damaged_is_not_left_out_of_a_packed_store_silently(copy: Store, tmp_path: Path, command: Any) -> None:
    home = copy.path("records", copy.records()[0][0].id, ".json")
    home.write_bytes(home.read_bytes()[:50])
    said = command("pack", copy.root, tmp_path / "p.jsonl.gz", code=2)
    assert said.stdout.startswith("5 records in") and f"not used: {home}: " in said.stderr
    assert reasons(Store.open(tmp_path / "p.jsonl.gz")) == {}


def test_lines_of_another_kind_are_named(good: Path, tmp_path: Path) -> None:
    plan, one, *_ = lines_of(good)
    odd = [{"weights": 1}, {"plan": plan["plan"], "more": 1}, 3, {}, b"not JSON", b"\xff\xfe"]
    where = packed_of(tmp_path, [plan, *odd, b"", b"   ", one])
    found = reasons(where)
    assert list(found) == [f"p.jsonl:{number}" for number in range(2, 8)] and len(where.records()[0]) == 1
    assert "'weights' (written by a newer spurbench?)" in found["p.jsonl:2"]
    with pytest.raises(UserError, match=r"holds no plan and no record that can be used \(q.jsonl:1: .*'weights'"):
        packed_of(tmp_path, odd, "q.jsonl").records()


def test_the_name_of_a_packed_store_does_not_say_whether_it_is_compressed(good: Path, tmp_path: Path) -> None:
    content = (good / "packed.jsonl").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(content))
    whole = Store.open(good / "packed.jsonl")
    for name in ("a.jsonl.gz", "b.jsonl"):
        assert Store.open(tmp_path / name).records() == whole.records()


def test_what_is_read_of_a_packed_store_is_bounded(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, one, *_ = map(canonical, lines_of(good))
    monkeypatch.setattr(packed, "MAX_LINE", 50_000)
    monkeypatch.setattr(packed, "MAX_UNPACKED", 300_000)
    head = plan + b"\n" + one + b"\n"
    bombs = {"line": b"x" * 10**6, "lines": b"\n" * 10**6, "faults": b"[]\n" * 5000}
    for name, bomb in bombs.items():
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(head + bomb * (1 + 9 * (name == "lines"))))
        where = Store.open(tmp_path / f"{name}.jsonl.gz")
        assert len(where.records()[0]) == 1 and len(where.records()[1]) <= packed.MAX_FAULTS + 1
        assert "not read" in where.records()[1][-1].reason


def test_records_of_one_run_in_a_packed_store(good: Path, tmp_path: Path) -> None:
    """What tells the same counts once, what is done before what failed; of a contradiction nothing is used."""
    plan, *records = lines_of(good)
    same, failed, contradicted, alone = (line["record"] for line in records[:4])
    elsewhere = seal(same | {"cost": same["cost"] | {"seconds": 99.0}})
    cause = {"kind": "killed", "message": "", "detail": ""}
    lost = seal(failed | {"status": "failed", "cause": cause, "splits": {}, "looks": []})
    other = seal(contradicted | {"measures": {}})
    every = [same, lost, contradicted, alone, elsewhere, failed, other, contradicted]
    where = packed_of(tmp_path, [plan, *({"record": one} for one in every)])
    assert list(where.whole_records()) == [record_from(one) for one in (same, failed, alone)]
    assert list(reasons(where)) == ["p.jsonl:4", "p.jsonl:8", "p.jsonl:9"]
    assert f"run {contradicted['id']} in this file contradict each other" in reasons(where)["p.jsonl:9"]


# ---- plans of one name ----------------------------------------------------------------------------------------------


def test_another_plan_of_the_same_name_is_kept_beside_it(good: Path, copy: Store, tmp_path: Path, command: Any) -> None:
    """In a packed store and when merging, once however often; it loses neither labels nor notes."""
    plan, *records = lines_of(good)
    theirs = json.loads(json.dumps(plan))
    theirs["plan"]["cells"][0]["label"], theirs["plan"]["notes"] = "theirs", ["their note"]
    where = packed_of(tmp_path, [plan, theirs, plan, theirs, *records])
    assert [one.grid for one in where.plans()] == ["small", "small-2"]
    alone = packed_of(tmp_path, [theirs, *records], "alone.jsonl")
    for source in (where, alone, where):
        said = command("merge", copy.root, source.root).stdout
    assert "p.jsonl:2: there is another plan called small: this one is kept beside it as small-2" in said
    assert [one.grid for one in Store.open(copy.root).plans()] == ["small", "small-2"]
    rows = command("leaderboard", copy.root).stdout
    assert "small: a note" in rows and "small-2: their note" in rows
    table = [json.loads(command("leaderboard", one, "--format", "json").stdout) for one in (copy.root, good / "store")]
    assert len(table[0]) == len(table[1])


def test_of_plans_of_one_grid_the_one_whose_search_is_further_is_kept(good: Path, tmp_path: Path) -> None:
    grid, (done, *records) = load_grid(str(good / "small.yaml")), lines_of(good)
    begun = {"plan": expand(grid, {}).to_dict()}
    assert begun["plan"]["cells"][1]["search"]["chosen"] is None
    for order in ([begun, done], [done, begun]):
        where = packed_of(tmp_path, [*order, *records])
        assert where.plans() == [plan_from(done["plan"])] and where.renamed() == []
    new = Store.open(tmp_path / "new", create=True)
    for one in (begun, done, begun):
        merge(new, [packed_of(tmp_path, [one, *records])])
    assert new.plans() == [plan_from(done["plan"])]


# ---- what is kept beside records ------------------------------------------------------------------------------------


def test_damaged_drawings_are_named_and_the_others_used(copy: Store, tmp_path: Path) -> None:
    ids = [one.id for one in copy.records()[0]]
    for id in ids[:4]:
        artifacts.save_arrays(copy, id, {"surface": np.ones((9, 9)), "more": np.zeros(3)})
    files = [copy.path("drawings", id, ".npz") for id in ids]
    with zipfile.ZipFile(files[0]) as whole:
        at = whole.getinfo("surface.npy").header_offset + 70  # behind what says what it is
    content = files[0].read_bytes()
    files[0].write_bytes(content[:at] + bytes(5) + content[at + 5 :])
    files[1].write_bytes(b"")
    np.save(files[2].open("wb"), np.ones(3))
    os.mkfifo(files[4]) if files[4].parent.exists() else put(files[4], None)
    found = dict(artifacts.load_each(copy, ids))
    assert {id: sorted(arrays) for id, arrays in found.items()} == {ids[0]: ["more"], ids[3]: ["more", "surface"]}
    said = {one.path: one.reason for one in copy.complaints()}
    assert sorted(said) == sorted(str(files[place]) for place in (0, 1, 2, 4))
    assert "surface in it is damaged (" in said[str(files[0])]
    artifacts.save_arrays(copy, ids[1], {"surface": np.ones(2)})  # made anew
    assert sorted(artifacts.load_arrays(copy, ids[1])) == ["surface"]


def test_foreign_entries_among_packed_drawings_are_left_alone(copy: Store, tmp_path: Path, command: Any) -> None:
    id = copy.records()[0][0].id
    artifacts.save_arrays(copy, id, {"surface": np.ones(2)})
    command("pack", copy.root, tmp_path / "p.jsonl", "--drawings")
    with zipfile.ZipFile(tmp_path / "p.drawings.npz", "a") as beside:
        beside.writestr("../../x.npy", b"foreign")
        beside.writestr(f"{id}/words.txt", b"foreign")
        beside.writestr(f"{id}/cut.npy", b"\x93NUMPY\x01\x00")
        beside.writestr(f"{id}/odd.npy", b"\x93NUMPY\x09\x00")
    said = command("merge", tmp_path / "new", tmp_path / "p.jsonl", code=2)
    assert "6 records added" in said.stdout
    assert [line.split(": ")[3].split()[0] for line in said.stderr.splitlines()] == [
        f"{id}/{name}" for name in ("words.txt", "cut", "odd")
    ]
    assert sorted(artifacts.load_arrays(Store.open(tmp_path / "new"), id)) == ["surface"]
    assert {path.name for path in tmp_path.iterdir()} == {"store", "new", "p.jsonl", "p.drawings.npz"}


@pytest.mark.parametrize(
    ("name", "text"),
    [("submission.json", "{"), ("submission.json", '{"arrays": ["../x"]}'), ("submission.json", "[]"),
     ("array-0.json", "{"), ("array-0.json", '{"tasks": [[{"runs": 3}]]}'), ("array-0.json", '{"tasks": 1}')],
)  # fmt: skip
def test_damaged_files_of_a_submission_are_one_line(copy: Store, name: str, text: str) -> None:
    from spurbench.bench.cluster.submissions import tasks

    folder = copy.root / "slurm" / "20260101-000000-abc"
    put(folder / "submission.json", b'{"arrays": ["7"]}')
    put(folder / "array-0.json", b'{"tasks": []}')
    assert list(tasks(copy)) == []
    put(folder / name, text.encode())
    with pytest.raises(UserError, match=f"{name} is damaged.*delete the folder"):
        list(tasks(copy))


# ---- schemas --------------------------------------------------------------------------------------------------------


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next schema, in which `training` has no field `drops`, so that every id is another."""
    for module in (parsing, record, store):
        monkeypatch.setattr(module, "SCHEMA", SCHEMA + 1)

    def todays(one: dict[str, Any]) -> dict[str, Any]:
        if one["schema"] > SCHEMA:
            return one
        found = one | {"schema": SCHEMA + 1, "hyper_parameters": one["hyper_parameters"] | {"new": 1}}
        return seal(found | {"id": Run.from_dict(found).id})

    monkeypatch.setattr(parsing, "migrate_record", todays)
    monkeypatch.setattr(parsing, "fault_in_plan", lambda plan: None)


def test_a_record_whose_id_was_migrated_is_found_with_what_is_kept_beside_it(
    copy: Store, good: Path, tmp_path: Path, later: None
) -> None:
    old = json.loads(next((copy.root / "records").glob("*/*.json")).read_bytes())
    artifacts.save_arrays(Store.open(copy.root), old["id"], {"surface": np.ones(3)})
    by_home = {copy.file_id(one.id): one for copy in [Store.open(copy.root)] for one in copy.whole_records()}
    new = by_home[old["id"]]
    assert new.id != old["id"] and len(Store.open(copy.root).records()[0]) == 6
    again = Store.open(copy.root)
    assert again.record(new.id) == new and artifacts.load_arrays(again, new.id).keys() == {"surface"}
    again.write_record(new.with_(cost=structs.replace(new.cost, seconds=2.0)))
    written = again.record(new.id)
    assert written and written.cost.seconds == 2.0
    assert len(again.records()[0]) == 6 and again.records()[1] == []
    assert artifacts.load_arrays(Store.open(copy.root), new.id).keys() == {"surface"}
    assert json.loads((copy.root / store.MARK).read_bytes()) == {"schema": SCHEMA + 1, "oldest": SCHEMA}
    merged = Store.open(tmp_path / "merged", create=True)
    merge(merged, [again])
    assert merged.record(new.id) and artifacts.load_arrays(merged, new.id).keys() == {"surface"}
    assert merged.oldest == SCHEMA + 1 and all(one.schema == SCHEMA + 1 for one in merged.records()[0])
    from_packed = Store.open(good / "packed.jsonl")
    assert isinstance(from_packed, Packed) and from_packed.file_id(new.id) == old["id"]


def test_a_store_that_is_gone_is_not_written_to(copy: Store) -> None:
    one = next(copy.whole_records())
    shutil.rmtree(copy.root)
    with pytest.raises(StoreTrouble, match="is gone"):
        copy.write_record(one)
    assert not copy.root.exists()
