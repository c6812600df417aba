"""What is prepared is what is asked for: no two choices share a folder, and nothing foreign or damaged is used."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spurbench.bench.api import dataset_files
from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import data_folder as root
from spurbench.bench.images import decode_parts
from spurbench.bench.images.decode import Crop
from spurbench.bench.plugins import registry
from spurbench.bench.prepared import facts, workplace
from spurbench.bench.prepared.facts import FACTS

OwnPictures, CelebA, CIFAR10 = (registry.load_dataset(name) for name in ("own_pictures", "celeba", "cifar10"))
NAME, SIZE = "own_pictures.name=mine", "own_pictures.size=8"
ROWS = [(f"img/{i}.png", i % 2, i // 2 % 2, i // 3 % 2, i // 4) for i in range(12)]  # file, y, a, b, split


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPURBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "mine")


def folder_of(folder: Path, rows: Any = ROWS, shade: int = 0) -> Path:
    """Pictures of these names in as many colours, and their table."""
    for i, (name, *_) in enumerate(rows):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * i, shade, 0)).save(folder / name)
    return tabled(folder, rows)


def tabled(folder: Path, rows: Any) -> Path:
    lines = ["img_filename,y,a,b,split", *(",".join(map(str, row)) for row in rows)]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def prepared(folder: Path, *sets: str) -> str:
    return dataset_files.prepare("own_pictures", folder, (NAME, SIZE, *sets))


def own(**options: Any) -> Any:
    return OwnPictures(**{"name": "mine", "size": 8} | options)


def here() -> Path:
    return root() / "own_pictures" / "mine-original-8"


# ---- no two choices share a folder ----------------------------------------------------------------------------------


def test_names_that_look_alike_share_no_folder() -> None:
    texts = ("a", "b", "a-b", "b-a", "a-original", "original", "original-incomplete", "incomplete", "a-8", "8", "a.b")
    found = {}
    for name in texts:
        for attribute in texts:
            for origin in texts:
                for size in (8, 88):
                    choice = (name, attribute, origin, size)
                    version = own(name=name, attribute=attribute, size=size).version(origin)
                    assert found.setdefault(version.casefold(), choice) == choice


def test_folders_of_the_usual_datasets_keep_their_names() -> None:
    assert CelebA(origin="twin", size=32).version("twin") == "twin-32"
    assert CIFAR10(origin="jpeg").version("jpeg") == "jpeg"
    assert own().version("original") == "mine-original-8"
    assert own().version("original-incomplete") == "mine-original-incomplete-8"


def test_an_attribute_is_not_part_of_a_name(mine: Path) -> None:
    """`mine` with the attribute b, and other images called mine-b."""
    prepared(mine, "own_pictures.attribute=b")
    other = folder_of(mine.parent / "other", shade=99)
    dataset_files.prepare("own_pictures", other, ("own_pictures.name=mine-b", SIZE))
    first, second = own(attribute="b"), own(name="mine-b")
    assert first.split("train").attribute.tolist() == [row[3] for row in ROWS[:4]]
    assert second.split("train").attribute.tolist() == [row[2] for row in ROWS[:4]]
    assert first.split("train").x[:, 1].max() == 0 and second.split("train").x[:, 1].max() == 99
    with pytest.raises(BadData, match="is not prepared as 'mine-original-8'"):
        own().prepared()


@pytest.mark.parametrize(
    "text",
    ["../x", "..", ".x", "-x", "--help", "x/y", "x\\y", "x y", "x@y", "x+y", "~", "é", "[red]x", "x\n", "x" * 300],
)
@pytest.mark.parametrize("option", ["name", "attribute", "origin"])
def test_texts_that_cannot_be_in_a_folders_name(option: str, text: str, mine: Path) -> None:
    dataset = own(**{option: text})
    for call in (lambda: dataset.prepare(mine), dataset.prepared, dataset.checksum):
        with pytest.raises(UserError, match="cannot name a folder|no column"):
            call()
    assert not list(root().glob("**/*.npy"))


@pytest.mark.parametrize("text", ["x", "CON", "prepared.json", "lock", "downloads", "x.y_z-1", "0", "_", "X"])
def test_other_texts_can(text: str, mine: Path) -> None:
    dataset = own(name=text)
    dataset.prepare(mine)
    assert len(dataset.split("test").y) == 4


def test_sizes_have_bounds(mine: Path) -> None:
    for size in (0, -1, 4097, 10**9):
        with pytest.raises(UserError, match="size must be 1 or more, and at most 4,096"):
            own(size=size).prepare(mine)


# ---- another folder under a known name ------------------------------------------------------------------------------


def test_another_folder_under_a_known_name(mine: Path) -> None:
    prepared(mine)
    before = own().checksum()
    assert prepared(mine).startswith("already prepared: mine-original-8: 12 images")
    other = folder_of(mine.parent / "other", shade=99)
    with pytest.raises(UserError) as error:
        prepared(other)
    assert str(error.value) == (
        f"{here()} holds mine-original-8: 12 images of 8 × 8, metadata.csv; {other} is not where they came from, "
        f"{mine}: delete {here()} to prepare it anew, or give the images another name, --set own_pictures.name=NAME"
    )
    assert own().checksum() == before
    shutil.rmtree(mine)
    with pytest.raises(UserError, match="is not where they came from"):
        prepared(other)
    said = f"already prepared: mine-original-8: 12 images of 8 × 8, metadata.csv ({here()}, from {mine})"
    assert prepared(mine).startswith(f"{said}; P(a | y): train y0a")


def test_the_same_pictures_in_another_folder(mine: Path) -> None:
    prepared(mine)
    copy = Path(shutil.copytree(mine, mine.parent / "copy"))
    assert f"; {copy} holds the same images; P(a | y)" in prepared(copy)
    tabled(copy, [*ROWS[:-1], ("img/11.png", 1, 1, 1, 1)])
    with pytest.raises(UserError, match="is not where they came from"):
        prepared(copy)


def test_pictures_that_were_changed_in_place(mine: Path) -> None:
    """Neither size nor name tells; a file that is only written anew has not changed."""
    prepared(mine)
    first, second = (mine / "img" / f"{i}.png" for i in (1, 2))
    whole = first.read_bytes()
    assert len(whole) == len(second.read_bytes())
    rewrite(first, second.read_bytes())
    with pytest.raises(UserError, match=f"{mine} has changed since it was prepared: delete"):
        prepared(mine)
    rewrite(first, whole)
    assert "holds the same images" in prepared(mine)


def rewrite(file: Path, content: bytes) -> None:
    """Write a file at another time, however coarse the file system's clock is."""
    before = file.stat().st_mtime_ns
    file.write_bytes(content)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_what_an_older_version_prepared(mine: Path) -> None:
    """It noted neither options nor content; what its folder's name tells is enough, what it does not tell is not."""
    prepared(mine)
    rewritten(here(), as_before)
    assert own().split("train").y.tolist() == [0, 1, 0, 1] and prepared(mine).startswith("already prepared")
    with pytest.raises(UserError, match="is not where they came from"):
        prepared(Path(shutil.copytree(mine, mine.parent / "copy")))
    dataset_files.prepare("own_pictures", mine, ("own_pictures.name=mine-b", SIZE))
    rewritten(root() / "own_pictures" / "mine-b-original-8", as_before)
    with pytest.raises(BadData, match="was prepared with options that were not recorded then"):
        own(name="mine-b").prepared()


