"""Records, their identity, and the store: nothing half-written, nothing trusted that was tampered with."""

from __future__ import annotations

import errno
import gzip
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_plan, make_record, seal

from spurbench.bench.cli import store_commands
from spurbench.bench.core.errors import StoreTrouble, UserError
from spurbench.bench.core.files import sweep, write_atomically
from spurbench.bench.records.parsing import Unfit, record_from
from spurbench.bench.records.record import SCHEMA, Record
from spurbench.bench.records.run import Run
from spurbench.bench.store import artifacts, weights
from spurbench.bench.store.claims import STALE_VARIABLE, Claims, Lost, remove_dead
from spurbench.bench.store.merge import merge
from spurbench.bench.store.store import Store, checkpoint_of

RUN = Run("moon", {"b": 1, "a": 0.1}, 1, "erm", {"x": 1}, {"lr": 0.1, "steps": 3}, "float32", 0)


def record(seed: int = 0, status: str = "done", **changes: Any) -> Record:
    cause = None if status == "done" else {"kind": "killed", "message": "m", "detail": ""}
    return make_record(**RUN.to_dict() | {"seed": seed, "status": status, "cause": cause} | changes)


def test_identity_is_what_defines_the_science() -> None:
    assert RUN.id == Run(**{**RUN.to_dict(), "dataset_options": {"a": 0.1, "b": 1}}).id
    assert RUN.id == Run(**{**RUN.to_dict(), "training": {"lr": 0.1, "steps": 3, "batch": None}}).id
    others = [{"seed": 1}, {"precision": "bf16"}, {"method": "sd"}, {"training": {"lr": 0.2, "steps": 3}},
              {"protocol_version": 2}, {"hyper_parameters": {"x": 2}}]  # fmt: skip
    assert len({RUN.id, *(Run(**{**RUN.to_dict(), **other}).id for other in others)}) == 7
    assert Run(**{**RUN.to_dict(), "seed": 1}).cell_key == RUN.cell_key
    assert record().run == RUN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "failed"}, "digest"),
        ({"schema": SCHEMA + 1}, "newer spurbench"),
        ({"digest": None}, "digest"),
        ({"schema": "2"}, "not a record"),
    ],
)
def test_a_tampered_record_is_known(change: dict[str, Any], words: str) -> None:
    whole = record().to_dict()
    assert record_from(whole) == record()
    other = seal(whole | {"seed": 5})
    for damaged, why in ((whole | change, words), (other, "its id"), ([], "not a record"), ({}, "not a record")):
        with pytest.raises(Unfit, match=why):
            record_from(damaged)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def test_unusable_records_are_named_and_set_aside(store: Store) -> None:
    for seed in range(3):
        store.write_record(record(seed))
    paths = sorted(store.root.glob("records/*/*.json"))
    paths[0].write_text(paths[0].read_text()[:50])
    paths[1].write_text(paths[1].read_text().replace("done", "gone"))
    usable, unusable = store.records()
    assert len(usable) == 1 and [one.path for one in unusable] == [str(p.relative_to(store.root)) for p in paths[:2]]
    assert store.record(paths[0].stem) is None
    store.set_aside(unusable)
    assert store.records()[1] == [] and len(list((store.root / "set-aside").iterdir())) == 2


