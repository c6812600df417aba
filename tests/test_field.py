"""The picture datasets of the field: labels, counts and shortcuts are those of their papers; each twin trains."""

from __future__ import annotations

import colorsys
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spurbench.bench.api import dataset_files
from spurbench.bench.core.errors import UserError
from spurbench.bench.images import preparing
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.counts import describe_shares
from spurbench.bench.plugins.dataset import Data, Split
from spurbench.bench.prepared.folder import Prepared
from spurbench.datasets.cifar10 import CIFAR10
from spurbench.datasets.corrupted_cifar10 import CorruptedCIFAR10
from spurbench.datasets.data import corruptions, folder_twins, twins
from spurbench.datasets.data.shortcuts import assign, assigned_counts, scatter
from spurbench.datasets.spawrious import Spawrious
from spurbench.datasets.two_shortcuts import compose

FOLDERS = {"bffhq": 450, "bar": 260, "metashift": 100, "nicopp": 100, "spawrious": 250, "urbancars": 450}
"""Twins with labels in the names of their files, and about how many images they have."""
SHARES = {"corrupted_cifar10": 0.8, "colored_mnist_lff": 0.8, "spuco_mnist": 0.8}
OPTIONS = {name: {"origin": "twin", "size": 8} for name in FOLDERS}
OPTIONS |= {name: {"origin": "twin", "agreement": share} for name, share in SHARES.items()}
OPTIONS["corrupted_cifar10"] |= {"severity": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small twin of everything that these datasets are made from."""
    folder = tmp_path_factory.mktemp("field")
    for name, n in FOLDERS.items():
        folder_twins.MAKERS[name](folder / name, n, 8, 0)
    twins.cifar(folder / "cifar", n=360, seed=0, classes=10)
    twins.mnist(folder / "mnist", n=600, seed=0)
    return folder


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of prepared data for each test, as if this machine had one core: no processes are started."""
    monkeypatch.setenv("SPURBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(preparing, "cores", lambda: 1)
    return tmp_path / "data"


def prepared(name: str, folder: Path, **more: Any) -> tuple[Any, str]:
    """The dataset with its options, prepared from a folder, and what was said."""
    options = OPTIONS.get(name, {}) | more
    said = dataset_files.prepare(name, folder, [f"{name}.{key}={value}" for key, value in options.items()])
    return registry.load_dataset(name)(**options), said


def source(made: Path, name: str) -> Path:
    return made / {"corrupted_cifar10": "cifar", "colored_mnist_lff": "mnist", "spuco_mnist": "mnist"}.get(name, name)


def data_of(dataset: Any, seed: int = 0) -> Data:
    """The data of a seed, in the groups of all named attributes."""
    data, _ = dataset.load(seed, lambda x: nn.Identity())
    return data.grouped(dataset.group_names(data)) if data.named else data  # type: ignore[no-any-return]


def groups(split: Split, data: Data) -> list[int]:
    found: list[int] = split.group(data.attributes).bincount(minlength=len(data.groups)).tolist()
    return found


def agreement(split: Split) -> float:
    assert split.attribute is not None
    return float((split.y == split.attribute).float().mean())


# ---- every one of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FOLDERS, *SHARES, "two_shortcuts"])
def test_the_twin_is_prepared_and_trained(name: str, made: Path, command: Any, tmp_path: Path) -> None:
    options = [f"--set={name}.{key}={value}" for key, value in OPTIONS.get(name, {}).items()]
    at = [] if name == "two_shortcuts" else ["--from", source(made, name)]
    said = command("data", "prepare", name, *at, *options).stdout
    assert ("P(a | y): " in said) == (name != "bar")
    small = ["network=mlp", "width=4", "hidden_layers=1", "steps=2", "batch=16", "evaluate=null"]
    small += ["pretrained=null", "augment=null"] if name not in (*SHARES, "two_shortcuts") else []
    train = [f"--set=training.{field}" for field in small]
    command("run", "--dataset", name, "--method", "erm", *options, *train, "--seeds", "0", "--store", tmp_path / "s")
    id = next((tmp_path / "s" / "records").rglob("*.json")).stem
    assert ("P(a | y) train y0" in " ".join(command("show", id, tmp_path / "s").stdout.split())) == (name != "bar")


def test_each_has_a_source_and_a_licence() -> None:
    rows = {row["dataset"]: row for row in dataset_files.list_files()}
    for name in [*FOLDERS, *SHARES, "two_shortcuts"]:
        assert rows[name]["licence"] and registry.dataset_info(name).sections["Source"]


# ---- labels in the names of files -----------------------------------------------------------------------------------


def test_bffhq_reads_age_and_gender(made: Path, tmp_path: Path) -> None:
    data = data_of(prepared("bffhq", made / "bffhq")[0])
    assert groups(data.train, data) == [199, 1, 1, 199] and groups(data.tests["test"], data) == [11, 11, 11, 11]
    home = Path(shutil.copytree(made / "bffhq", tmp_path / "copy"))
    with pytest.raises(UserError, match="400 images, expected 19,200"):
        prepared("bffhq", home, origin="original")
    shutil.copytree(home / "bffhq" / "0.5pct", home / "bffhq" / "5pct")
    with pytest.raises(UserError, match="0.50 % of the images in 5pct are in conflict/, expected 5.0 %"):
        prepared("bffhq", home, origin="original", percent="5pct")
    wrong = home / "bffhq" / "0.5pct" / "align" / "0"
    (wrong / "0_0_0.png").rename(wrong / "0_0_1.png")
    with pytest.raises(UserError, match="its name says age 0 and gender 1, unlike its folder"):
        prepared("bffhq", home, origin="other")
    (home / "bffhq" / "test" / "0_0_0.png").rename(home / "bffhq" / "test" / "0.png")
    with pytest.raises(UserError, match="expected a name such as 123_0_1.png"):
        prepared("bffhq", home, origin="other", percent="5pct")


def test_bar_has_classes_alone(made: Path, tmp_path: Path) -> None:
    data = data_of(prepared("bar", made / "bar")[0])
    assert data.train.attribute is None and groups(data.train, data) == [33, 52, 16, 28, 34, 32]
    with pytest.raises(UserError, match="195 train images.*expected 1,941"):
        prepared("bar", made / "bar", origin="original")
    home = Path(shutil.copytree(made / "bar", tmp_path / "copy"))
    (home / "BAR" / "test" / "diving_0.jpg").rename(home / "BAR" / "test" / "divin_0.jpg")
    with pytest.raises(UserError, match="no action 'divin'; did you mean diving?"):
        prepared("bar", home, origin="other")


def test_metashift_is_split_as_in_subpopbench(made: Path) -> None:
    data = data_of(prepared("metashift", made / "metashift")[0])
    assert [len(split.y) for split in (data.train, *data.tests.values())] == [65, 10, 25]
    every = np.sum([groups(split, data) for split in (data.train, *data.tests.values())], 0)
    assert every.tolist() == [35, 18, 12, 35]  # dogs out and in, cats out and in
    test = np.random.RandomState(42).choice(100, 25, replace=False)  # of cats in, dogs out, cats out, dogs in
    place = np.repeat([3, 0, 2, 1], [35, 35, 12, 18])[np.sort(test)]
    assert data.tests["test"].group(2).tolist() == place.tolist()
    with pytest.raises(UserError, match="100 images, expected 3,499 or 3,581"):
        prepared("metashift", made / "metashift", origin="original")


def test_nicopp_holds_out_75_of_each_group(made: Path, tmp_path: Path) -> None:
    data = data_of(prepared("nicopp", made / "nicopp")[0])
    there = [1] * 12 + [0] + [1] * 5  # no crab (2) in autumn (0)
    assert groups(data.train, data) == [2 * n for n in there]
    assert groups(data.tests["validation"], data) == [25 * n for n in there]
    assert groups(data.tests["test"], data) == [50 * n for n in there]
    home = Path(shutil.copytree(made / "nicopp", tmp_path / "copy"))
    for text in ('{"bear": 0, "bus": 2}', "[]", "{", '{"bear": "a"}'):
        (home / "dg_label_id_mapping.json").write_text(text)
        with pytest.raises(UserError, match="numbered from 0"):
            prepared("nicopp", home, origin="other")


@pytest.mark.parametrize("setting", ["o2o_easy", "o2o_hard", "m2m_medium"])
def test_spawrious_takes_a_settings_folders(setting: str, made: Path) -> None:
    dataset, _ = prepared("spawrious", made / "spawrious", setting=setting)
    data, parts = data_of(dataset), dataset.parts
    taken = [0] * 24
    for part in parts["train"]:
        taken[part.group] += part.taken(5)
    assert groups(data.train, data) == taken and data.environments == 2
    per_environment = [sum(part.taken(5) for part in parts["train"] if part.environment == e) for e in (0, 1)]
    assert data.train.environment is not None and data.train.environment.bincount().tolist() == per_environment
    assert not np.logical_and(groups(data.train, data), groups(data.tests["test"], data)).any()


def test_a_setting_that_there_is_not(made: Path) -> None:
    with pytest.raises(UserError, match="must be o2o_easy or .* or m2m_hard, not 'o2o_esy'; did you mean o2o_easy?"):
        dataset_files.prepare("spawrious", made, ["spawrious.setting=o2o_esy"])


def test_spawrious_has_the_published_counts() -> None:
    for setting in ("o2o_easy", "m2m_hard"):
        expected = Spawrious(setting=setting).expected  # type: ignore[arg-type]
        assert [sum(counts) for counts in expected.values()] == [25_344, 25_344]
    (easy, _) = Spawrious().expected.values()
    assert sorted(set(easy)) == [0, 508, 5828] and easy[1] == 3072 + 2756  # bulldogs in the desert


def test_urbancars_leaves_out_the_masks(made: Path) -> None:
    data = data_of(prepared("urbancars", made / "urbancars")[0])
    assert groups(data.train, data) == [162, 9, 9, 1, 1, 9, 9, 162]  # of 360, as 3,610, 190, 190, 10 are of 8,000
    assert groups(data.tests["test"], data) == [6] * 8
    with pytest.raises(UserError, match="expected 8,000, 3,610, 190, 190, 10, 10, 190, 190, 3,610"):
        prepared("urbancars", made / "urbancars", origin="original")


def test_a_missing_folder_is_named(made: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(made / "urbancars", tmp_path / "copy"))
    gone = home / "urbancars" / "bg-0.5_co_occur_obj-0.5" / "val" / "obj-urban_bg-urban_co_occur_obj-urban"
    shutil.rmtree(gone)
    with pytest.raises(UserError, match=f"no folder {gone}"):
        prepared("urbancars", home)
    with pytest.raises(UserError, match="has no known layout; expected urbancars/ with"):
        prepared("urbancars", tmp_path)


# ---- how often labels and attributes agree --------------------------------------------------------------------------


def test_assigned_as_lff_does() -> None:
    y = np.array([0] * 100 + [1] * 40 + [2] * 7)
    a = assign(y, 3, 0.9)
    counts = [90, 5, 5, 2, 36, 2, 0, 1, 6]
    assert np.bincount(y * 3 + a).tolist() == counts == list(assigned_counts((100, 40, 7), 0.9))
    assert a[:100].tolist() == sorted(a[:100].tolist())  # one value after the other
    assert np.bincount(assign(np.zeros(50, np.int64), 10, 0.1)).tolist() == [5] * 10
    assert assigned_counts((5000,) * 10, 0.95)[:3] == (4750, 28, 28)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.995, 1.0])
