"""Tables and folders of images: read as they are meant, or refused in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from spurbench.bench.api import dataset_files
from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import data_folder as root
from spurbench.bench.images import tables
from spurbench.bench.prepared.folder import Prepared

HEADER = "img_filename,y,a,split"
LABELS = [(i % 2, i // 2 % 2, i // 4) for i in range(12)]  # y, a, split: four images each
ROWS = [f"img/{i}.png,{y},{a},{s}" for i, (y, a, s) in enumerate(LABELS)]
SETS = ("own_pictures.name=mine", "own_pictures.size=8")


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPURBENCH_DATA", str(tmp_path / "data"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of twelve different images; its table is `ROWS`."""
    (tmp_path / "mine" / "img").mkdir(parents=True)
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / "mine" / "img" / f"{i}.png")
    return write(tmp_path / "mine", HEADER, *ROWS)


def write(folder: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> Path:
    (folder / "metadata.csv").write_bytes((end.join(lines) + end).encode(encoding))
    return folder


def prepared(folder: Path) -> str:
    """What was said of a folder that is taken."""
    said = dataset_files.prepare("own_pictures", folder, SETS)
    assert said.startswith("prepared mine-original-8: ")
    return said


def refused(folder: Path) -> str:
    """The complaint about a folder, of which nothing may be left that could be used."""
    with pytest.raises(BadData) as error:
        dataset_files.prepare("own_pictures", folder, SETS)
    assert not (root() / "own_pictures" / "mine-original-8").exists() and "\n" not in str(error.value)
    return str(error.value)


def read() -> dict[str, tuple[int, int, int, int]]:
    """Of each prepared image its label, attribute, split, and the colour by which it was drawn."""
    here = Prepared.open(root() / "own_pictures" / "mine-original-8")
    found = {}
    for number, split in enumerate(("train", "validation", "test")):
        labels, pixels = here.labels(split).stored(), here.array(split, "x")
        for i, name in enumerate(labels["ids"].tolist()):
            found[os.path.basename(name)] = (*(int(labels[k][i]) for k in "ya"), number, int(pixels[i, 0, 0, 0]))
    return found


TRUTH = {f"{i}.png": (*label, 20 * i) for i, label in enumerate(LABELS)}


# ---- read as they are meant -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        [HEADER, *ROWS],
        ["," + HEADER, *(f"{i},{row}" for i, row in enumerate(ROWS))],  # the index that pandas writes
        [", ".join(HEADER.split(",")), *(", ".join(row.split(",")) for row in ROWS)],
        ['"' + HEADER.replace(",", '","') + '"', *('"' + row.replace(",", '","') + '"' for row in ROWS)],
        ["score," + HEADER, *(f'"0,{i % 2}",{row}' for i, row in enumerate(ROWS))],  # a decimal comma in quotes
        ["note," + HEADER, *(f'"two\n""lines""",{row}' for row in ROWS)],
        [HEADER + ",,", *(row + ",," for row in ROWS), ",,,,,", ""],  # columns and rows that a spreadsheet adds
        ["split,a,y,img_filename", *(",".join(reversed(row.split(","))) for row in ROWS)],
        ["Note,note," + HEADER, *(f"1,2,{row}" for row in ROWS)],  # two of one name that nobody asks for
    ],
)
def test_tables_that_are_plain(lines: list[str], mine: Path) -> None:
    assert "12 images of 8 × 8, metadata.csv (" in prepared(write(mine, *lines))
    assert read() == TRUTH


