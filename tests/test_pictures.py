"""Prepared images: every layout gives the true pixels, nothing wrong or half-made is used."""

from __future__ import annotations

import csv
import gzip
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from spurbench.bench.api import dataset_files
from spurbench.bench.core.errors import BadData, UserError
from spurbench.bench.core.files import data_folder as root
from spurbench.bench.grid.ad_hoc import adhoc_grid
from spurbench.bench.grid.expand import expand
from spurbench.bench.images import preparing
from spurbench.bench.images.decode import Crop, crop_image, decode
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data
from spurbench.bench.prepared.facts import FACTS
from spurbench.bench.prepared.folder import Prepared
from spurbench.bench.prepared.workplace import locked
from spurbench.bench.training.replica import prepare
from spurbench.datasets.cifar10 import CLASSES
from spurbench.datasets.data import twins

CelebA, Waterbirds, CIFAR10, CIFAR2, CIFAR100, Dominoes, OwnPictures = (
    registry.load_dataset(name)
    for name in ("celeba", "waterbirds", "cifar10", "cifar2", "cifar100", "dominoes", "own_pictures")
)
FACES = 300
GROUPS = twins.shares(twins.CELEBA, FACES)
TWIN = ("celeba.origin=twin", "celeba.size=16")


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of prepared data for each test, as if this machine had one core: no processes are started."""
    monkeypatch.setenv("SPURBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(preparing, "cores", lambda: 1)
    return tmp_path / "data"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small twin of everything."""
    folder = tmp_path_factory.mktemp("twins")
    twins.celeba(folder, n=FACES, width=24, seed=0)
    twins.waterbirds(folder, n=300, width=24, seed=0)
    twins.cifar(folder, n=240, seed=0, classes=10)
    twins.cifar(folder, n=240, seed=0, classes=100)
    twins.mnist(folder, n=400, seed=0)
    return folder


@pytest.fixture
def faces(made: Path, tmp_path: Path) -> Path:
    """CelebA's twin, to be damaged."""
    return Path(shutil.copytree(made / "celeba", tmp_path / "celeba"))


def data_of(dataset: Any, seed: int = 0) -> Data:
    data, _ = dataset.load(seed, lambda x: nn.Identity())
    return data  # type: ignore[no-any-return]


def refused(name: str, folder: Path | None, *sets: str, allow_bad: bool = False) -> str:
    """The complaint about files, after which nothing may be prepared."""
    before = set(root().glob(f"*/*/{FACTS}"))
    with pytest.raises(UserError) as error:
        dataset_files.prepare(name, folder, sets, allow_bad)
    assert set(root().glob(f"*/*/{FACTS}")) == before
    return str(error.value)


# ---- layouts --------------------------------------------------------------------------------------------------------


def test_pickled_batches(made: Path) -> None:
    assert "--set cifar10.origin=twin" in dataset_files.prepare("cifar10", made, ["cifar10.origin=twin"])
    data = data_of(CIFAR10(origin="twin"))
    first = pickle.loads((made / "cifar-10-batches-py" / "data_batch_1").read_bytes())
    assert data.train.x.dtype == torch.uint8 and data.train.x.shape == (200, 3, 32, 32) and data.classes == 10
    assert np.array_equal(data.train.x[:40].flatten(1).numpy(), first["data"])
    assert data.train.y[:40].tolist() == first["labels"] and set(data.tests) == {"test"}
    dataset_files.prepare("cifar100", made, ["cifar100.origin=twin"])
    assert len(data_of(CIFAR100(origin="twin")).groups) == 100