def test_stores_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no store at"):
        Store.open(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("do not touch")
    with pytest.raises(UserError, match="not empty"):
        Store.open(tmp_path / "full", create=True)
    (tmp_path / "spurbench-store.json").write_text('{"schema": 7}')
    with pytest.raises(UserError, match="newer spurbench"):
        Store.open(tmp_path)
    (tmp_path / "spurbench-store.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Store.open(tmp_path)


@pytest.mark.parametrize("name", ["packed.jsonl", "packed.jsonl.gz"])
def test_packed_and_merged(store: Store, tmp_path: Path, name: str) -> None:
    for seed in range(3):
        store.write_record(record(seed))
    store.write_plan(make_plan(grid="g", cells=[]))
    assert store.pack(tmp_path / name) == 3
    first = (tmp_path / name).read_bytes()
    store.pack(tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    packed = Store.open(tmp_path / name)
    assert packed.records() == store.records() and packed.plans() == store.plans()
    assert packed.record(RUN.id) == store.record(RUN.id)
    with pytest.raises(UserError, match="for reading only"):
        packed.write_record(record())
    other = Store.open(tmp_path / "other", create=True)
    other.write_record(record(0, "failed"))
    other.write_record(record(1))
    assert merge(other, [packed]) == (2, 1)
    assert other.records() == store.records() and other.plans() == store.plans()


def test_merging_names_what_contradicts(store: Store, tmp_path: Path) -> None:
    """Same science from other hardware is no conflict; other science is, and then nothing is merged."""
    one, two = (Store.open(tmp_path / name, create=True) for name in ("one", "two"))
    elsewhere = record(cost={"seconds": 99.0}, provenance={"commit": "another"})
    one.write_record(elsewhere)
    two.write_record(record(measures={"test": {"accuracy": 0.1}}))
    two.write_record(record(1))
    kept = two.path("predictions", record(1).id, ".npz")
    write_atomically(kept, b"logits")
    assert merge(store, [one]) == (1, 0)
    with pytest.raises(UserError, match=f"1 run with finished records that differ: {RUN.id} of .* and .*two"):
        merge(store, [one, two])
    assert store.records()[0] == one.records()[0]
    assert merge(store, [one, two], keep="ours") == (1, 2) and store.record(RUN.id) == one.record(RUN.id)
    assert store.path("predictions", record(1).id, ".npz").read_bytes() == b"logits"
    assert merge(store, [two], keep="theirs") == (1, 1) and store.record(RUN.id) == two.record(RUN.id)
    with pytest.raises(UserError, match="did you mean theirs"):
        merge(store, [two], keep="their")


def test_drawings_go_the_way_of_their_records(store: Store, tmp_path: Path) -> None:
    """None come to a record that stays in a conflict, and none of it stay with one that takes its place."""
    other = Store.open(tmp_path / "other", create=True)
    for seed, ours in ((0, record(0)), (1, record(1)), (2, record(2, "failed"))):
        theirs = record(seed, measures={"test": {"accuracy": 0.1}} if seed == 0 else {})
        for where, one, name in ((store, ours, "ours"), (other, theirs, "theirs")):
            where.write_record(one)
            artifacts.save_arrays(where, one.id, {name: np.zeros(1)})
    weights.save(store, record(0).id, 1, [{}])
    other.write_record(record(3))
    artifacts.save_arrays(other, record(3).id, {"theirs": np.ones(1)})
    write_atomically(store.path("predictions", RUN.id, ".npz"), b"ours")

    def kept() -> list[list[str]]:
        return [sorted(artifacts.load_arrays(store, record(seed).id)) for seed in range(4)]

    store_commands.merge(store.root, [other.root], keep="ours")
    assert kept() == [["ours"], ["ours", "theirs"], ["theirs"], ["theirs"]]
    assert store.path("predictions", RUN.id, ".npz").exists()
    assert weights.has(store, record(0).id, 1)
    store_commands.merge(store.root, [other.root], keep="theirs")
    assert not weights.has(store, record(0).id, 1), "networks of another run than the record"
    assert kept()[:2] == [["theirs"], ["ours", "theirs"]]
    assert not store.path("predictions", RUN.id, ".npz").exists()  # they were those of the record that gave way


@pytest.mark.parametrize("whole", [0.5, 0.0])
def test_drawings_cut_short_are_named(store: Store, whole: float) -> None:
    artifacts.save_arrays(store, RUN.id, {"surface": np.ones(100)})
    file = store.path("drawings", RUN.id, ".npz")
    content = file.read_bytes()
    file.write_bytes(content[: int(whole * len(content))])
    assert artifacts.load_arrays(store, RUN.id) == {}
    (complaint,) = store.complaints()
    assert complaint.path.endswith(f"{RUN.id}.npz") and "damaged" in complaint.reason


def test_a_packed_source_is_read_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        store.write_record(record(seed))
        artifacts.save_arrays(store, record(seed).id, {"surface": np.ones(seed + 1)})
    store.write_plan(make_plan(grid="g", cells=[]))
    store_commands.pack(store.root, tmp_path / "packed.jsonl.gz", with_drawings=True)
    opened, loaded, unzip, load = [], [], gzip.open, np.load
    monkeypatch.setattr(gzip, "open", lambda file, *more: (opened.append(file), unzip(file, *more))[1])
    monkeypatch.setattr(np, "load", lambda file, **more: (loaded.append(Path(file)), load(file, **more))[1])
    store_commands.merge(tmp_path / "all", [tmp_path / "packed.jsonl.gz"])
    assert opened == [tmp_path / "packed.jsonl.gz"] and loaded.count(tmp_path / "packed.drawings.npz") == 1
    merged = Store.open(tmp_path / "all")
    assert merged.records() == store.records() and merged.plans() == store.plans()
    assert [len(artifacts.load_arrays(merged, record(seed).id)["surface"]) for seed in range(3)] == [1, 2, 3]
    with pytest.raises(UserError, match="packed.jsonl.gz is a packed store, for reading only"):
        store_commands.merge(tmp_path / "packed.jsonl.gz", [tmp_path / "all"])
    packed = Store.open(tmp_path / "packed.jsonl.gz")
    assert len(packed.records()[0]) == 3
    store.write_record(record(3))
    store.pack(tmp_path / "packed.jsonl.gz")
    assert len(packed.records()[0]) == 4  # the file has changed


def test_a_damaged_line_of_a_packed_store_is_named(store: Store, tmp_path: Path) -> None:
    store.write_record(record(0))
    store.write_record(record(1))
    store.pack(tmp_path / "p.jsonl")
    first, second = (tmp_path / "p.jsonl").read_text().splitlines()
    (tmp_path / "p.jsonl").write_text(f"{first[:40]}\n{second}\n")
    usable, unusable = Store.open(tmp_path / "p.jsonl").records()
    assert len(usable) == 1 and unusable[0].path == "p.jsonl:1"


def test_packed_stores_that_are_damaged(store: Store, tmp_path: Path) -> None:
    """What can be read of one cut short is used, the rest is named; a file of something else is refused."""
    for seed in range(300):
        store.write_record(record(seed))
    store.pack(tmp_path / "p.jsonl.gz")
    whole = (tmp_path / "p.jsonl.gz").read_bytes()
    (tmp_path / "p.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    usable, unusable = Store.open(tmp_path / "p.jsonl.gz").records()
    assert 0 < len(usable) < 300 and unusable[-1].path == f"p.jsonl.gz:{len(usable) + 1}"
    for name, text in (("words.jsonl", "not records\n"), ("zipped.jsonl.gz", "not gzip"), ("list.jsonl", "[1]\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name} holds no plan and no record"):
            Store.open(tmp_path / name).records()


@pytest.mark.parametrize("text", ['{"grid": "g", "cel', "{}", "[1]"])
def test_a_damaged_plan_is_named_and_set_aside(store: Store, text: str) -> None:
    store.write_plan(make_plan(grid="g", cells=[]))
    (store.root / "plans" / "h.json").write_text(text)
    assert [plan.grid for plan in store.plans()] == ["g"]
    (unusable,) = store.records()[1]
    assert unusable.path == "plans/h.json" and "not a plan" in unusable.reason
    store.set_aside([unusable])
    assert store.records()[1] == []


def test_a_claim_is_had_by_one(store: Store) -> None:
    claims, others = store.claims, Claims(store.claims.root)
    assert claims.take("ab12") and not others.take("ab12")
    claims.keep("ab12", 5, 10)
    assert claims.living()["ab12"]["step"] == 5
    others.release("ab12")  # not theirs
    claims.check("ab12")
    claims.release("ab12")
    assert others.take("ab12")


def test_what_the_machine_cannot_do_with_a_claim_is_no_fault_of_the_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched, pytest.raises(StoreTrouble, match="cannot claim a run, .*output error"):
        patched.setattr(os, "fdopen", failing)
        store.claims.take("ab" * 8)
    assert not store.claims.path("ab" * 8).exists() and store.claims.take("ab" * 8)
    with monkeypatch.context() as patched, pytest.raises(StoreTrouble, match="cannot read the claim .*output error"):
        patched.setattr(os, "open", failing)
        store.claims.check("ab" * 8)
    store.claims.check("ab" * 8)


def test_a_dead_claim_is_taken_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that has ended (a zombie has), of a number that another process has now, of one long silent."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is a zombie until it is waited for
    claims, path = store.claims, store.claims.path("ab12")
    assert claims.take("ab12")
    holder = json.loads(path.read_text())
    for change in ({"pid": dead.pid}, {"begun": "1"}):
        path.write_text(json.dumps(holder | change))
        assert claims.living() == {} and claims.take("ab12")
    dead.wait()
    path.write_text(json.dumps(holder | {"machine": "elsewhere"}))
    assert not claims.take("ab12")
    monkeypatch.setenv(STALE_VARIABLE, "0")
    assert claims.take("ab12")


def test_no_clock_but_the_file_systems_is_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.claims.take("ab12")
    path = store.claims.path("ab12")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "elsewhere"}))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert "ab12" in store.claims.living() and not Claims(store.claims.root).take("ab12")


def test_who_has_lost_a_claim_is_told_before_writing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, other = store.claims, Claims(store.claims.root)
    assert stopped.take("ab12")
    monkeypatch.setenv(STALE_VARIABLE, "0")  # as if it had been stopped for longer than a claim lives
    assert other.take("ab12")
    monkeypatch.delenv(STALE_VARIABLE)
    for action in (lambda: stopped.check("ab12"), lambda: stopped.keep("ab12", 1, 2)):
        with pytest.raises(Lost):
            action()
    stopped.release("ab12")
    other.check("ab12")
    other.release("ab12")
    with pytest.raises(Lost):
        other.check("ab12")


def test_copies_that_a_synchroniser_makes_are_no_claims(store: Store) -> None:
    assert store.claims.take("ab12")
    for name in ("ab12 (conflicted copy).json", "ab12.sync-conflict-20260101.json"):
        (store.claims.path("ab12").parent / name).write_bytes(store.claims.path("ab12").read_bytes())
    assert list(store.claims.living()) == ["ab12"]


def test_a_failed_write_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_claim_made_since_it_was_found_dead_is_put_back(store: Store) -> None:
    assert store.claims.take("ab12")
    path = store.claims.path("ab12")
    remove_dead(path)  # this process lives: as if it had claimed after the other looked
    store.claims.check("ab12")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"pid": 2**22 + 1}))
    remove_dead(path)
    assert not list(path.parent.iterdir())