@pytest.mark.parametrize(("encoding", "end"), [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8", "\r")])
def test_marks_and_line_ends_of_other_systems(encoding: str, end: str, mine: Path) -> None:
    prepared(write(mine, HEADER, *ROWS, encoding=encoding, end=end))
    assert read() == TRUTH


def test_names_with_characters_that_end_lines_elsewhere(mine: Path) -> None:
    marks = (",", "\u2028", "\xa0", "é", "{x}", "[bold]", "..", "~", "-", "%s", "'", "#")
    for i, mark in enumerate(marks):
        (mine / "img" / f"{i}.png").rename(mine / "img" / f"{mark}{i}.png")
    rows = [
        f'"img/{mark}{i}.png"{row[row.index(",") :]}' for i, (mark, row) in enumerate(zip(marks, ROWS, strict=True))
    ]
    prepared(write(mine, HEADER, *rows))
    assert read() == {f"{mark}{i}.png": TRUTH[f"{i}.png"] for i, mark in enumerate(marks)}


# ---- refused --------------------------------------------------------------------------------------------------------


def changed(row: int, old: str, new: str) -> list[str]:
    return [HEADER, *ROWS[:row], ROWS[row].replace(old, new), *ROWS[row + 1 :]]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        # a decimal comma, alone or in every row, would shift y, a and split
        (["score," + HEADER, *(f"0,{i % 2},{row}" for i, row in enumerate(ROWS))], "2: 6 columns, expected 5 (a dec"),
        (["score," + HEADER, *(f"0,{row}" for row in ROWS[:-1]), f"0,5,{ROWS[-1]}"], "csv:13: 6 columns, expected 5"),
        (["s," + HEADER + ",", *(f"0,{i % 2},{row}" for i, row in enumerate(ROWS))], "csv:2: 6 columns, expected 5"),
        ([HEADER, *(f"{row}," for row in ROWS)], "csv:2: 5 columns, expected 4"),
        ([HEADER, *(f"{i},{row}" for i, row in enumerate(ROWS))], "csv:2: 5 columns, expected 4"),
        ([HEADER, *ROWS[:5], "img/5.png,1", *ROWS[6:]], "csv:7: 2 columns, expected 4 (truncated?)"),
        # columns of one name
        ([HEADER + ",y", *(f"{row},0" for row in ROWS)], "2 columns are called y and y; which one?"),
        ([HEADER + ", y ", *(f"{row},0" for row in ROWS)], "2 columns are called y and y; which one?"),
        (["Split," + HEADER, *(f"0,{row}" for row in ROWS)], "2 columns are called Split and split; which one?"),
        # other marks between columns, lines before the header, none at all
        ([line.replace(",", ";") for line in (HEADER, *ROWS)], "'img_filename;y;a;split' (separated by semicolons?)"),
        ([line.replace(",", "\t") for line in (HEADER, *ROWS)], "(separated by tabs?)"),
        (["sep=,", HEADER, *ROWS], "its first line is 'sep=,'; expected column names"),
        (["# by hand", HEADER, *ROWS], "its first line is '# by hand'; expected column names"),
        (ROWS, "its first line is 'img/0.png,0,0,0'; expected column names separated by commas, img_f"),
        ([""], "its first line is ''"),
        ([HEADER], "no images in the train split"),
        # values that are none
        (changed(3, ",1,", ",1.0,"), "column 'y' of image 4 holds '1.0', expected a whole number, 0 or more"),
        (changed(3, ",1,", ",１,"), "column 'y' of image 4 holds '１'"),
        (changed(3, ",1,", ",,"), "column 'y' of image 4 holds ''"),
        (changed(3, ",1,", ",nan,"), "column 'y' of image 4 holds 'nan'"),
        (changed(3, ",1,", ",True,"), "column 'y' of image 4 holds 'True'"),
        (changed(3, ",1,", ",-1,"), "column 'y' of image 4 holds '-1'"),
        (changed(3, ",1,", f",{'9' * 5000},"), "holds '9999999999999999999999999999999999999999', expected"),
        (changed(11, ",2", ",3"), "column 'split' of image 12 holds '3', expected one of 0, 1, 2"),
        ([HEADER, *(f"img/{i}.png,{y + 1},{a},{s}" for i, (y, a, s) in enumerate(LABELS))], "column 'y' has no 0"),
        ([HEADER, *(f"img/{i}.png,{y},{a + 1},{s}" for i, (y, a, s) in enumerate(LABELS))], "column 'a' has no 0"),
        # quotation marks
        (changed(3, "img/3.png", '"img/3.png'), "an unclosed quotation mark?"),
        (changed(3, "img/3.png", '"img/"3.png'), "an unclosed quotation mark?"),
        (changed(3, "img/3.png", f'"{"x" * 200_000}"'), "field larger than field limit"),
        # paths
        (changed(3, "img/3.png", "img/x.png"), "1 of 12 images are missing, the first is 'img/x.png' (a partly"),
        (changed(3, "img/3.png", "img\\3.png"), "missing, the first is 'img\\\\3.png' (write '/' for '\\')"),
        (changed(3, "img/3.png", ""), "missing, the first is ''"),
        (changed(3, "img/3.png", "IMG/3.png"), "missing, the first is 'IMG/3.png'"),
        (changed(3, "img/3.png", "../mine/img/3.png"), "'../mine/img/3.png' is not the path of an image below it"),
        (changed(3, "img/3.png", "img/../../mine/img/3.png"), "is not the path of an image below it"),
        (changed(3, "img/3.png", "/etc/passwd"), "'/etc/passwd' is not the path of an image below it"),
        (changed(3, "img/3.png", "img/3\x00.png"), "'img/3\\x00.png' is not the path of an image below it"),
        (changed(3, "img/3.png", "img/3\x1b[2J.png"), "'img/3\\x1b[2J.png' is not the path of an image below it"),
        (changed(3, "img/3.png", "img"), "1 image cannot be read: img (Is a directory)"),
        # one image, two rows
        ([HEADER, *ROWS, "img/0.png,1,0,2"], "1 of the images are listed more than once, the first is 'img/0.png'"),
        ([HEADER, *ROWS, "./img/0.png,1,0,2"], "the first is 'img/0.png', also as './img/0.png'"),
        ([HEADER, *ROWS, "img//0.png,1,0,2"], "the first is 'img/0.png', also as 'img//0.png'"),
        ([HEADER, *ROWS, "img/../img/0.png,1,0,2"], "the first is 'img/0.png', also as 'img/../img/0.png'"),
    ],
)  # fmt: skip
def test_tables_that_are_not(lines: list[str], said: str, mine: Path) -> None:
    assert said in refused(write(mine, *lines))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings(encoding: str, mine: Path) -> None:
    assert "is not UTF-8 text (byte" in refused(write(mine, HEADER + ",é", encoding=encoding))