def test_batches_of_python_2(made: Path, tmp_path: Path) -> None:
    """The published files were pickled by Python 2: byte strings, and numpy under its old name."""
    old = shutil.copytree(made / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py")
    for file in old.iterdir():
        entry = pickle.loads(file.read_bytes())
        file.write_bytes(as_python_2(entry["data"], entry["labels"]))
    dataset_files.prepare("cifar10", tmp_path, ["cifar10.origin=old"])
    dataset_files.prepare("cifar10", made, ["cifar10.origin=twin"])
    assert CIFAR10(origin="old").checksum() == CIFAR10(origin="twin").checksum()


def as_python_2(data: np.ndarray[Any, Any], labels: list[int]) -> bytes:
    """{"data": data, "labels": labels} as Python 2 and numpy 1 pickled it."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    state = (
        b"(" + number(1) + number(len(data)) + number(3072) + b"\x86" + dtype + b"\x89" + text(data.tobytes()) + b"tb"
    )
    return (
        b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + b"](" + b"".join(map(number, labels)) + b"eu."
    )


def jpeg_folder(folder: Path, classes: Any, each: int = 3) -> Path:
    for i, name in enumerate(classes):
        for split in ("train", "test"):
            (folder / split / name).mkdir(parents=True)
            for k in range(each):
                pixels = np.random.default_rng([i, k]).integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{k:04}.jpg")
    return folder


def test_image_folder(tmp_path: Path) -> None:
    folder = jpeg_folder(tmp_path / "cifar", CLASSES)
    assert "expected 50,000" in refused("cifar10", folder)  # three images a class are no CIFAR-10
    dataset_files.prepare("cifar10", folder, ["cifar10.origin=mine"])
    data = data_of(CIFAR10(origin="mine"))
    assert data.train.y.tolist() == [y for y in range(10) for _ in range(3)]
    expected = np.asarray(Image.open(folder / "train" / "bird" / "0001.jpg")).transpose(2, 0, 1)
    assert np.array_equal(data.train.x[7].numpy(), expected)
    (folder / "train" / "bird").rename(folder / "train" / "brid")
    assert "no class 'brid'; did you mean bird?" in refused("cifar10", folder, "cifar10.origin=other")


def test_the_layout_tells_the_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "published", {"train": (3,) * 10, "test": (3,) * 10})
    assert "--set cifar10.origin=jpeg" in dataset_files.prepare("cifar10", jpeg_folder(tmp_path / "cifar", CLASSES))
    with pytest.raises(BadData, match="there is: jpeg"):
        data_of(CIFAR10())
    data_of(CIFAR10(origin="jpeg"))


def test_celeba_in_all_its_layouts(made: Path, faces: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    for room, name in (
        ("Anno", "list_attr_celeba.txt"),
        ("Eval", "list_eval_partition.txt"),
        ("Img", "img_align_celeba"),
    ):
        (original / room).mkdir(parents=True)
        (original / room / name).symlink_to(faces / name)
    kaggle = tmp_path / "kaggle"
    (kaggle / "img_align_celeba").mkdir(parents=True)
    (kaggle / "img_align_celeba" / "img_align_celeba").symlink_to(faces / "img_align_celeba")
    for name in ("list_attr_celeba.csv", "list_eval_partition.csv"):
        shutil.copy(made / "celebA_v1.0" / name, kaggle)
    places = {"torchvision": made / "celeba", "wilds": made / "celebA_v1.0", "authors": original, "kaggle": kaggle}
    for name, folder in places.items():
        dataset_files.prepare("celeba", folder, [f"celeba.origin={name}", "celeba.size=16"])
    assert len({CelebA(origin=name, size=16).checksum() for name in places}) == 1


def test_celeba_groups_and_splits(made: Path) -> None:
    dataset_files.prepare("celeba", made, TWIN)
    data = data_of(CelebA(origin="twin", size=16))
    assert (data.classes, data.attributes, set(data.tests)) == (2, 2, {"validation", "test"})
    for split, counts in zip((data.train, *data.tests.values()), GROUPS, strict=True):
        assert split.group(2).bincount(minlength=4).tolist() == counts and split.x.shape[1:] == (3, 16, 16)


def test_pixels_are_those_of_the_usual_transforms(made: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    file = next((made / "waterbirds_v1.0").glob("*/*.jpg"))
    picture = Image.open(file).convert("RGB")
    faces = transforms.Compose([transforms.CenterCrop(min(picture.size)), transforms.Resize((20, 20))])
    birds = transforms.Compose([transforms.Resize((32, 32)), transforms.CenterCrop((28, 28))])
    for crop, usual in ((Crop(20, square=True), faces), (Crop(28, margin=256 / 224), birds)):
        assert np.array_equal(decode(file, crop), np.asarray(usual(picture)).transpose(2, 0, 1))


def test_the_published_counts() -> None:
    train, test = (np.array(CelebA.published[name]) for name in ("train", "test"))
    assert [sum(CelebA.published[name]) for name in ("train", "validation", "test")] == [162_770, 19_867, 19_962]
    assert np.allclose(train.sum() / train, [2.272404, 2.433980, 7.114073, 117.354001], atol=1e-6)
    assert train.sum() / 4 == 40_692.5
    shares = np.array([0.96, 0.99, 0.83, 0.40])
    assert np.isclose((test * shares).sum() / test.sum(), 0.9501237, atol=1e-7)
    assert [sum(counts) for counts in Waterbirds.published.values()] == [4795, 1199, 5794]


@pytest.mark.parametrize("name", ["celebA", "waterbirds"])
def test_the_wilds_package_reads_the_twins(name: str, made: Path) -> None:
    wilds = pytest.importorskip("wilds")
    theirs = wilds.get_dataset(name, root_dir=str(made), download=False)
    ours = registry.load_dataset(name.lower())(origin="twin", size=16)  # type: ignore[call-arg]
    dataset_files.prepare(name.lower(), made, [f"{name.lower()}.origin=twin", f"{name.lower()}.size=16"])
    data = data_of(ours)
    for key, own in {"train": data.train, "val": data.tests["validation"], "test": data.tests["test"]}.items():
        subset = theirs.get_subset(key)
        assert subset.y_array.tolist() == own.y.tolist()
        assert subset.metadata_array[:, 0].tolist() == own.attribute.tolist()  # male, background
        assert np.array_equal(crop_image(subset[2][0], ours.crop), own.x[2].numpy())


def test_pictures_of_ones_own(made: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(made / "waterbirds_v1.0", tmp_path / "mine"))
    edit_csv(mine / "metadata.csv", 0, 4, "a")
    sets = ("own_pictures.name=birds", "own_pictures.size=16")
    assert refused("own_pictures", mine).startswith("which pictures?")
    dataset_files.prepare("own_pictures", mine, sets)
    data = data_of(OwnPictures(name="birds", size=16))
    assert data.train.group(2).bincount().tolist() == twins.shares(twins.WATERBIRDS, 300)[0]
    tree = jpeg_folder(tmp_path / "tree", ("cat", "dog", "eel"))
    dataset_files.prepare("own_pictures", tree, ["own_pictures.name=tree", "own_pictures.size=16"])
    data = data_of(OwnPictures(name="tree", size=16))
    assert data.groups == ["y0", "y1", "y2"] and data.train.attribute is None
    with pytest.raises(BadData, match=r"prepare own_pictures --from FOLDER --set own_pictures.name=x --set .*size=8;"):
        data_of(OwnPictures(name="x", size=8))


TABLE = "img_filename,y,a,split\n"
ROWS = [f"{i}.png,{i % 2},0,{i // 2 * 2}\n" for i in range(4)]  # two for training, two for test


def own_table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    """A folder of four images and this table."""
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(folder / f"{i}.png")
    (folder / "metadata.csv").write_text(text, encoding=encoding)
    return folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TABLE, "no images in the train split"),
        (TABLE + "".join(ROWS[2:]), "no images in the train split"),
        (TABLE + "".join(ROWS[:2]), "no images in the test split"),
        (TABLE + "".join(row.replace(",1,", ",0,") for row in ROWS), "all training images are of one class"),
        (TABLE + "".join(row.replace(",1,", ",3,") for row in ROWS), "'y' has no 1; its values must count from 0"),
        (TABLE + "".join(ROWS[:2] + ["3.png,2,0,2\n"]), "no training images of the class 'y2'"),
        (
            TABLE + "".join([*ROWS, ROWS[0].replace(",0\n", ",2\n")]),
            "1 of the images are listed more than once, the first is '0.png'",
        ),
        (TABLE + "".join(ROWS).replace(",1,", ",²,"), "holds '²', expected a whole number"),
        (TABLE + "".join(ROWS).replace(",1,", ",99999999999999999999,"), "expected a whole number"),
    ],
)
def test_tables_with_nothing_to_learn(tmp_path: Path, text: str, words: str) -> None:
    folder = own_table(tmp_path / "mine", text)
    assert words in refused("own_pictures", folder, "own_pictures.name=few", "own_pictures.size=8")


def test_a_folder_that_changed_is_noticed(tmp_path: Path) -> None:
    sets = ("own_pictures.name=mine", "own_pictures.size=8")
    folder = own_table(tmp_path / "mine", TABLE + "".join(ROWS))
    assert dataset_files.prepare("own_pictures", folder, sets).startswith("prepared")
    assert dataset_files.prepare("own_pictures", folder, sets).startswith("already prepared")
    assert "is a file: give its folder" in refused("own_pictures", folder / "metadata.csv", *sets)
    (folder / "metadata.csv").write_text(TABLE + "".join(ROWS[:2] + ROWS[3:] + ROWS[2:3]))
    assert "mine has changed since it was prepared: delete" in refused("own_pictures", folder, *sets)
    assert "no folder" in refused("own_pictures", tmp_path / "typo", *sets)
    shutil.rmtree(folder)
    assert dataset_files.prepare("own_pictures", folder, sets).startswith("already prepared")


def test_tables_of_other_encodings(tmp_path: Path) -> None:
    text = TABLE + "".join(ROWS)
    dataset_files.prepare("own_pictures", own_table(tmp_path / "bom", text, "utf-8-sig"), ["own_pictures.name=few"])
    wide = own_table(tmp_path / "wide", text, "utf-16")
    assert "metadata.csv is not UTF-8 text" in refused("own_pictures", wide, "own_pictures.name=wide")


def edit_csv(file: Path, row: int, column: int, value: str | None) -> None:
    """Change one cell; with None the row ends before it."""
    with open(file, newline="") as opened:
        rows = list(csv.reader(opened))
    rows[row][column:] = [] if value is None else [value, *rows[row][column + 1 :]]
    twins.write_csv(file, rows[0], rows[1:])


# ---- made from others -----------------------------------------------------------------------------------------------


def test_cifar2_takes_two_classes(made: Path) -> None:
    dataset_files.prepare("cifar2", made, ["cifar2.origin=twin"])
    ten = data_of(CIFAR10(origin="twin")).train
    for pair, (first, second) in (("airplane/horse", (0, 7)), ("cat/dog", (3, 5))):
        two = data_of(CIFAR2(origin="twin", pair=pair))
        rows = [i for i, y in enumerate(ten.y.tolist()) if y in (first, second)]
        assert torch.equal(two.train.x, ten.x[rows]) and torch.equal(two.train.y, (ten.y[rows] == second).long())
        assert two.classes == 2 and two.groups == ["y0", "y1"]


def test_dominoes(made: Path) -> None:
    dataset_files.prepare("dominoes", made, ["dominoes.origin=twin"])
    dataset_files.prepare("cifar10", made, ["cifar10.origin=twin"])
    data = data_of(Dominoes(origin="twin", photos="twin"))
    photos = data_of(CIFAR10(origin="twin"))
    rows = [i for i, y in enumerate(photos.train.y.tolist()) if y in (1, 9)]
    validation = data.tests["validation"]
    both = [*map(bytes_of, data.train.x), *map(bytes_of, validation.x)]
    assert Counter(both) == Counter(photos.train.x[row].numpy().tobytes() for row in rows)
    assert len(validation.y) == len(rows) // 10
    trucks = {photos.train.x[row].numpy().tobytes(): int(photos.train.y[row] == 9) for row in rows}
    assert [trucks[bytes_of(x)] for x in data.train.x] == data.train.y.tolist() == data.train.attribute.tolist()
    middle = data.train.x[:, 0, 16, 16].float()  # a 1 goes through the middle, a 0 around it
    assert torch.equal((middle > 100).long(), data.train.y)
    mixed, test = data.tests["random_photo"], data.tests["test"]
    assert torch.equal(mixed.attribute, mixed.y) and Counter(map(bytes_of, mixed.x)) == Counter(map(bytes_of, test.x))
    assert torch.equal(data.tests["random_digit"].x[:, :, 32:], test.x[:, :, 32:])
    again, other = (data_of(Dominoes(origin="twin", photos="twin"), seed).train.x for seed in (0, 1))
    assert torch.equal(again, data.train.x) and not torch.equal(other, again)


def bytes_of(x: torch.Tensor) -> bytes:
    return x[:, 32:].numpy().tobytes()


def test_the_digit_agrees_as_often_as_asked(made: Path) -> None:
    dataset_files.prepare("dominoes", made, ["dominoes.origin=twin"])
    dataset_files.prepare("cifar10", made, ["cifar10.origin=twin"])
    never = data_of(Dominoes(origin="twin", photos="twin", agreement=0.0)).train
    assert torch.equal(never.attribute, 1 - never.y)
    mostly = Dominoes(origin="twin", photos="twin", agreement=0.8)
    some = [data_of(mostly, seed).train for seed in range(20)]
    share = torch.cat([train.attribute == train.y for train in some]).double().mean().item()
    assert abs(share - 0.8) < 0.06  # four standard deviations of 720 draws


# ---- identity -------------------------------------------------------------------------------------------------------


def test_origins_share_no_run() -> None:
    ids = set()
    for sets in ([], ["cifar10.origin=jpeg"], ["cifar10.origin=twin"]):
        (cell,) = expand(adhoc_grid("cifar10", ["erm"], "0", sets), {}).cells
        ids |= set(cell.ids)
        assert cell.dataset_options["origin"] == (sets[0].partition("=")[2] if sets else "original")
    assert len(ids) == 3


def test_the_same_weights_whatever_the_pictures(made: Path) -> None:
    dataset_files.prepare("cifar10", made, ["cifar10.origin=twin"])
    first, second = (CIFAR10(origin="twin").load(3, lambda x: nn.Linear(x[0].numel(), 2))[1] for _ in range(2))
    assert torch.equal(first.weight, second.weight)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_half_downloaded_archive(made: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as packed:
        packed.add(made / "cifar-10-batches-py", "cifar-10-batches-py")
    whole = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert "is incomplete" in refused("cifar10", tmp_path, "cifar10.origin=twin")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(whole)
    assert dataset_files.prepare("cifar10", tmp_path, ["cifar10.origin=twin"]).startswith("prepared twin: ")
    part = shutil.copytree(made / "cifar-10-batches-py", tmp_path / "part")
    (part / "data_batch_3").unlink()
    assert "data_batch_3 missing" in refused("cifar10", part, "cifar10.origin=twin")
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip" / "img_align_celeba.zip").write_bytes(b"PK\x03\x04 and no end")
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        shutil.copy(made / "celeba" / name, tmp_path / "zip")
    assert "img_align_celeba.zip is not whole" in refused("celeba", tmp_path / "zip", *TWIN)


def test_a_pickle_that_would_run_something(made: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was here"),)

    bad = shutil.copytree(made / "cifar-10-batches-py", tmp_path / "bad")
    (bad / "data_batch_2").write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    assert "cannot be read as a batch: it refers to posix.mkdir" in refused("cifar10", bad, "cifar10.origin=twin")
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": np.full((40, 3072), 0.5)}, "pixels are float64, labels int64; expected bytes and whole numbers"),
        ({"data": np.full((40, 3072), 300, np.uint16)}, "pixels are uint16"),
        ({"labels": [0.5] * 40}, "labels float64"),
        ({"labels": [3] * 39}, "40 images, 39 labels"),
        ({"labels": [10] * 40}, "expected one label each, from 0 to 9"),
    ],
)
def test_batches_of_other_numbers(change: dict[str, Any], words: str, made: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(made / "cifar-10-batches-py", tmp_path / "bad")
    whole = pickle.loads((bad / "data_batch_2").read_bytes())
    (bad / "data_batch_2").write_bytes(pickle.dumps(whole | change, protocol=2))
    assert words in refused("cifar10", bad, "cifar10.origin=twin")


def test_archives_have_bounds(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spurbench.bench.images.batches.MOST_BYTES", 1000)
    assert "a batch has at most 1,000" in refused("cifar10", made, "cifar10.origin=twin")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as packed:
        packed.add(made / "cifar-10-batches-py", "cifar-10-batches-py")
    assert "is not a file of at most 1,000 bytes" in refused("cifar10", tmp_path, "cifar10.origin=twin")
    monkeypatch.setattr("spurbench.bench.images.idx.MOST_BYTES", 1000)
    assert "holds more than 1,000 bytes" in refused("dominoes", made, "dominoes.origin=twin")


def test_a_list_of_celeba_that_names_a_face_twice(faces: Path) -> None:
    file = faces / "list_attr_celeba.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[2].replace(" 1", "-1")]))
    assert "list_attr_celeba.txt lists 1 of the pictures more than once" in refused("celeba", faces, *TWIN)


def test_digits_that_are_not_whole(made: Path, tmp_path: Path) -> None:
    file = "train-images-idx3-ubyte"
    folder = tmp_path / "raw"
    folder.mkdir()
    for one in made.rglob("*-ubyte*"):
        shutil.copy(one, folder)
    content = first_of(folder, file)
    packed = bytearray(gzip.compress(content))
    packed[200:300] = bytes(100)
    (folder / f"{file}.gz").write_bytes(packed)
    assert "is incomplete" in refused("dominoes", tmp_path, "dominoes.origin=twin")
    (folder / f"{file}.gz").write_bytes(gzip.compress(content[:10]))
    assert "is truncated: no header" in refused("dominoes", tmp_path, "dominoes.origin=twin")
    header = np.array([2051, 400, 14, 56], ">i4").tobytes()
    (folder / f"{file}.gz").write_bytes(gzip.compress(header + content[16:]))
    assert "begins with [2051, 400, 14, 56], expected [2051, 400, 28, 28]" in refused(
        "dominoes", tmp_path, "dominoes.origin=twin"
    )


def first_of(folder: Path, name: str) -> bytes:
    """The content of an idx file, which is taken away."""
    (file,) = folder.glob(f"{name}*")
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    file.unlink()
    return text


@pytest.mark.parametrize("logits", [1, 3, 12])
def test_outputs_that_do_not_fit_the_labels(made: Path, logits: int) -> None:
    dataset_files.prepare("cifar10", made, ["cifar10.origin=twin"])
    training = replace(CIFAR10.training, network="small_conv", logits=logits)
    with pytest.raises(UserError, match=f"training.logits is {logits}; 10 classes need 10"):
        prepare(CIFAR10(origin="twin"), registry.load_method("erm")(), training, 0)


def test_other_files_than_the_published_ones(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "published", {})
    assert "data_batch_1 is not the published file (MD5 " in refused("cifar10", made)


def test_swapped_splits_and_wrong_counts(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("train", "validation", "test")
    monkeypatch.setattr(CelebA, "published", dict(zip(names, map(tuple, GROUPS), strict=True)))
    assert "is not the published file" in refused("celeba", faces)  # the counts are right, the lists not the authors'
    partition = faces / "list_eval_partition.txt"
    rows = [line.split() for line in partition.read_text().splitlines()]
    swap = {"0": "0", "1": "2", "2": "1"}
    partition.write_text("\n".join(f"{name} {swap[part]}" for name, part in rows))
    assert "the validation split holds what test should (swapped?)" in refused("celeba", faces)
    partition.write_text("\n".join(f"{name} {part}" for name, part in rows[:-2]))
    assert "differ in 2 pictures" in refused("celeba", faces)


@pytest.mark.parametrize("processes", [1, 2])
def test_unreadable_pictures(faces: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    monkeypatch.setattr(preparing, "cores", lambda: processes)
    for number in (3, 5):
        file = faces / "img_align_celeba" / f"{number:06}.jpg"
        file.write_bytes(file.read_bytes()[:300])
    said = refused("celeba", faces, *TWIN)
    assert "2 images cannot be read: 000003.jpg (" in said and "--allow-bad" in said
    assert "twin-incomplete" in dataset_files.prepare("celeba", faces, TWIN, allow_bad=True)
    with pytest.raises(BadData, match="is not prepared"):
        data_of(CelebA(origin="twin", size=16))
    data = data_of(CelebA(origin="twin-incomplete", size=16))
    assert len(data.train.y) == sum(GROUPS[0]) - 2
    here = Prepared.open(root() / "celeba" / "twin-incomplete-16")
    assert [name for name, _ in here.facts["left_out"]] == ["000003.jpg", "000005.jpg"]
    kept = decode(faces / "img_align_celeba" / "000004.jpg", Crop(16, square=True))
    assert np.array_equal(data.train.x[2].numpy(), kept)
    assert verified("celeba") == (True, f"{here}, SHA-256 as prepared")
    assert "already prepared" in dataset_files.prepare("celeba", faces, TWIN, allow_bad=True)


def test_mended_pictures_are_read_again(faces: Path) -> None:
    file = faces / "img_align_celeba" / "000003.jpg"
    whole = file.read_bytes()
    file.write_bytes(whole[:300])
    refused("celeba", faces, *TWIN)
    file.write_bytes(whole)
    dataset_files.prepare("celeba", faces, TWIN)
    third = data_of(CelebA(origin="twin", size=16)).train.x[2]
    assert np.array_equal(third.numpy(), decode(file, Crop(16, square=True)))


def test_wrong_lists_of_celeba(faces: Path) -> None:
    file = faces / "list_attr_celeba.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].replace("Blond_Hair", "Blonde_Hair"), *lines[2:]]))
    assert "no column 'Blond_Hair'; the nearest is 'Blonde_Hair'" in refused("celeba", faces, *TWIN)
    file.write_text("\n".join([*lines[:6], lines[6][:40], *lines[7:]]))
    assert "list_attr_celeba.txt:7: " in refused("celeba", faces, *TWIN)
    (faces / "list_eval_partition.txt").unlink()
    assert "no list_eval_partition (.txt or .csv)" in refused("celeba", faces, *TWIN)


@pytest.mark.parametrize(
    ("row", "column", "value", "said"),
    [
        (0, 4, "plce", "no column 'place'; the nearest is 'plce'"),
        (1, 2, "7", "column 'y' holds 7, expected 0 to 1"),
        (1, 2, "x", "column 'y' of image 1 holds 'x', expected a whole number"),
        (1, 3, "3", "column 'split' of image 1 holds '3', expected one of 0, 1, 2"),
        (5, 3, None, "metadata.csv:6: 3 columns, expected 6"),
        (9, 1, "lost.jpg", "images are missing, the first is 'lost.jpg'"),
    ],
)
def test_a_wrong_metadata_file(row: int, column: int, value: str | None, said: str, made: Path, tmp_path: Path) -> None:
    birds = Path(shutil.copytree(made / "waterbirds_v1.0", tmp_path / "birds"))
    edit_csv(birds / "metadata.csv", row, column, value)
    assert said in refused("waterbirds", birds, "waterbirds.origin=twin", "waterbirds.size=16")


def test_pictures_of_more_bits_are_not_cut_off(tmp_path: Path) -> None:
    folder = own_table(tmp_path / "mine", TABLE + "".join(ROWS))
    Image.fromarray(np.full((8, 8), 20_000, np.uint16)).save(folder / "2.png")
    said = refused("own_pictures", folder, "own_pictures.name=mine", "own_pictures.size=8")
    assert "2.png (has more than 8 bits a channel (mode I;16))" in said


def test_a_class_without_pictures(tmp_path: Path) -> None:
    tree = jpeg_folder(tmp_path / "tree", ("cat", "dog"))
    for name in ("train/.ipynb_checkpoints", "train/eel", "test/eel"):
        (tree / name).mkdir()
    said = refused("own_pictures", tree, "own_pictures.name=tree", "own_pictures.size=8")
    assert "no training images of the class 'eel'" in said
    for name in ("train/eel", "test/eel"):
        (tree / name).rmdir()
    assert "prepared" in dataset_files.prepare("own_pictures", tree, ["own_pictures.name=tree", "own_pictures.size=8"])


def test_folders_that_hold_something_else(made: Path, tmp_path: Path) -> None:
    assert "no folder" in refused("celeba", tmp_path / "nowhere")
    assert "has no known layout; expected list_attr_celeba" in refused("celeba", tmp_path)
    assert "no option of celeba 'orign'; did you mean origin?" in refused("celeba", made, "celeba.orign=x")
    assert "cannot name a folder" in refused("celeba", made, "celeba.origin=../x")
    assert "size of celeba must be a whole number" in refused("celeba", made, "celeba.size=big")
    assert "size must be 1 or more" in refused("celeba", made, "celeba.size=0")


@pytest.mark.parametrize("error", [OSError("no route to host"), ImportError("no", name="torchvision")])
def test_a_download_that_fails(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, folder: Path) -> Path:
        raise error

    monkeypatch.setattr(CIFAR10, "download", fail)
    said = refused("cifar10", None)
    assert "cannot be downloaded" in said and "data prepare cifar10 --from FOLDER, where FOLDER has cifar-10-b" in said
    assert ("no route to host" if isinstance(error, OSError) else "needs the package torchvision") in said


def test_a_download_is_whole_or_not_there(made: Path, monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    """What wilds says of a failure is passed on although it goes on; what came half is not used the next time."""
    wilds = pytest.importorskip("wilds")

    def fail(name: str, root_dir: str, download: bool) -> None:
        assert not Path(root_dir).exists()
        Path(root_dir, "waterbirds_v1.0").mkdir(parents=True)
        print("Exception:  no route to host\n")
        raise FileNotFoundError("metadata.csv")

    monkeypatch.setattr(wilds, "get_dataset", fail)
    for _ in range(2):
        assert "cannot be downloaded (no route to host)" in refused("waterbirds", None)
    monkeypatch.setattr(wilds, "get_dataset", lambda name, root_dir, download: shutil.copytree(made, root_dir))
    assert "images" in dataset_files.prepare("waterbirds", None, ["waterbirds.origin=twin", "waterbirds.size=8"])
    assert [folder.name for folder in (data_folder / "downloads").iterdir()] == ["waterbirds"]


def test_downloads_are_those_of_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dataset names what its package knows, and asks it for the files."""
    wilds, files = pytest.importorskip("wilds"), pytest.importorskip("torchvision.datasets")
    asked = []
    for name in ("CIFAR10", "CIFAR100", "MNIST"):
        assert hasattr(files, name)
        monkeypatch.setattr(files, name, lambda root, name=name, **how: asked.append((name, root, how)))
    monkeypatch.setattr(wilds, "get_dataset", lambda name, root_dir, **how: asked.append((name, root_dir, how)))
    for name in ("celeba", "waterbirds", "cifar10", "cifar100", "cifar2", "dominoes"):
        assert registry.load_dataset(name)().download(tmp_path) == tmp_path  # type: ignore[attr-defined]
    names = ["celebA", "waterbirds", "CIFAR10", "CIFAR100", "CIFAR10", "MNIST"]
    assert asked == [(name, str(tmp_path), {"download": True}) for name in names]
    assert set(names[:2]) <= set(wilds.supported_datasets)
    assert "no known place to download it from" in refused("own_pictures", None, "own_pictures.name=birds")


def test_the_command_says_it_in_one_line(command: Any, tmp_path: Path) -> None:
    done = command("data", "prepare", "celeba", "--from", tmp_path, code=2)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("spurbench: ") and "Traceback" not in done.stderr


# ---- nothing half-prepared ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_gone_on(
    number: signal.Signals, made: Path, tmp_path: Path, data_folder: Path, spurbench: Any, command: Any, until: Any
) -> None:
    """A decoding process waits for a pipe until the command is killed; what was finished is not read again."""
    faces = Path(shutil.copytree(made / "celeba", tmp_path / "celeba"))
    first, last = (faces / "img_align_celeba" / f"{i:06}.jpg" for i in (1, sum(map(sum, GROUPS))))
    whole, end = first.read_bytes(), last.read_bytes()
    last.unlink()
    os.mkfifo(last)
    line = ("data", "prepare", "celeba", "--from", faces, "--set", "celeba.origin=twin", "--jobs", 2)
    running = spurbench.start(*line)
    work = data_folder / "celeba" / ".twin-224.preparing"
    until(lambda: all((work / f"{split}-000000000.json").exists() for split in ("train", "validation")))
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.send_signal(number)
    said = running.communicate()[1]
    assert running.returncode == (130 if number == signal.SIGTERM else -number) and children
    assert number == signal.SIGKILL or said.startswith("stopped; finished work is kept")
    until(lambda: not any(alive(child) for child in children))
    assert not list(data_folder.glob(f"celeba/*/{FACTS}"))
    with pytest.raises(BadData, match="is not prepared"):
        CelebA(origin="twin").prepared()
    last.unlink()
    last.write_bytes(end)
    written = first.stat().st_mtime_ns
    first.write_bytes(bytes(len(whole)))  # of a part that is finished, which the time does not betray
    os.utime(first, ns=(written, written))
    command(*line)
    first.write_bytes(whole)
    dataset_files.prepare("celeba", faces, ["celeba.origin=unbroken"])
    assert CelebA(origin="twin").checksum() == CelebA(origin="unbroken").checksum()


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_only_one_command_prepares_a_folder(made: Path, data_folder: Path) -> None:
    work = data_folder / "celeba" / ".twin-16.preparing"
    work.mkdir(parents=True)
    with locked(work):
        assert "another command is preparing" in refused("celeba", made, *TWIN)
    dataset_files.prepare("celeba", made, TWIN)