def test_a_store_that_is_gone_does_not_come_back(store: Store, tmp_path: Path) -> None:
    store.root.rename(tmp_path / "moved")
    with pytest.raises(StoreTrouble, match="is gone"):
        store.write_record(record())
    assert not store.root.exists()


def test_temporary_files_of_the_dead_are_swept(store: Store) -> None:
    store.write_record(record())
    folder = store.path("records", RUN.id, ".json").parent
    host = socket.gethostname()
    for name in (f".a.{host}.{2**22 + 1}.tmp", f".a.{host}.{os.getpid()}.tmp", ".a.elsewhere.1.tmp"):
        (folder / name).touch()
    store.tidy()
    assert {p.name for p in folder.glob(".*")} == {f".a.{host}.{os.getpid()}.tmp", ".a.elsewhere.1.tmp"}
    sweep(folder, older_than=-1)
    assert not list(folder.glob(".*"))


def test_the_checkpoint_of_a_run_done_again_is_kept(tmp_path: Path) -> None:
    """One that a record outlived is not."""
    store = Store.open(tmp_path, create=True)
    failed = record(status="failed", cause={"kind": "exception", "message": "m"})
    checkpoint = checkpoint_of(store, failed.id)
    store.write_record(failed)
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"")
    recorded = store.path("records", failed.id, ".json").stat().st_mtime_ns
    os.utime(checkpoint, ns=(recorded + 1, recorded + 1))
    store.tidy()
    assert checkpoint.exists()
    os.utime(checkpoint, ns=(recorded, recorded))
    store.tidy()
    assert not checkpoint.exists()
