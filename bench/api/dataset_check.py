"""`check-dataset`: whether a dataset keeps the promises that runs and tables rely on; each answer is one line."""

from __future__ import annotations

import dataclasses
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spurbench.bench.api import dataset_files
from spurbench.bench.checks import data_checks
from spurbench.bench.checks.questions import Check, Failure, ask
from spurbench.bench.core.terminal import plural
from spurbench.bench.plugin_files.reader import PluginInfo
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Dataset, Split, Training, tensors_in
from spurbench.bench.plugins.method import Batch, Method
from spurbench.bench.training.replica import prepare

Loaded = tuple[Data, Tensor]
"""The data of a seed, and weights drawn in the place of its network's."""
SECTIONS = ("Source", "Licence")
OTHER_SEED = 987_654_321  # where global generators are before seed 0 is loaded again


class Plain(Method):
    """A method that needs nothing beyond labels, for which data and network are made."""

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()


def check(name: str, sets: Sequence[str] = (), source: Path | None = None) -> list[Check]:
    """Every check of a dataset; two seeds are drawn, none is trained.

    `sets` are options of the dataset and fields of training, `name.option=value` and `training.field=value`.

    With a `source`, such as its twin's folder, it is prepared from there for these checks alone.

    Errors: UserError only for an unknown name or option; what is wrong with the dataset is a Check.
    """
    info = registry.plugins("dataset").get(name)
    if info is None or info.problem:
        registry.dataset_info(name)  # raises with the nearest name, or with the problem
    assert info is not None
    own, given = dataset_files.split_sets(sets)
    dataset = dataset_files.with_options(name, own)
    training = dataclasses.replace(dataset.training, **given)
    with data_folder(source):
        checks = [Check("imports", True, f"{info.class_name} from {info.path}"), ask("docstring", check_text, info)]
        checks.append(ask("options", check_options, type(dataset)))
        if source is not None:
            checks.append(ask("prepares", lambda _: dataset.prepare(source), None))
        return [*checks, *check_data(dataset, info, training)]


@contextmanager
def data_folder(source: Path | None) -> Iterator[None]:
    """Where data are prepared: an empty folder if there is a source, which is deleted afterwards."""
    if source is None:
        yield
        return
    before = os.environ.get("SPURBENCH_DATA")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPURBENCH_DATA"] = folder
        try:
            yield
        finally:
            os.environ.pop("SPURBENCH_DATA")
            os.environ.update({} if before is None else {"SPURBENCH_DATA": before})


def check_data(dataset: Dataset, info: PluginInfo, training: Training) -> list[Check]:
    """The checks of what a dataset loads."""
    start = time.perf_counter()
    loaded: list[Loaded] = []
    checks = [ask("loads", lambda _: describe_loaded(dataset, loaded, start), None)]
    if not checks[0].ok:
        return checks
    (first,) = loaded
    questions: list[tuple[str, Callable[[Any], str]]] = [
        ("seeds", lambda data: check_seeds(dataset, first)),
        ("splits", lambda data: check_splits(data, dataset)),
        ("copies", lambda data: check_copies(data, dataset.keep_duplicates)),
        *((f"groups of {name}", group_question(name)) for name in first[0].splits),
        ("a method is handed", lambda data: describe_handed(data, info)),
        ("memory", describe_memory),
        ("files", lambda data: dataset.verify(thorough=False)),
        ("network", lambda data: describe_network(dataset, training)),
    ]
    return checks + [ask(name, question, first[0]) for name, question in questions]


def check_text(info: PluginInfo) -> str:
    if not info.summary:
        raise Failure("no docstring: begin the file with one sentence on what an example, y and a are")
    if missing := [name for name in SECTIONS if not info.sections.get(name)]:
        raise Failure(f"the docstring lacks the line '{missing[0]}: …'; it has {' and '.join(SECTIONS)}")
    return info.summary