def a_folder(file: Path) -> None:
    file.mkdir()


def a_dangling_link(file: Path) -> None:
    file.symlink_to("nowhere")


@pytest.mark.parametrize("make", [a_folder, a_dangling_link, os.mkfifo])
def test_a_table_that_is_no_file(make: Callable[[Path], None], mine: Path) -> None:
    (mine / "metadata.csv").unlink()
    make(mine / "metadata.csv")
    assert "metadata.csv is not a file that can be read" in refused(mine)


def test_a_table_without_bounds(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_BYTES", 100)
    assert "bytes; a list of images has at most 100" in refused(mine)


# ---- one image under several names --------------------------------------------------------------------------------


def test_a_folder_under_two_names(mine: Path) -> None:
    (mine / "again").symlink_to("img")
    write(mine, HEADER, *ROWS, "again/0.png,0,0,2")
    assert "the first is 'img/0.png', also as 'again/0.png'" in refused(mine)


@pytest.mark.parametrize("copy", [os.symlink, os.link, lambda old, new: Path(new).write_bytes(Path(old).read_bytes())])
def test_copies_are_told(copy: Callable[[str, str], None], mine: Path) -> None:
    """Published data hold copies, and their tools link equal files: they are counted, not refused."""
    for i in (0, 1):
        copy(str(mine / "img" / f"{i}.png"), str(mine / "img" / f"copy{i}.png"))
    write(mine, HEADER, *ROWS, "img/copy0.png,0,0,2", "img/copy1.png,0,0,2")
    told = "14 images of 8 × 8, metadata.csv, 2 of test also in train, 2 with another label too"
    assert told in prepared(mine)
    assert told in next(row["source"] for row in dataset_files.list_files() if row["dataset"] == "own_pictures")


def test_pictures_beside_a_table_are_told(mine: Path) -> None:
    said = prepared(write(mine, HEADER, *ROWS[:7], *ROWS[8:]))
    assert "11 images of 8 × 8, metadata.csv, 1 file of the folder not used: 'img/7.png'" in said


# ---- folders of classes ---------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes in three splits, an image each."""
    for i, place in enumerate(f"{split}/{name}" for split in ("train", "val", "test") for name in ("cat", "dog")):
        (tmp_path / "tree" / place).mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / "tree" / place / "1.JPG", "jpeg")
    return tmp_path / "tree"


def test_files_that_are_not_used_are_told(tree: Path) -> None:
    assert "6 images of 8 × 8, image folder (" in prepared(tree)
    unused = ("train/cat/2.gif", "train/cat/3.heic", "train/cat/more/4.jpg", "train/5.jpg", "train/dog/._1.jpg")
    for name in (*unused, "extra/6.jpg", "train/dog/.DS_Store"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"x")
    said = dataset_files.prepare("own_pictures", tree, ("own_pictures.name=more", "own_pictures.size=8"))
    assert "6 images of 8 × 8, image folder, 6 files of the folder not used: 'extra/6.jpg', 'train/5.jpg', " in said


def test_folders_that_could_mean_two_things(tree: Path) -> None:
    (tree / "valid").mkdir()
    assert "val and valid are names of the same split" in refused(tree)
    (tree / "valid").rmdir()
    (tree / "test" / "eel").mkdir()
    assert "no class 'eel'" in refused(tree)
    (tree / "test" / "eel").rmdir()
    (tree / "test" / "dog").rename(tree / "test" / "Dog")
    assert "no class 'Dog'; did you mean dog?" in refused(tree)
    (tree / "test" / "Dog").rename(tree / "test" / "dog")
    for name in ("train", "test"):
        (tree / name / "\x1b[2J").mkdir()
    assert "'\\x1b[2J' cannot name a class" in refused(tree)


def test_an_attribute_that_a_folder_does_not_have(tree: Path) -> None:
    with pytest.raises(UserError, match="has no metadata.csv, whose column 'place' would be the attribute"):
        dataset_files.prepare("own_pictures", tree, (*SETS, "own_pictures.attribute=place"))


def test_empty_files_and_names_that_are_no_text(tree: Path) -> None:
    odd = os.path.join(os.fsencode(tree / "train" / "cat"), b"\xe9.jpg")
    Path(os.fsdecode(odd)).write_bytes((tree / "train" / "cat" / "1.JPG").read_bytes())
    (tree / "train" / "cat" / "0.jpg").write_bytes(b"")
    assert "1 image cannot be read: train/cat/0.jpg (is not an image, or of an unknown format)" in refused(tree)
    (tree / "train" / "cat" / "0.jpg").unlink()
    assert "7 images" in prepared(tree)
    os.truncate(odd, 0)
    sets = ("own_pictures.name=odd", "own_pictures.size=8")
    assert "1 unreadable image left out" in dataset_files.prepare("own_pictures", tree, sets, allow_bad=True)
