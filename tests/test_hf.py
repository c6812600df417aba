"""Sequence classifiers of transformers: from a folder, offline, trained from end to end on generated tokens."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spurbench.bench.core.errors import UserError
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.setup import set_up
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Training
from spurbench.bench.records.run import Run
from spurbench.bench.store.store import Store
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.replica import build_network, find_head, prepare

transformers = pytest.importorskip("transformers")

TINY = {
    "model_type": "bert", "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 12, "initializer_range": 0.3,
}  # fmt: skip
TOKENS = '''"""Texts of up to 8 tokens: a word mostly says the class, another goes with it in training."""
import torch
from spurbench import Data, Dataset, Split, Training

class Tokens(Dataset):
    provides = frozenset({"groups"})
    splits = ("validation", "test")
    training = Training(optimizer="adamw", lr=0.01, batch=16, steps=30)

    def load(self, seed, build):
        torch.manual_seed(seed)
        train, validation, test = self.split(96, 0.8), self.split(40, 0.5), self.split(40, 0.5)
        return Data(train, {"validation": validation, "test": test}, attributes=2), build(train.x)

    def split(self, n, agreement):
        y = torch.arange(n) % 2
        a = torch.where(torch.rand(n) < agreement, y, 1 - y)
        word = torch.where(torch.rand(n) < 0.9, y, 1 - y)
        ids = torch.cat([torch.stack([4 + word, 2 + a], 1), torch.randint(6, 30, (n, 6))], 1)
        mask = torch.arange(8) < torch.randint(3, 9, (n, 1))
        return Split({"ids": torch.where(mask, ids, 0), "mask": mask}, y, a)
'''
SHAPE = {"ids": (8,), "mask": (8,)}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield
    registry.forget_plugins()


def folder(path: Path, **changes: Any) -> Path:
    """A configuration alone."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(TINY | changes))
    return path


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return folder(tmp_path / "bert")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.py"
    file.write_text(TOKENS)
    registry.add_plugin(file)
    return file


def made(path: Path | str, outputs: int = 2, weights: str = "random", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_network(SHAPE, outputs, Training(network=f"hf:{path}", weights=weights), "dict")


def engine(path: Path, seeds: list[int], method: str = "erm", precision: str = "float32", **fields: Any) -> Engine:
    dataset, chosen = registry.load_dataset("tokens")(), registry.load_method(method)()
    training = replace(dataset.training, network=f"hf:{path}", weights="random", **fields)
    replicas = [prepare(dataset, chosen, training, seed) for seed in seeds]
    return Engine(chosen, training, precision, Options(micro_batch=5), replicas)


def weights(engine: Engine, r: int) -> Tensor:
    return torch.cat([p.flatten() for p in engine.stacks[0].parameters_of(r).values()]).clone()


def test_padding_is_not_seen(bert: Path) -> None:
    network = made(bert).eval()
    ids, mask = torch.randint(1, 30, (3, 8)), torch.arange(8) < torch.tensor([[3], [5], [8]])
    for kind in (torch.bool, torch.int64):
        z = network({"ids": ids, "mask": mask.to(kind)})
        assert torch.allclose(z, network({"ids": torch.where(mask, ids, 7), "mask": mask.to(kind)}), atol=1e-6)
        assert not torch.allclose(z, network({"ids": ids, "mask": torch.ones_like(mask)}), atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"model_type": "roberta"}, {"model_type": "distilbert", "dim": 16}])