NEW = ("options", "stamp", "content", "unused", "copies", "contradicting", "examples")


def as_before(found: Any) -> None:
    """Facts as the first version wrote them, of images alone."""
    for key in NEW:
        del found[key]
    for split in found["splits"].values():
        x = split.pop("arrays")["x"]
        split.update(counts=split["counts"]["a"], pictures=x["file"], bytes=x["bytes"], parts=x["parts"])
    found.update(schema=1, attributes=found["attributes"]["a"])


def rewritten(folder: Path, change: Callable[[Any], Any]) -> None:
    found = json.loads((folder / FACTS).read_bytes())
    change(found)
    (folder / FACTS).write_text(json.dumps(found))


# ---- the checksum ---------------------------------------------------------------------------------------------------


def test_the_checksum_changes_with_pictures_labels_attributes_and_splits(mine: Path) -> None:
    def checksum(name: str, folder: Path, **options: str) -> str:
        dataset = own(name=name, **options)
        dataset.prepare(folder)
        return str(dataset.checksum())

    first = checksum("first", mine)
    later = Path(shutil.copytree(mine, mine.parent / "elsewhere" / "and later"))
    for file in later.rglob("*"):
        os.utime(file, (10**9, 10**9))
    assert checksum("later", later) == first
    found = {first}
    for place in (1, 2, 4):  # y, a, split
        rows = [list(row) for row in ROWS]
        rows[5][place] = 1 - rows[5][place]
        found.add(checksum(f"change{place}", folder_of(mine.parent / f"change{place}", rows)))
    found.add(checksum("pixel", folder_of(mine.parent / "pixel", ROWS, shade=1)))
    found.add(checksum("renamed", folder_of(mine.parent / "renamed", [("img/x.png", *ROWS[0][1:]), *ROWS[1:]])))
    found.add(checksum("first", mine, attribute="b"))
    assert len(found) == 7


