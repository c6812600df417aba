"""What the engine and the tables rely on in the data of a seed, checked once when they are loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spurbench.bench.core.errors import BadData, BadSeed, say_unknown
from spurbench.bench.plugins.dataset import Data, Dataset, Inputs, Split, count_inputs, tensors_in
from spurbench.bench.plugins.method import Method
from spurbench.bench.plugins.network import kind_of

NAME = re.compile(r"(?!train$|train_e\d+$)\w[\w.-]*")  # of a test split; names of training splits are taken
WORD = re.compile(r"\w[\w .-]*")  # what attributes, their values and subsets may be called
CHUNK_VALUES = 1 << 24  # input values checked at a time
MOST_GROUPS = 10_000
LOOKED_AT = 1000  # examples of each held-out split that are looked for among those of training
SMALL, MANY = 1 << 26, 200_000  # bytes and examples of training up to which they are: a tenth of a second
FEW = 0.01  # share of them that may also be in training: real pictures, texts and tables have copies


def declared_classes(dataset: Dataset) -> int:
    """The number of classes that the dataset's class declares; networks are made for it while the data load."""
    classes: Any = dataset.classes
    if type(classes) is not int or classes < 2:
        raise BadData(f"{dataset.called}: classes is {classes!r}; expected how many there are, 2 or more")
    return classes


def check_loaded(
    loaded: Any, dataset: Dataset, method: Method, seed: int, inferred: bool = False
) -> tuple[Data, nn.Module]:
    """The data and the network that `load` gave for a seed, once they are checked.

    Errors: BadSeed, naming dataset, seed, split, and what is wrong with how much of it.
    """
    complaint = next(complaints(loaded, dataset, method, inferred), None)
    if complaint:
        raise BadSeed(f"{dataset.called}, seed {seed}: {complaint}")
    data, network = loaded
    return data, network


def complaints(loaded: Any, dataset: Dataset, method: Method, inferred: bool) -> Iterator[str]:
    """What is wrong, the most basic first; later checks assume that the earlier ones passed."""
    if not isinstance(loaded, tuple) or [isinstance(part, Data) for part in loaded] != [True, False]:
        yield f"load gave {describe_kind(loaded)}; expected (Data, network)"
    data, network = loaded
    if not isinstance(network, nn.Module):
        yield f"load gave {describe_kind(network)} for a network; expected what build(x) returns"
    yield from data_complaints(data, dataset)
    for name, split in data.splits.items():
        yield from (f"split '{name}': {found}" for found in split_complaints(split, data))
    yield from scale_complaints(data)
    yield from declaration_complaints(data, dataset)
    if "groups" in method.needs and data.train.attribute is None and not data.named and not inferred:
        yield f"{type(method).__name__} needs groups, but the training examples have no attribute to make them from"


def data_complaints(data: Data, dataset: Dataset) -> Iterator[str]:
    """Complaints about the numbers beside the splits, and the splits' names."""
    for name, least in (("classes", 2), ("attributes", 1), ("environments", 0)):
        value = getattr(data, name)
        if type(value) is not int or value < least:
            yield f"load gave Data({name}={value!r}); expected a whole number, {least} or more"
    if data.classes != dataset.classes:
        yield (
            f"load gave Data(classes={data.classes}), the class says {dataset.classes}: write "
            f"`classes: ClassVar[int] = {data.classes}` into class {type(dataset).__name__}, or fix load"
        )
    if not isinstance(data.tests, dict):
        yield f"load gave {describe_kind(data.tests)} for the test splits; expected a dict, name → Split"
    for name in data.tests:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield f"a test split cannot be called {name!r}: expected letters, digits, '_', '-' and '.', not train"
    for name, split in data.splits.items():
        if not isinstance(split, Split):
            yield f"split '{name}' is {describe_kind(split)}; expected a Split"
    yield from named_complaints(data, dataset)