def check_options(cls: type[Dataset]) -> str:
    own = [field for field in dataclasses.fields(cls) if field.name not in registry.SHARED_OPTIONS]
    for field in own:
        if not isinstance(field.default, bool | int | float | str | None):
            has = f"field '{field.name}' has the default {field.default!r}"
            raise Failure(f"{has}; expected a number, text or true/false")
    return ", ".join(f"{field.name}={field.default}" for field in own) or "none"


def describe_loaded(dataset: Dataset, loaded: list[Loaded], start: float) -> str:
    """Load seed 0, with every check that a run makes; what came of it."""
    loaded.append(load(dataset, 0))
    counts = ", ".join(f"{name} {len(split.y):,}" for name, split in loaded[0][0].splits.items())
    return f"{counts}; seed 0 took {time.perf_counter() - start:.1f} s"


def load(dataset: Dataset, seed: int) -> Loaded:
    """The data of a seed, checked and with groups, and the weights of a stand-in drawn where its network would be."""
    data_checks.declared_classes(dataset)
    found = dataset.load(seed, lambda x: nn.Linear(3, 1))
    data, network = data_checks.check_loaded(found, dataset, Plain(), seed)
    return dataset.in_groups(data), torch.cat([weights.flatten() for weights in network.parameters()])


def describe_network(dataset: Dataset, training: Training) -> str:
    """Whether the network of its protocol takes its inputs."""
    (network,) = prepare(dataset, Plain(), training, 0).networks
    weights = sum(weights.numel() for weights in network.parameters())
    return f"{training.network.name} takes the inputs, {weights:,} parameters"


# ---- seeds ----------------------------------------------------------------------------------------------------------


def check_seeds(dataset: Dataset, first: Loaded) -> str:
    """Whether seed 0 is the same when drawn again, whatever was drawn before, and seed 1 another network."""
    for disturb in (torch.manual_seed, np.random.seed, random.seed):
        disturb(OTHER_SEED)
    (data, weights), (again, same_weights) = first, load(dataset, 0)
    for name, split in data.splits.items():
        if not same_split(split, again.splits[name]):
            raise Failure(
                f"split '{name}' differs when seed 0 is loaded again: draw from generators that the seed sets"
            )
    if not torch.equal(weights, same_weights):
        raise Failure("the network differs when seed 0 is loaded again: call torch.manual_seed(seed) before build")
    other, other_weights = load(dataset, 1)
    if torch.equal(weights, other_weights):
        raise Failure("seeds 0 and 1 have the same network: call torch.manual_seed(seed) before build")
    same = all(same_split(split, other.splits[name]) for name, split in data.splits.items())
    return f"seed 0 is the same when loaded again; seed 1 has {'the same' if same else 'other'} data, another network"


def same_split(one: Split, other: Split) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(tensors_of(one), tensors_of(other), strict=True)
    )


def tensors_of(split: Split) -> list[Tensor | None]:
    return [
        *tensors_in(split.x),
        split.y,
        split.attribute,
        split.environment,
        *split.named.values(),
        *split.subsets.values(),
    ]


# ---- splits ---------------------------------------------------------------------------------------------------------


def check_splits(data: Data, dataset: Dataset) -> str:
    """Whether the class names the splits that there are, and the headline ones of them."""
    if dataset.splits is not None and set(dataset.splits) != set(data.tests):
        raise Failure(f"the class names the splits {', '.join(dataset.splits)}; load gives {', '.join(data.tests)}")
    for name, metric in dataset.headline:  # others are measures of its own
        if registry.metric(metric) and name not in (*data.splits, "environments"):
            raise Failure(f"headline names the split '{name}'; load gives {', '.join(data.splits)}")
    absent = "" if "validation" in data.tests else "; no validation: rules that choose by it cannot be used"
    classes = f"{data.classes} classes"
    environments = f", {plural(data.environments, 'environment')}" if data.environments else ""
    return f"{', '.join(data.splits)}; {classes}{environments}{absent}"