def test_the_checksum_that_records_hold(mine: Path) -> None:
    """Records name their data by it: a change of how it is made would part them from data that are the same."""
    prepared(mine)
    assert own().checksum() == "cb91d7cf625ff215693368a66153c385a213991f54a89006af8f09fa3b43246d"


# ---- foreign and damaged files --------------------------------------------------------------------------------------


def facts_with(*keys: str, value: Any) -> Callable[[Path], None]:
    """Set one of the facts."""

    def damage(folder: Path) -> None:
        def change(found: Any) -> None:
            for key in keys[:-1]:
                found = found[key]
            found[keys[-1]] = value

        rewritten(folder, change)

    return damage


def facts_of(text: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / FACTS).write_bytes(text)


def to_nothing(name: str) -> Callable[[Path], Any]:
    return lambda folder: os.truncate(folder / name, 0)


def to_half(name: str) -> Callable[[Path], Any]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def lost(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def dangling(name: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("nowhere")

    return damage


def to_folder(name: str) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def array(change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Other pixels in a file of the size that the facts say."""

    def damage(folder: Path) -> None:
        np.save(folder / "test.npy", change(np.load(folder / "test.npy")))
        size = (folder / "test.npy").stat().st_size
        rewritten(folder, lambda found: found["splits"]["test"]["arrays"]["x"].update(bytes=size))

    return damage


def labels(**changes: Any) -> Callable[[Path], Any]:
    """Other labels; with a function for an array, or None to leave it out."""

    def damage(folder: Path) -> None:
        with np.load(folder / "train-labels.npz") as file:
            found = dict(file)
        for name, change in changes.items():
            found[name] = change(found.get(name)) if change else None
        np.savez(folder / "train-labels.npz", **{k: v for k, v in found.items() if v is not None})

    return damage


def bomb(folder: Path) -> None:
    """Labels of few bytes that would fill the memory."""
    with zipfile.ZipFile(folder / "train-labels.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("y.npy", bytes(10_000_000))


DAMAGE = {
    "facts that are no JSON": facts_of(b"{"),
    "empty facts": facts_of(b""),
    "facts that are no text": facts_of(b"\xff\xfe\x00"),
    "facts that are a list": facts_of(b"[]"),
    "facts that are nested": facts_of(b"[" * 100_000),
    "facts that are null": facts_of(b"null"),
    "no schema": facts_of(b"{}"),
    "a schema that is a word": facts_with("schema", value="one"),
    "splits that are a list": facts_with("splits", value=[]),
    "a split that is null": facts_with("splits", "test", value=None),
    "no splits": facts_with("splits", value={}),
    "a number of images that is a word": facts_with("splits", "test", "n", value="many"),
    "more images than there are": facts_with("splits", "test", "n", value=10**9),
    "fewer images": facts_with("splits", "test", "n", value=3),
    "parts that are null": facts_with("splits", "test", "arrays", "x", "parts", value=None),
    "parts that are others": facts_with("splits", "test", "arrays", "x", "parts", value=["0" * 64]),
    "a file elsewhere": facts_with("splits", "test", "arrays", "x", "file", value="../../../mine/metadata.csv"),
    "a file by its whole path": facts_with("splits", "test", "labels", value="/etc/passwd"),
    "classes that are a number": facts_with("classes", value=2),
    "a class too many": facts_with("classes", value=["y0", "y1", "y2"]),
    "an attribute less": facts_with("attributes", value={}),
    "another checksum": facts_with("checksum", value="0" * 64),
    "a checksum that is none": facts_with("checksum", value=7),
    "a layout with marks of terminals": facts_with("layout", value="\x1b[2J"),
    "another dataset's": facts_with("name", value="celeba"),
    "another version's": facts_with("version", value="yours-original-8"),
    "another side": facts_with("splits", "test", "arrays", "x", "shape", value=[3, 4, 16]),
    "left out that is a number": facts_with("left_out", value=3),
    "no facts": lost(FACTS),
    "facts at the end of no link": dangling(FACTS),
    "facts that are a folder": to_folder(FACTS),
    "no images": lost("test.npy"),
    "images at the end of no link": dangling("test.npy"),
    "images that are a folder": to_folder("test.npy"),
    "empty images": to_nothing("test.npy"),
    "half the images": to_half("test.npy"),
    "other images": array(lambda x: x + 1),
    "images of floats": array(lambda x: x.astype(np.float32)),
    "images of signs": array(lambda x: x.astype(np.int8)),
    "images of another shape": array(lambda x: x.reshape(-1, 3, 4, 16)),
    "images of another order": array(np.asfortranarray),
    "an image more": array(lambda x: np.concatenate([x, x[:1]])),
    "objects": array(lambda x: np.full((4, 3, 8, 8), None)),
    "no labels": lost("train-labels.npz"),
    "labels at the end of no link": dangling("train-labels.npz"),
    "labels that are a folder": to_folder("train-labels.npz"),
    "empty labels": to_nothing("train-labels.npz"),
    "half the labels": to_half("train-labels.npz"),
    "other labels": labels(y=lambda y: 1 - y),
    "labels of floats": labels(y=lambda y: y.astype(float)),
    "labels of fewer bits": labels(y=lambda y: y.astype(np.int32)),
    "labels of another shape": labels(y=lambda y: y[:, None]),
    "objects for labels": labels(y=lambda y: np.array([None] * 4)),
    "labels too many": labels(y=lambda y: np.append(y, 0)),
    "other attributes": labels(a=lambda a: 1 - a),
    "no attributes": labels(a=None),
    "other names": labels(ids=lambda ids: ids[::-1]),
    "an array too many": labels(z=lambda z: np.zeros(4)),
    "labels that fill the memory": bomb,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_damaged_is_one_line_and_not_used(what: str, mine: Path) -> None:
    prepared(mine)
    DAMAGE[what](here())
    with pytest.raises(BadData, match="delete") as error:
        own().data(0)
    assert str(here()) in str(error.value) and len(str(error.value)) < 600
    ((_, ok, found),) = dataset_files.verify("own_pictures")
    assert not ok and "delete" in found and str(here()) in found and found.isprintable()
    (listed,) = [row["source"] for row in dataset_files.list_files() if row["dataset"] == "own_pictures"]
    assert listed.isprintable()


def test_the_command_names_what_is_damaged(mine: Path, command: Any) -> None:
    prepared(mine)
    to_nothing("train-labels.npz")(here())
    said = command("data", "verify", "own_pictures", code=2)
    again = "are damaged: delete it and prepare it again"
    assert said.stdout == f"FAIL  own_pictures: the train labels in {here()} {again}\n"
    assert said.stderr == "spurbench: the files of own_pictures are not in order\n"


def test_damage_hides_not_what_is_whole(mine: Path) -> None:
    for name in ("mine", "more", "whole"):
        dataset_files.prepare("own_pictures", mine, (f"own_pictures.name={name}", SIZE))
    to_nothing("train-labels.npz")(here())
    to_nothing("train.npy")(root() / "own_pictures" / "more-original-8")
    ((_, ok, found),) = dataset_files.verify("own_pictures")
    assert not ok and "the train labels in" in found and "train.npy has 0 bytes" in found
    (listed,) = [row["source"] for row in dataset_files.list_files() if row["dataset"] == "own_pictures"]
    assert "train.npy has 0 bytes" in listed and "whole-original-8: 12 images" in listed


def test_a_file_that_cannot_be_read(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(mine)

    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadData, match=r"cannot be used \(Permission denied\)"):
        own().prepared()


def test_what_lies_in_the_folders_place(mine: Path) -> None:
    here().parent.mkdir(parents=True)
    for make in (here().touch, lambda: here().symlink_to("nowhere")):
        make()
        for call in (lambda: prepared(mine), own().prepared):
            with pytest.raises(BadData, match="should be a folder of prepared data: delete it"):
                call()
        here().unlink()
    here().mkdir()
    with pytest.raises(BadData, match="there is no such file.: delete"):
        prepared(mine)


def test_a_folder_under_another_name(mine: Path) -> None:
    """As it is called by another, and as a file system that does not tell A from a finds it."""
    prepared(mine)
    for name in ("yours", "MINE"):
        here().rename(here().with_name(f"{name}-original-8"))
        with pytest.raises(BadData, match="holds what was prepared as own_pictures mine-original-8"):
            own(name=name).prepared()
        here().with_name(f"{name}-original-8").rename(here())
    assert own().prepared()


@pytest.mark.parametrize("key", ["origin", "crop", "options"])
def test_facts_that_are_not_those_asked_for(key: str, mine: Path) -> None:
    prepared(mine)
    other = {"origin": "else", "crop": asdict(Crop(8)), "options": {"name": "mine", "attribute": "b"}}
    facts_with(key, value=other[key])(here())
    for call in (own().prepared, lambda: prepared(mine)):
        with pytest.raises(BadData, match=f"was prepared with {key} .*, not .*: delete it and prepare it again"):
            call()


def test_what_a_newer_version_prepared(mine: Path) -> None:
    prepared(mine)
    facts_of(b'{"schema": 3, "splits": "of another kind"}')(here())
    with pytest.raises(UserError, match="was prepared by a newer spurbench"):
        own().prepared()


def test_facts_have_bounds(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(mine)
    monkeypatch.setattr(facts, "MOST_BYTES", 100)
    with pytest.raises(BadData, match="it has more than 100 bytes"):
        own().prepared()


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SPURBENCH_DATA")
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(UserError, match="set SPURBENCH_DATA to a folder"):
        root()


def test_a_plug_in_that_fails_hides_no_other(tmp_path: Path, command: Any) -> None:
    (tmp_path / "brittle.py").write_text(
        '"""Fails.\n\nSource: none.\nLicence: none.\n"""\nfrom dataclasses import dataclass\n'
        "from spurbench.bench.plugins.dataset import Dataset\n\n\n@dataclass(frozen=True)\nclass Brittle(Dataset):\n"
        "    def load(self, seed, build):\n        raise EOFError\n\n"
        "    def files(self):\n        raise EOFError\n\n    verify = load\n"
    )
    try:
        listed = command("data", "list", "--plugin", tmp_path / "brittle.py", "--json").stdout
        out = command("data", "verify", "--plugin", tmp_path / "brittle.py", code=2).stdout
    finally:
        registry.forget_plugins()
    assert "cannot be used: EOFError" in listed and "two_moon" in listed
    assert "FAIL  brittle: TypeError" in out and "ok    two_moon" in out


# ---- half made ------------------------------------------------------------------------------------------------------


def half(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preparation that ended after its first part."""
    decode = decode_parts.decode_part

    def end(part: decode_parts.Part) -> None:
        if "train" not in part.mark:
            raise KeyboardInterrupt
        decode(part)

    with monkeypatch.context() as patch:
        patch.setattr(decode_parts, "decode_part", end)
        with pytest.raises(KeyboardInterrupt):
            prepared(mine)
    return here().with_name(".mine-original-8.preparing")


def checksum_of(folder: Path) -> str:
    """That of images prepared in one go."""
    dataset_files.prepare("own_pictures", folder, ("own_pictures.name=unbroken", SIZE))
    return str(own(name="unbroken").checksum())


def test_half_made_folders_are_told_and_gone_on_with(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = half(mine, monkeypatch)
    (told,) = [row["source"] for row in dataset_files.list_files() if row["dataset"] == "own_pictures"]
    assert told == f"{work} is unfinished: the same command continues it"
    seen = []
    monkeypatch.setattr(
        decode_parts, "decode_part", lambda part, decode=decode_parts.decode_part: seen.append(part) or decode(part)
    )
    assert prepared(mine).startswith("prepared") and not work.exists()
    assert [Path(part.target).stem for part in seen] == ["validation", "test"]
    assert own().checksum() == checksum_of(mine)
    assert {file.name for file in here().iterdir()} == {FACTS} | {
        name for split in ("train", "validation", "test") for name in (f"{split}.npy", f"{split}-labels.npz")
    }


def gone(work: Path, mine: Path) -> None:
    (work / "train.npy").unlink()


def cut(work: Path, mine: Path) -> None:
    os.truncate(work / "train.npy", 200)


def empty_mark(work: Path, mine: Path) -> None:
    os.truncate(work / "train-000000000.json", 0)


def foreign_mark(work: Path, mine: Path) -> None:
    (work / "train-000000000.json").write_text('{"sha256": 3, "bad": null}')


def foreign_plan(work: Path, mine: Path) -> None:
    (work / "plan.json").write_text("[")


def foreign_facts(work: Path, mine: Path) -> None:
    (work / FACTS).write_text("[")


def stray_things(work: Path, mine: Path) -> None:
    (work / "stray").mkdir()
    (work / "stray" / "file").touch()
    (work / ".plan.json.host.1").touch()


def changed_picture(work: Path, mine: Path) -> None:
    rewrite(mine / "img" / "0.png", (mine / "img" / "11.png").read_bytes())


def changed_label(work: Path, mine: Path) -> None:
    tabled(mine, [("img/0.png", 1, 1, 1, 0), *ROWS[1:]])


@pytest.mark.parametrize(
    "meanwhile",
    [gone, cut, empty_mark, foreign_mark, foreign_plan, foreign_facts, stray_things, changed_picture, changed_label],
)
def test_what_happens_to_half_made_folders(
    meanwhile: Callable[[Path, Path], None], mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = half(mine, monkeypatch)
    meanwhile(work, mine)
    assert prepared(mine).startswith("prepared") and not work.exists()
    assert own().checksum() == checksum_of(mine)
    assert list(own().prepared().damage()) == []


def test_killed_before_the_folder_has_its_name(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", end)
        with pytest.raises(KeyboardInterrupt):
            prepared(mine)
    monkeypatch.setattr(decode_parts, "decode_part", end)
    assert prepared(mine).startswith("prepared") and list(own().prepared().damage()) == []


def test_what_was_allowed_before_is_not_now(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures may be left out, the command is killed before the folder has its name, and is not repeated so."""
    whole = (mine / "img" / "0.png").read_bytes()
    (mine / "img" / "0.png").write_bytes(whole[:20])

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", end)
        with pytest.raises(KeyboardInterrupt):
            dataset_files.prepare("own_pictures", mine, (NAME, SIZE), allow_bad=True)
    with pytest.raises(BadData, match="1 image cannot be read: img/0.png"):
        prepared(mine)
    rewrite(mine / "img" / "0.png", whole)
    assert prepared(mine).startswith("prepared mine-original-8: 12 images")


def test_too_many_left_out(mine: Path) -> None:
    for i in (0, 2):  # of training, the class y = 0
        (mine / "img" / f"{i}.png").write_bytes(b"")
    with pytest.raises(BadData, match="without the images that cannot be read, train lacks a class or is empty"):
        dataset_files.prepare("own_pictures", mine, (NAME, SIZE), allow_bad=True)


def old(folder: Path, days: float) -> Path:
    """The folder as if nobody had written there for so many days."""
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "train.npy").write_bytes(b"half")
    (folder / "lock").touch()
    at = (folder / "lock").stat().st_mtime - days * 86400
    for entry in (*folder.rglob("*"), folder):
        os.utime(entry, (at, at))
    return folder


def test_what_killed_commands_left_goes_away(mine: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = [data_folder / name for name in ("celeba/.twin-224.preparing", "downloads/.celeba.downloading")]
    for folder in left:
        old(folder, days=15)
    young = old(data_folder / "celeba" / ".twin-32.preparing", days=13)
    held = old(data_folder / "celeba" / ".twin-16.preparing", days=15)
    other = old(data_folder / "celeba" / ".notes", days=15)
    with workplace.locked(held):
        for entry in (held, held / "lock"):
            os.utime(entry, (0, 0))
        prepared(mine)
    assert [folder.exists() for folder in (*left, young, held, other)] == [False, False, True, True, True]
    assert f"deleted {left[0]}, which was not continued for 2 weeks" in capsys.readouterr().err


def test_a_lock_of_a_folder_that_has_got_its_name(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of a lock and its taking the folder may be finished; its lock holds nothing any more."""
    work = data_folder / "x" / ".y.preparing"
    monkeypatch.setattr(workplace.fcntl, "flock", lambda file, how: (work / "lock").unlink())
    with pytest.raises(UserError, match="another command is preparing"), workplace.locked(work):
        raise AssertionError
    (work / "lock").touch()
    monkeypatch.setattr(workplace.fcntl, "flock", lambda file, how: (work / "lock").rename(work / "other"))
    with pytest.raises(UserError, match="another command is preparing"), workplace.locked(work):
        raise AssertionError