def named_complaints(data: Data, dataset: Dataset) -> Iterator[str]:
    """Complaints about named attributes: what they are called, how many values they have, which make the groups."""
    for name, values in data.named.items():
        if not is_word(name) or not are_values(values):
            yield f"load gave Data(named={{{name!r}: {values!r}}}); expected a name → how many values, or theirs"
    if dataset.named is not None and set(dataset.named) != set(data.named):
        here, there = (", ".join(of) or "none" for of in (data.named, dataset.named))
        yield (
            f"load names the attributes {here}, the class {there}: write `named: ClassVar = {tuple(data.named)}` into "
            f"class {type(dataset).__name__}, or fix load"
        )
    for name in dataset.groups.split(",") if dataset.groups else dataset.grouped_by:
        if name not in data.named:
            yield say_unknown("named attribute to make groups of", name, data.named)
    sizes = {name: len(data.values_of(name)) for name in dataset.group_names(data)}
    if data.classes * prod(sizes.values()) > MOST_GROUPS:
        yield f"{' × '.join(['y', *sizes])} are more than {MOST_GROUPS:,} groups: choose fewer attributes with 'groups'"


def is_word(name: Any) -> bool:
    return isinstance(name, str) and bool(WORD.fullmatch(name))


def are_values(values: Any) -> bool:
    """Whether they are a number of values, or names of some, all different."""
    if not isinstance(values, tuple | list):
        return type(values) is int and values >= 1
    return bool(values) and all(map(is_word, values)) and len(set(values)) == len(values)


def split_complaints(split: Split, data: Data) -> Iterator[str]:
    """Complaints about one split: the form of its inputs, its labels, then what is in its inputs."""
    yield from form_complaints(split.x, data.train.x)
    n = count_inputs(split.x)
    if not n:
        yield "has no examples"
    yield from code_complaints("labels", split.y, n, f"classes={data.classes}", data.classes)
    if (split.attribute is None) != (data.train.attribute is None):
        yield "has an attribute, training has none" if split.attribute is not None else "has no attribute, training has"
    for name, codes in (("attribute", split.attribute), ("environment", split.environment)):
        if codes is not None:
            count = getattr(data, f"{name}s")
            yield from code_complaints(f"{name}s", codes, n, f"{name}s={count}", count)
    yield from further_complaints(split, data, n)
    for what, x, training in tensors_of(split.x, data.train.x):
        yield from input_complaints(what, x, training, n)


def further_complaints(split: Split, data: Data, n: int) -> Iterator[str]:
    """Complaints about the named attributes of a split, and about its subsets."""
    if split.named and split.attribute is not None:
        yield "has an attribute and named ones; give one or the other"
    if split.named.keys() != data.named.keys():
        yield f"names the attributes {', '.join(split.named) or 'none'}, Data {', '.join(data.named) or 'none'}"
    for name, codes in split.named.items():
        count = len(data.values_of(name))
        yield from code_complaints(f"values of '{name}'", codes, n, f"named={{'{name}': {count}}}", count)
    if split.subsets.keys() != data.train.subsets.keys():
        here, there = (", ".join(of.subsets) or "none" for of in (split, data.train))
        yield f"has the subsets {here}, training {there}"
    for name, member in split.subsets.items():
        if not is_word(name):
            yield f"a subset cannot be called {name!r}: expected letters, digits, '_', '-' and '.'"
        if not isinstance(member, Tensor) or member.dtype != torch.bool or member.shape != (n,):
            yield f"the subset '{name}' is {describe_kind(member)}; expected a tensor [{n}] of torch.bool"


def code_complaints(what: str, codes: Any, n: int, declared: str, count: int) -> Iterator[str]:
    """Complaints about codes from 0 to `count` − 1, one for each example."""
    if not isinstance(codes, Tensor) or codes.dtype != torch.int64 or codes.ndim != 1:
        yield f"{what} are {describe_kind(codes)}; expected a tensor [n] of torch.int64"
    if len(codes) != n:
        yield f"{len(codes):,} {what} for {n:,} examples"
    if not count:
        yield f"has {what}, but there are none: Data({declared})"
    outside = ((codes < 0) | (codes >= count)).nonzero()[:, 0]
    if len(outside):
        first = int(outside[0])
        yield (
            f"{len(outside):,} of {n:,} {what} are not in 0..{count - 1}, which Data({declared}) allows; "
            f"that of example {first} is {int(codes[first])}"
        )