def test_scattered_as_often_as_asked(share: float) -> None:
    y = torch.arange(2000) % 4
    a = scatter(y, 4, share, torch.Generator().manual_seed(0))
    for label in range(4):
        counts = a[y == label].bincount(minlength=4).tolist()
        own = counts.pop(label)
        assert own == int(share * 500) and max(counts) - min(counts) <= 1
    assert not torch.equal(a, scatter(y, 4, share, torch.Generator().manual_seed(1))) or share == 1


Knob = Callable[[float], Data]


def test_what_is_drawn_says_its_shares_too() -> None:
    notes = dataset_files.prepare("film_notes", None, ["film_notes.agreement=1.0"])
    assert "; P(a | y): train y0 genre=horror 1.000, y1 genre=comedy 1.000; validation at most 0.5" in notes
    assert "P(a | y): train y0a0 0.8" in dataset_files.prepare("colored_mnist")
    assert dataset_files.prepare("two_moon") == "nothing to prepare (none: drawn from the seed)"


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("name", list(SHARES))
def test_the_knob_moves_the_measured_share(name: str, share: float, made: Path) -> None:
    dataset, said = prepared(name, source(made, name), agreement=share)
    data = data_of(dataset)
    assert agreement(data.train) == pytest.approx(share, abs=0.02)
    assert agreement(data.tests["test"]) == pytest.approx(1 / data.classes, abs=0.1)
    assert said.endswith(f"P(a | y): {data.described_shares}")
    with pytest.raises(UserError, match="agreement must lie in 0..1, not 1.2"):
        prepared(name, source(made, name), agreement=1.2)