def test_another_source_begins_anew(made: Path, faces: Path) -> None:
    file = faces / "img_align_celeba" / "000003.jpg"
    file.write_bytes(b"gone")
    refused("celeba", faces, *TWIN)
    dataset_files.prepare("celeba", made, TWIN)
    assert Prepared.open(root() / "celeba" / "twin-16").facts["from"] == str(made)


def test_a_full_disk_is_seen_before(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "0.0 GB are free" in refused("celeba", made, *TWIN)


def test_damage_is_found(made: Path) -> None:
    dataset_files.prepare("celeba", made, TWIN)
    folder = root() / "celeba" / "twin-16"
    flip(folder / "test.npy", -5)
    with pytest.raises(BadData, match="the test images in"):
        data_of(CelebA(origin="twin", size=16))
    ok, found = verified("celeba")
    assert not ok and f"the test images in {folder} are damaged" in found
    flip(folder / "test.npy", -5)
    flip(folder / "train-labels.npz", 100)
    with pytest.raises(BadData, match="the train labels"):
        data_of(CelebA(origin="twin", size=16))
    with open(folder / "validation.npy", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(BadData, match="has 1,000 bytes, expected"):
        data_of(CelebA(origin="twin", size=16))
    (folder / FACTS).write_text("{")
    with pytest.raises(BadData, match="cannot be used"):
        data_of(CelebA(origin="twin", size=16))
    dataset_files.prepare("celeba", made, ["celeba.origin=twin", "celeba.size=8"])
    (found,) = [row["source"] for row in dataset_files.list_files() if row["dataset"] == "celeba"]
    assert "prepared.json cannot be used" in found and "twin-8: 301 images" in found  # the one hides not the other


def verified(name: str) -> tuple[bool, str]:
    ((_, ok, found),) = dataset_files.verify(name)
    return ok, found


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 255
    file.write_bytes(content)


def test_pictures_are_shared_and_not_changed(made: Path) -> None:
    dataset_files.prepare("celeba", made, TWIN)
    dataset = CelebA(origin="twin", size=16)
    x = data_of(dataset).train.x
    before = x.clone()
    x.zero_()
    assert torch.equal(data_of(dataset).train.x, before)
    assert f"{root() / 'celeba' / 'twin-16' / 'train.npy'}" in Path("/proc/self/maps").read_text()


def test_list_and_verify_tell_what_there_is(made: Path) -> None:
    before = {row["dataset"]: row["source"] for row in dataset_files.list_files()}
    assert before["celeba"] == "not prepared: spurbench data prepare celeba --from FOLDER"
    assert verified("celeba") == (True, "not prepared, nothing to verify")
    dataset_files.prepare("celeba", made, TWIN)
    after = {row["dataset"]: row["source"] for row in dataset_files.list_files()}
    assert after["celeba"].startswith(f"twin-16: {sum(map(sum, GROUPS))} images of 16 × 16, CelebA's")
    assert "SHA-256 as prepared" in verified("celeba")[1]


# ---- from files to a leaderboard ------------------------------------------------------------------------------------


def test_a_run_on_the_twin(made: Path, tmp_path: Path, command: Any) -> None:
    short = ("training.network=mlp", "training.pretrained=null", "training.steps=20", "training.batch=16")
    sets = [word for one in (*TWIN, *short) for word in ("--set", one)]
    dataset_files.prepare("celeba", made, TWIN)
    store = tmp_path / "store"
    choice = ("--dataset", "celeba", "--method", "erm", "--seeds", "0", "--device", "cpu", "--threads", 1)
    command("run", *choice, *sets, "--store", store)
    (file,) = store.glob("records/*/*.json")
    record = json.loads(file.read_bytes())
    assert record["status"] == "done" and record["splits"]["test"]["n"] == GROUPS[2]
    assert record["provenance"]["data"] == CelebA(origin="twin", size=16).checksum()
    assert "celeba · origin=twin, size=16" in command("leaderboard", store).stdout


def test_decoding_processes_import_no_torch() -> None:
    program = "import sys, spurbench.bench.images.preparing; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