def form_complaints(x: Any, training: Any) -> Iterator[str]:
    """Complaints about inputs that are neither a tensor nor tensors by name, the same ones as in training."""
    named = isinstance(x, dict)
    if not named and (not isinstance(x, Tensor) or x.ndim < 2):
        yield f"inputs are {describe_kind(x)}; expected a tensor [n, ...], or a dict of such"
    if named and (not x or not all(isinstance(name, str) and isinstance(x[name], Tensor) for name in x)):
        yield f"inputs are a dict of {', '.join(map(describe_kind, x.values())) or 'nothing'}; expected name → tensor"
    if named and (flat := [name for name in x if not x[name].ndim]):
        yield f"the input '{flat[0]}' is a single number; expected a tensor [n, ...]"
    if named != isinstance(training, dict) or (named and x.keys() != training.keys()):
        yield f"inputs are {describe_form(x)}, those of training {describe_form(training)}"


def tensors_of(x: Inputs, training: Inputs) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What each tensor of the inputs is called in messages, and itself here and in training."""
    if isinstance(x, Tensor) and isinstance(training, Tensor):
        yield "inputs", x, training
    elif isinstance(x, dict) and isinstance(training, dict):
        yield from ((f"inputs '{name}'", part, training[name]) for name, part in x.items())


def input_complaints(what: str, x: Tensor, training: Tensor, n: int) -> Iterator[str]:
    """Complaints about a tensor of the inputs; integers are always finite and are not read."""
    if x.is_complex() or x.is_quantized:
        yield f"{what} are of {x.dtype}; expected floats, torch.uint8 for pixels from 0 to 255, or other integers"
    if is_number(x) != is_number(training):
        yield f"{what} are of {x.dtype}, those of training of {training.dtype}: one is numbers, the other integers"
    if len(x) != n:
        yield f"{len(x):,} {what} for {n:,} examples"
    if x.shape[1:] != training.shape[1:]:
        yield f"{what} have the shape {list(x.shape[1:])} each, those of training {list(training.shape[1:])}"
    if not x.numel():
        yield f"{what} have the shape {list(x.shape[1:])} each: they are empty"
    if x.is_floating_point():
        yield from finite_complaints(what, x)


def is_number(x: Tensor) -> bool:
    """Whether a network is given floats of them: floats are, and bytes, which are pixels."""
    return x.is_floating_point() or x.dtype == torch.uint8


def finite_complaints(what: str, x: Tensor) -> Iterator[str]:
    """A complaint about numbers that are none or infinite, as float32."""
    parts = torch.split(x[:, None], max(1, CHUNK_VALUES // x[0].numel()))
    bad = torch.cat([~part.float().flatten(1).isfinite().all(1) for part in parts]).nonzero()[:, 0]
    if len(bad):
        of = x[bad].float()
        counts = f"{int(of.isnan().sum()):,} NaN, {int(of.isinf().sum()):,} infinite"
        yield (
            f"{len(bad):,} of {len(x):,} {what} hold numbers that are not finite ({counts}), the first is example "
            f"{int(bad[0])}"
        )


def scale_complaints(data: Data) -> Iterator[str]:
    """Complaints about the mean and the deviation of each channel."""
    x = data.train.x
    if isinstance(x, dict) or not is_number(x):
        if (data.mean, data.std) != (Data.mean, Data.std):
            given = f"load gave Data(mean={data.mean!r}, std={data.std!r})"
            yield f"{given}; inputs of the kind {kind_of(x)} are not normalised: leave it out"
        return
    channels = x.shape[1]
    for name, values in (("mean", data.mean), ("std", data.std)):
        if not isinstance(values, tuple) or len(values) not in (1, channels):
            yield f"load gave Data({name}={values!r}); expected a tuple of one number or of {channels}, one per channel"
        if not all(math.isfinite(value) and (value > 0 or name == "mean") for value in values):
            yield f"load gave Data({name}={values!r}); expected finite numbers{', above 0' if name == 'std' else ''}"


def declaration_complaints(data: Data, dataset: Dataset) -> Iterator[str]:
    """Complaints about what the dataset's class declares and the data of this seed lack."""
    train = data.train
    present = set() if train.environment is None else set(train.environment.bincount().nonzero()[:, 0].tolist())
    if "environments" in dataset.provides and not present:
        yield "the class provides environments; the training examples have none"
    if "subsets" in dataset.provides and not train.subsets:
        yield "the class provides subsets; the training examples have none"
    if dataset.held_out and "validation" in data.tests:
        yield f"held_out={dataset.held_out:g}, but load gives a split 'validation' already: leave it out"
    for n in train.environment.bincount().tolist() if train.environment is not None else [len(train.y)]:
        if dataset.held_out and n and not 0 < (held := round(dataset.held_out * n)) < n:
            yield f"held_out={dataset.held_out:g} of {n:,} training examples is {held}: change it"
    if absent := set(range(data.environments)) - present:
        yield f"Data(environments={data.environments}), but no training example is of environment {min(absent)}"
    if data.attributes > 1 and train.attribute is None:
        yield f"Data(attributes={data.attributes}), but the training examples have no attribute"
    grouped = data.attributes * prod(len(data.values_of(name)) for name in dataset.group_names(data))
    if any(not 0 <= group < data.classes * grouped for group in dataset.misleading()):
        there = f"there are 0..{data.classes * grouped - 1}"
        yield f"the class says that groups {dataset.conflicting} are conflicting; {there}"
    for name, split in data.tests.items():
        counts = split.y.bincount(minlength=data.classes) * (train.y.bincount(minlength=data.classes) == 0)
        if len(unseen := counts.nonzero()[:, 0]):
            n, y = int(counts.sum()), ", ".join(map(str, unseen.tolist()))
            yield f"split '{name}': {n:,} of {len(split.y):,} examples have a label that training never has: {y}"
    for name, attack in dataset.attacks().items():
        if attack.split != "train" and attack.split not in data.tests:
            yield f"the attack '{name}' is on split '{attack.split}', which load does not give"
        if isinstance(train.x, dict) or not is_number(train.x):
            yield f"the attack '{name}' changes pixels; these inputs are {describe_form(train.x)}"