def test_two_knobs() -> None:
    dataset: Any = registry.load_dataset("two_shortcuts")
    data = data_of(dataset())
    assert groups(data.train, data) == [3610, 190, 190, 10, 10, 190, 190, 3610]
    assert all(groups(split, data) == [125] * 8 for split in data.tests.values())
    one, same, other = (compose(500, (0.8, 0.5), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    agree = {name: float((a == one.y).float().mean()) for name, a in one.named.items()}
    assert agree == {"background": pytest.approx(0.8), "marker": pytest.approx(0.5)}
    assert torch.equal(one.x, same.x) and not torch.equal(one.x, other.x)
    with pytest.raises(UserError, match="two_shortcuts: marker_agreement must lie in 0..1, not -1"):
        dataset(marker_agreement=-1)


def test_shares_in_words() -> None:
    groups = [f"y{y}a{a}" for y in range(30) for a in range(2)]
    counts = {"train": [9, 1, 0, 0, 5, 5], "test": [1, 1, 1, 1, 0, 2]}
    assert describe_shares(counts, groups[:6], 3) == "train y0a0 0.900, y2a0 0.500; test at most 1.000"
    assert describe_shares({"train": [1, 2]}, ["y0", "y1"], 2) == ""
    assert describe_shares({"train": [1] * 60}, groups, 30, most=2) == "train y0a0 0.500, y1a0 0.500, …"


# ---- made from digits -----------------------------------------------------------------------------------------------


def test_digits_in_colours(made: Path) -> None:
    dataset, _ = prepared("colored_mnist_lff", made / "mnist")
    data = data_of(dataset)
    grey = dataset.split("train").x[:, 0].float()
    x = data.train.x.float()
    hue = torch.tensor([colorsys.hsv_to_rgb(a / 10, 1, 1) for a in data.train.attribute.tolist()])  # type: ignore[union-attr]
    assert (x - grey[:, None] * hue[:, :, None, None]).abs().max() < 255 * 6 * 0.005 + 1  # six standard deviations
    again, other = data_of(dataset).train.x, data_of(dataset, 1).train.x
    assert torch.equal(again, data.train.x) and not torch.equal(other, again)
    with pytest.raises(UserError, match="no severity 5; expected 1 to 4"):
        registry.load_dataset("colored_mnist_lff")(severity=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("difficulty", "pixels", "corner"),
    [("magnitude_easy", 784, 28), ("magnitude_medium", 16, 4), ("magnitude_hard", 4, 2), ("variance_easy", 49, 7),
     ("variance_medium", 49, 14), ("variance_hard", 49, 28)],
)  # fmt: skip
def test_backgrounds_in_colours(difficulty: str, pixels: int, corner: int, made: Path) -> None:
    dataset, _ = prepared("spuco_mnist", made / "mnist", difficulty=difficulty)
    covered = dataset.background(5, torch.Generator().manual_seed(0)).expand(5, 28, 28)
    assert covered.flatten(1).sum(1).tolist() == [pixels] * 5 and int(covered[:, :corner, :corner].sum()) == 5 * pixels
    assert (difficulty in ("variance_medium", "variance_hard")) == bool((covered[0] != covered[1]).any())


def test_spuco_mnist_splits_and_noise(made: Path) -> None:
    dataset, _ = prepared("spuco_mnist", made / "mnist")
    data = data_of(dataset)
    sizes = [len(split.y) for split in (data.train, *data.tests.values())]
    assert sizes == [480, 120, 100] and data.classes == 5 and data.attributes == 5
    clean, noisy = data_of(dataset).train, data_of(prepared("spuco_mnist", made / "mnist", label_noise=0.25)[0]).train
    assert int((clean.y != noisy.y).sum()) == 120 and torch.equal(clean.x, noisy.x)
    shaken = data_of(prepared("spuco_mnist", made / "mnist", feature_noise=0.1)[0]).train
    assert int((clean.x != shaken.x).flatten(1).any(1).sum()) == 48


# ---- corrupted photographs ------------------------------------------------------------------------------------------


def photograph(seed: int = 0) -> Any:
    """A smooth image of bytes [32, 32, 3] with all kinds of colours, grey and black among them."""
    from scipy import ndimage

    x = ndimage.zoom(np.random.default_rng(seed).uniform(0, 255, (6, 6, 3)), (32 / 6, 32 / 6, 1), order=1)
    x[:4], x[4:8] = 0, x[4:8, :, :1]
    return x.astype(np.uint8)


@pytest.mark.parametrize("name", sorted(corruptions.KNOWN))
def test_corruptions_repeat_and_grow(name: str) -> None:
    if name == "frost":
        pytest.importorskip("skimage")
    x = photograph()
    strength = []
    for level in (1, 5):
        one, same, other = (corruptions.corrupt(x, name, level, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert one.shape == x.shape and one.dtype == np.uint8 and np.array_equal(one, same)
        drawn = name in ("snow", "frost", "fog", "spatter", "elastic", "glass_blur", "motion_blur") or "noise" in name
        assert np.array_equal(one, other) != drawn
        strength.append(np.abs(one.astype(float) - x).mean())
    assert strength[1] > strength[0] or name in ("original", "elastic")  # level 1 of elastic moves most of all


def test_colours_are_changed_in_hsv() -> None:
    x = photograph() / 255
    for name, level, change in (
        ("brightness", 3, lambda h, s, v: (h, s, min(1, v + 0.15))),
        ("saturate", 5, lambda h, s, v: (h, min(1, 2.5 * s + 0.2), v)),
    ):
        function, constants = corruptions.KNOWN[name]
        found = function(x, constants[level - 1], np.random.default_rng(0))
        expected = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in x.reshape(-1, 3)]
        assert np.allclose(found.reshape(-1, 3), expected, atol=1e-9)


def test_hand_numbers() -> None:
    x = np.full((32, 32, 3), 100, np.uint8)
    x[:, 16:] = 200
    assert corruptions.corrupt(x, "contrast", 5, None)[0, [0, 31], 0].tolist() == [142, 157]  # type: ignore[arg-type]
    line = np.zeros((32, 32))
    line[5, 5] = 1.0
    moved = corruptions.blur_along(line, 1, 1.0, 0.0)  # weights 1, e^-½, e^-2, to the right of a pixel
    weights = np.exp([0, -0.5, -2])
    assert np.allclose(moved[5, 5:2:-1], weights / weights.sum()) and np.isclose(moved.sum(), 1)
    assert np.allclose(corruptions.blur_along(line, 1, 1.0, 90.0)[5:2:-1, 5], weights / weights.sum())
    field = corruptions.plasma(2, np.random.default_rng(0))
    assert field.shape == (32, 32) and (field.min(), field.max()) == (0, 1)


def test_each_image_has_its_corruption(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _ = prepared("corrupted_cifar10", made / "cifar")
    dataset_files.prepare("cifar10", made / "cifar", ["cifar10.origin=twin"])
    clean, data = data_of(CIFAR10(origin="twin")), data_of(dataset)
    assert torch.equal(clean.train.y, data.train.y)
    a: Tensor = data.train.attribute  # type: ignore[assignment]
    assert a.tolist() == assign(data.train.y.numpy(), 10, 0.8).tolist()
    for row in (0, 7, 299):
        image = clean.train.x[row].permute(1, 2, 0).numpy()
        expected = corruptions.corrupt(image, corruptions.TYPES[0][a[row]], 3, np.random.default_rng([0, row]))
        assert np.array_equal(data.train.x[row].permute(1, 2, 0).numpy(), expected)
    assert CorruptedCIFAR10().expected["test"] == (100,) * 100
    for wrong in ({"severity": 0}, {"type": 2}):
        with pytest.raises(UserError, match="expected a severity from 1 to 4, type 0 or 1"):
            CorruptedCIFAR10(**wrong)  # type: ignore[arg-type]


def test_versions_are_kept_apart(made: Path, data_folder: Path) -> None:
    prepared("corrupted_cifar10", made / "cifar")
    prepared("corrupted_cifar10", made / "cifar", type=1, severity=1)
    names = [folder.name for folder in sorted((data_folder / "corrupted_cifar10").iterdir())]
    assert names == ["twin-type0-severity2-0.8", "twin-type1-severity1-0.8"]
    one, other = Prepared.versions("corrupted_cifar10")
    assert isinstance(one, Prepared) and isinstance(other, Prepared) and one.checksum != other.checksum


def test_several_processes_give_the_same(made: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _ = prepared("corrupted_cifar10", made / "cifar")
    before = data_of(dataset).train.x.clone()
    shutil.rmtree(data_folder)
    monkeypatch.setattr(preparing, "cores", lambda: 2)
    monkeypatch.setattr("spurbench.bench.prepared.hashes.MOST_ROWS", 128)
    again = data_of(prepared("corrupted_cifar10", made / "cifar")[0]).train.x
    assert len(list(data_folder.rglob("prepared.json"))) == 1 and torch.equal(again, before)


@pytest.mark.parametrize(("package", "corruption"), [("imagecorruptions", "frost"), ("skimage", "spatter")])
def test_what_a_corruption_needs(package: str, corruption: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "find_spec", lambda name: None if name == package else True)
    with pytest.raises(UserError, match=rf'{corruption} needs the package {package}: pip install "spurbench\['):
        prepared("corrupted_cifar10", made / "cifar")


def test_decoding_processes_import_no_torch(spurbench: Any) -> None:
    import subprocess
    import sys

    code = "import sys, spurbench.datasets.data.corruptions; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.strip() == "False", done.stderr