def check_copies(data: Data, known: bool) -> str:
    """Whether training and the held-out splits share examples, unless it is `known` that rows of a table are alike."""
    training = example_hashes(data.train)
    counts = {name: int(np.isin(example_hashes(split), training).sum()) for name, split in data.tests.items()}
    said = ", ".join(f"{count:,} of {len(data.tests[name].y):,} in {name}" for name, count in counts.items() if count)
    if not known and any(count > data_checks.FEW * len(data.tests[name].y) for name, count in counts.items()):
        raise Failure(f"inputs that training has too: {said}")
    return f"inputs that training has too: {said}" if said else "no input of a held-out split is in training"


def example_hashes(split: Split) -> Any:
    """A number [n] for each example, of all of its inputs."""
    from spurbench.bench.prepared.hashes import hash_rows

    found = np.zeros(len(split.y), np.uint64)
    for part in tensors_in(split.x):
        size = max(1, (32 << 20) // max(1, part[:1].nbytes))
        for at in (slice(start, start + size) for start in range(0, len(part), size)):
            found[at] = hash_rows(part[at].contiguous().flatten(1).view(torch.uint8).numpy(), found[at])
    return found


def group_question(name: str) -> Callable[[Data], str]:
    return lambda data: describe_groups(data.splits[name], data)


def describe_groups(split: Split, data: Data) -> str:
    """How many examples each group has, and P(a | y): its share of its class."""
    counts = split.group(data.attributes).bincount(minlength=len(data.groups)).view(data.classes, -1)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    each = zip(data.groups, counts.flatten().tolist(), shares.flatten().tolist(), strict=True)
    said = ", ".join(f"{name} {n:,}" + (f" ({share:.1%})" if data.attributes > 1 else "") for name, n, share in each)
    members = ", ".join(f"{name} {int(member.sum()):,}" for name, member in split.subsets.items())
    return said + (f"; subsets: {members}" if members else "")


# ---- what runs have of it -------------------------------------------------------------------------------------------


def describe_handed(data: Data, info: PluginInfo) -> str:
    """What a method may see of the training examples, and the methods that cannot run on it."""
    split = data.train
    has = {"environments": split.environment is not None, "groups": split.attribute is not None}
    inputs = split.x if isinstance(split.x, dict) else {"inputs": split.x}
    kinds = {name: str(part.dtype).removeprefix("torch.") for name, part in inputs.items()}
    said = [f"{name} {list(part.shape[1:])} of {kinds[name]}" for name, part in inputs.items()]
    said += ["labels", *(name for name, there in has.items() if there)]
    if undeclared := [name for name, there in has.items() if there and name not in info.provides]:
        raise Failure(f"training has {undeclared[0]}, which `provides` lacks: methods that need them are refused")
    methods = [registry.method_info(name) for name, each in registry.methods().items() if not each.problem]
    refused = [each.name for each in methods if registry.requirements(each, info)]
    less = f"; without what they need: {', '.join(refused)}" if refused else ""
    return f"{', '.join(said)}; {len(methods) - len(refused)} of {len(methods)} methods can run{less}"


def describe_memory(data: Data) -> str:
    """How large the inputs are, and how much of that is files that all runs on a machine share."""
    parts = [part for split in data.splits.values() for part in tensors_in(split.x)]
    mapped = sum(part.nbytes for part in parts if is_mapped(part))
    total = sum(part.nbytes for part in parts)
    return f"{total / 1e6:,.1f} MB of inputs, {mapped / 1e6:,.1f} MB of them memory-mapped files that runs share"


def is_mapped(part: Tensor) -> bool:
    """Whether a tensor's numbers lie in a file that is mapped into memory; False where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        where, *_, last = line.split(maxsplit=5)
        first, end = (int(text, 16) for text in where.split("-"))
        if first <= part.data_ptr() < end:
            return last.startswith("/")
    return False