def warn_of_copies(data: Data, dataset: Dataset) -> str | None:
    """A warning if examples that are held out are in training, too, by some of each split and where training is small.

    No error: tables and texts have rows that are alike, and published numbers are with them.
    """
    size = sum(part.nbytes for part in tensors_in(data.train.x))
    if dataset.keep_duplicates or size > SMALL or len(data.train.y) > MANY:
        return None
    training, found = set(row_bytes(data.train.x)), []
    for name, split in data.tests.items():
        few = split.take(torch.arange(0, len(split.y), -(-len(split.y) // LOOKED_AT)))
        copies = sum(row in training for row in row_bytes(few.x))
        if copies > FEW * len(few.y):
            found.append(f"{copies:,} of {len(few.y):,} examples of {name}")
    return f"{', '.join(found)} have the inputs of a training example" if found else None


def row_bytes(x: Inputs) -> list[bytes]:
    """The bytes of each example, of all its tensors."""
    parts = [part.contiguous().view(len(part), -1).view(torch.uint8).numpy() for part in tensors_in(x)]
    joined = np.concatenate(parts, 1)
    return [row.tobytes() for row in joined]


def describe_form(x: Inputs) -> str:
    """Inputs in a few words, by what they are made of."""
    return f"a dict of {', '.join(map(str, x))}" if isinstance(x, dict) else describe_kind(x)


def describe_kind(value: Any) -> str:
    """What something is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