def test_its_head_is_found(tmp_path: Path, changes: dict[str, Any]) -> None:
    changes |= {"n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    network = made(folder(tmp_path / "model", **changes), 3).eval()
    head = find_head(network, Training(network=f"hf:{tmp_path / 'model'}", weights="random"))
    given: list[Any] = []
    head.register_forward_hook(lambda layer, inputs, out: given.extend([inputs[0], out]))
    z = network({"ids": torch.ones(4, 8, dtype=torch.int64), "mask": torch.ones(4, 8, dtype=torch.int64)})
    assert given[0].shape == (4, 16) and given[1] is z and z.shape == (4, 3)


def test_weights_come_from_a_folder(bert: Path, tmp_path: Path) -> None:
    saved = made(bert, 3, seed=5)
    saved.model.half().save_pretrained(tmp_path / "saved")
    one, again, other = (made(tmp_path / "saved", 2, "pretrained", seed) for seed in (1, 1, 2))
    for name, parameter in one.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, again.get_parameter(name))
        if "classifier" not in name:
            assert torch.equal(parameter, saved.get_parameter(name).float())
    assert not torch.equal(one.model.classifier.weight, other.model.classifier.weight), "a head is of its seed"


def test_a_name_is_looked_up_in_the_cache(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "models--some--bert"
    for revision, seed in (("1" * 40, 1), ("2" * 40, 2)):
        made(bert, 3, seed=seed).model.save_pretrained(cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("2" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, seed in (("some/bert", 2), (f"some/bert@{'1' * 40}", 1)):
        words = made(name, weights="pretrained").model.bert.embeddings.word_embeddings.weight
        assert torch.equal(words, made(bert, seed=seed).model.bert.embeddings.word_embeddings.weight)


def test_what_cannot_be_had_is_one_line(bert: Path, tmp_path: Path) -> None:
    def refused(words: str, network: Path | str, shape: Any = SHAPE, kind: str = "dict", **fields: Any) -> None:
        with pytest.raises(UserError) as error:
            build_network(shape, 2, Training(network=f"hf:{network}", **fields), kind)
        assert words in str(error.value) and "\n" not in str(error.value)

    random = {"weights": "random"}
    refused("has no weights (model*.safetensors): copy them there, or take training.weights=random", bert)
    refused("has no config.json: expected a folder written by save_pretrained", tmp_path)
    refused(f"no folder {tmp_path}/nowhere, and no name such as", f"{tmp_path}/nowhere")
    refused("cannot get hf:no/such", "no/such")
    refused("for this kind of AutoModel", folder(tmp_path / "vit", model_type="vit"), **random)
    refused("does not take texts of 20 tokens", bert, {"ids": (20,), "mask": (20,)}, **random)
    refused("takes ids and mask, and perhaps types; not ids, words", bert, {"ids": (8,), "words": (8,)}, **random)
    refused("takes inputs of the kind dict; these are of the kind floats", bert, (8,), "floats", **random)
    decoder = folder(tmp_path / "gpt", model_type="gpt2", n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    with pytest.raises(UserError, match="the head of hf:.* cannot be found"):
        find_head(made(decoder), Training(network=f"hf:{decoder}", weights="random"))
    made(folder(tmp_path / "other", model_type="distilbert", dim=16)).model.save_pretrained(tmp_path / "mixed")
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(TINY))
    refused("it is of another network", tmp_path / "mixed")
    (tmp_path / "mixed" / "model.safetensors").write_bytes(b"damaged")
    refused("cannot get hf:", tmp_path / "mixed")


@pytest.mark.parametrize("method", ["erm", "group_dro"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_seeds_together_equal_seeds_alone(tokens: Path, bert: Path, method: str, precision: str) -> None:
    """With the dropout of its configuration, and in micro-batches."""
    together, alone = (engine(bert, seeds, method, precision, steps=3) for seeds in ([3, 4], [4]))
    for one in (together, alone):
        one.train()
    assert torch.equal(weights(together, 1), weights(alone, 0)) and together.noise.drawn


def test_a_batch_in_parts_is_exact(tokens: Path, tmp_path: Path) -> None:
    calm = folder(tmp_path / "calm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    whole, parts = (engine(calm, [0], "group_dro", steps=3, optimizer="sgd") for _ in range(2))
    parts.cut = parts.stacks[0].accumulate = True
    assert len(parts.batches.micro_batches(0)[0][0].cut(5, 0)) == 4
    for one in (whole, parts):
        one.train()
    assert torch.allclose(weights(whole, 0), weights(parts, 0), atol=1e-5)


def test_tokens_of_another_tokenizer_are_named(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="token 29, and the network's vocabulary has 20: take the network's own tokenizer"
    ):
        engine(folder(tmp_path / "small", vocab_size=20), [0]).train()


def test_texts_from_end_to_end(tokens: Path, bert: Path, command: Any, tmp_path: Path) -> None:
    """JTT trains once more on what the first run gets wrong, mostly mislabelled; DFR refits its head."""
    sets = [f"training.network=hf:{bert}", "training.weights=random", "training.clip_norm=1", "training.warmup=0.1"]
    line = [word for one in sets for word in ("--set", one)]
    methods = [word for name in ("erm", "jtt", "group_dro", "dfr") for word in ("--method", name)]
    line += [
        "--plugin",
        tokens,
        "--dataset",
        "tokens",
        *methods,
        "--seeds",
        "0-1",
        "--threads",
        1,
        "--store",
        tmp_path / "store",
    ]
    command("run", *line)
    records = Store.open(tmp_path / "store").records()[0]
    assert len(records) == 8 and all(record.done for record in records)
    for record in records:
        counts = record.splits["test"]
        assert record.method == "jtt" or sum(counts.correct) / sum(counts.n) > 0.7, record.method
        assert any(name.endswith("config.json") for name in record.provenance.files)


def test_a_run_holds_what_a_folder_contains_and_not_where_it_is(bert: Path, tmp_path: Path) -> None:
    """Planning reads it without importing torch."""

    def network(path: Path | str) -> str:
        return Training(network=f"hf:{path}", weights="random").network.name

    (tmp_path / "elsewhere").mkdir()
    name = network(bert)
    assert name == network(shutil.copytree(bert, tmp_path / "elsewhere" / "bert")) == network(name.removeprefix("hf:"))
    assert re.fullmatch("hf:bert#[0-9a-f]{16}", name) and "bert" in str(made(name.removeprefix("hf:")))[:200].lower()
    (bert / "notes.txt").write_text("nothing to the network")
    assert network(bert) == name
    sets = f"['training.network=hf:{bert}', 'training.weights=random']"
    code = f"""
import sys
from spurbench.bench.grid.ad_hoc import adhoc_grid
grid = adhoc_grid("film_notes", ["erm"], "0", {sets})
print(grid.cells[0].training["network"], "torch" in sys.modules, grid.notes)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{name} False") and str(tmp_path) not in said
    shutil.rmtree(tmp_path / "elsewhere")
    network(bert)  # the last place that it was given in
    config = bert / "config.json"
    config.write_text(config.read_text().replace("32", "48"))
    with pytest.raises(UserError, match="bert is bert#[0-9a-f]{16} by now, not bert#[0-9a-f]{16}: give its path again"):
        made(name.removeprefix("hf:"))
    assert network(bert) != name
    with pytest.raises(UserError, match="where hf#0123456789abcdef is on this machine is not known"):
        made("hf#0123456789abcdef")


def test_a_frozen_model_trains_its_head_on_kept_features(tokens: Path, bert: Path, tmp_path: Path) -> None:
    made(bert).model.save_pretrained(tmp_path / "saved")
    dataset, store = registry.load_dataset("tokens")(), Store.open(tmp_path / "store", create=True)
    training = replace(dataset.training, network=f"hf:{tmp_path / 'saved'}", freeze=True, lr=0.1)
    runs = [Run("tokens", {}, 1, method, {}, training.flat(), "float32", 0) for method in ("erm", "focal")]
    for run in runs:
        setup = set_up(Job([run], "", Options()))
        trained = setup.make_engine([setup.draw(run, store)])
        assert trained.replicas[0].data.train.x.shape == (96, 16) and trained.stacks[0].matrices
        trained.train()
    assert len(list(store.root.glob("weights/*/*.frozen.pt"))) == 3, "a split each, for both"
    test = trained.replicas[0].frozen.data.tests["test"]  # type: ignore[union-attr]
    assert ((trained.whole_model(0).score(test.x) > 0) == (test.y == 1)).float().mean() > 0.7
