"""`data features`: what a network makes of a dataset, kept as embeddings that are known by a name.

They are computed in parts, each a file; if that is killed at any moment, the same command continues with those left.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spurbench.bench.api import dataset_files
from spurbench.bench.api.dataset_check import Plain
from spurbench.bench.core import terminal
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import write_atomically
from spurbench.bench.core.machine import cores, find_devices
from spurbench.bench.jobs.setup import hash_tensors
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.dataset import Data, Split, Training, map_inputs
from spurbench.bench.prepared.prepared_dataset import UNNAMED
from spurbench.bench.prepared.workplace import delete_abandoned, delete_all_but, locked, workplace
from spurbench.bench.tabular.codes import Codes
from spurbench.bench.tabular.own_rows import OwnEmbeddings
from spurbench.bench.tabular.writing import Rows, content_of, prepare_rows
from spurbench.bench.training.replica import Frozen, frozen_network, prepare

TOGETHER = 32  # examples that pass the network at once
IN_PART = 512  # examples of a part
PLAN = "plan.json"


@dataclass(frozen=True)
class Request:
    """What is to be computed: the dataset with its options, the network with its settings, the name of the result."""

    dataset: str
    network: str
    called: str
    sets: Sequence[str] = ()
    seed: int = 0
    device: str = "cpu"


def extract(request: Request) -> str:
    """Compute the features of all splits, or continue that; says what was done.

    Errors: UserError for an unknown name or device, a network that does not take the inputs, or a name that is taken.
    """
    target, device = embeddings_dataset(request.called), torch.device(find_devices(request.device)[0])
    home, here = target.home, target.find()
    frozen, plan = resolve(request)
    work = workplace(home, f"{request.called}.features")
    with locked(work):
        delete_abandoned(work)
        begin(work, plan)
        taken = here is not None and here.facts.get("content") != content_of(work / PLAN)
        if here is None:
            parts = Parts(work, frozen, device)
            parts.compute()
            made = prepare_rows(home, request.called, parts.rows(request, plan), {}, True)
        shutil.rmtree(work)
    if here and taken:
        raise UserError(f"{here.folder} is there already: delete it, or give the features another name with --name")
    said = f"already prepared: {here} ({here.folder})" if here else f"prepared {made} ({made.folder})"
    return f"{said}; run it with --dataset {home} --set {home}.name={request.called}{target.shares_hint()}"


def resolve(request: Request) -> tuple[Frozen, dict[str, Any]]:
    """The network and the data as it takes them, and what decides the features."""
    own, given = dataset_files.split_sets(request.sets)
    dataset = dataset_files.with_options(request.dataset, own)
    training = with_network(dataset.training, {"network": request.network} | given)
    replica = prepare(dataset, Plain(), training, request.seed)
    x = replica.data.train.x
    pictures = isinstance(x, Tensor) and x.ndim == 4
    frozen = frozen_network(replica, training, replica.preprocessing(Plain(), channels_last=pictures))
    weights = hash_tensors(*(part.flatten() for part in frozen.network.state_dict().values()))
    return frozen, {
        "dataset": request.dataset, "options": sorted(own), "data": dataset.checksum(), "seed": request.seed,
        "network": training.network.name, "settings": training.network.settings, "weights": weights,
    }  # fmt: skip


def with_network(training: Training, changes: Mapping[str, Any]) -> Training:
    """A training with another network, of which nothing is set but what is given."""
    others = training.network.settings.keys() | {"network"}
    kept = {name: value for name, value in training.flat().items() if name not in others}
    return Training(**(kept | dict(changes)))


def embeddings_dataset(called: str) -> OwnEmbeddings:
    """The dataset that has embeddings by their names, with this one."""
    usable = [name for name, info in registry.datasets().items() if not info.problem and info.origin == "folder"]
    return next(cls for name in usable if issubclass(cls := registry.load_dataset(name), OwnEmbeddings))(name=called)


def begin(work: Path, plan: Mapping[str, Any]) -> None:
    """Discard what was computed of other data or by another network."""
    text = json.dumps(plan, sort_keys=True, default=str).encode()
    if not (work / PLAN).is_file() or (work / PLAN).read_bytes() != text:
        delete_all_but(work, {"lock"})
        write_atomically(work / PLAN, text)


Part = tuple[Path, Split, slice]
"""The file of a part, and the examples that it is of."""


@dataclass(frozen=True)
class Parts:
    """The features of all splits, in files of IN_PART examples."""

    work: Path
    frozen: Frozen
    device: torch.device

    @cached_property
    def splits(self) -> dict[str, Split]:
        return self.frozen.data.splits

    def files(self) -> Iterator[Part]:
        for name, split in self.splits.items():
            for at in range(0, len(split.y), IN_PART):
                rows = slice(at, min(at + IN_PART, len(split.y)))
                yield self.work / f"{name}-{at:09}.npy", split, rows

    def compute(self) -> None:
        """Compute the parts that are not there, and show the progress."""
        todo = [part for part in self.files() if not part[0].is_file()]
        total = sum(len(split.y) for split in self.splits.values())
        done = total - sum(rows.stop - rows.start for _, _, rows in todo)
        terminal.show_progress("computing features", total, done, self.side_by_side(todo))

    def side_by_side(self, parts: Sequence[Part]) -> Iterator[int]:
        """Compute parts on every core; yields the examples of each."""
        torch.set_num_threads(1)  # several in one network wait for each other
        workers, copies = cores() if self.device.type == "cpu" else 1, SimpleQueue[Frozen]()
        for _ in range(workers):
            copies.put(replace(self.frozen, network=copy.deepcopy(self.frozen.network)))
        make = partial(self.compute_one, copies=copies)
        if workers == 1:
            yield from map(make, parts)
            return
        pool = ThreadPoolExecutor(workers)
        try:
            yield from pool.map(make, parts)
        finally:
            pool.shutdown(cancel_futures=True)

    def compute_one(self, part: Part, copies: SimpleQueue[Frozen]) -> int:
        """Write the file of a part, by a copy of the network that no other thread has; how many examples it is of."""
        file, split, rows = part
        frozen = copies.get()
        write_array(file, frozen.features(map_inputs(lambda of: of[rows], split.x), self.device, TOGETHER))
        copies.put(frozen)
        return int(rows.stop - rows.start)

    def rows(self, request: Request, plan: Mapping[str, Any]) -> Rows:
        """All parts as rows of numbers, one split after another."""
        x = [np.load(file, mmap_mode="r", allow_pickle=False) for file, _, _ in self.files()]
        starts = np.cumsum([0, *(len(part) for part in x)])
        width = x[0].shape[1]

        def make(rows: Any) -> dict[str, Any]:
            part = np.searchsorted(starts, rows, side="right") - 1
            found = np.empty((len(rows), width), np.float32)
            for one in np.unique(part):
                found[part == one] = x[one][rows[part == one] - starts[one]]
            return {"x": found}

        every, data = list(self.splits.values()), self.frozen.data
        place = np.repeat(np.arange(len(every)), [len(split.y) for split in every])
        label = codes_of([split.y for split in every], data.classes)
        return Rows(
            Path(request.dataset), label, attributes_of(data, every), place,
            {"x": ((width,), "float32")}, make, f"embeddings of {terminal.plural(width, 'number')}",
            f"{request.dataset} by {plan['network']}", files=[self.work / PLAN], splits=tuple(self.splits),
        )  # fmt: skip


def write_array(file: Path, values: Tensor) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values.numpy())
    write_atomically(file, buffer.getvalue())


def codes_of(values: Sequence[Tensor], names: int | Sequence[str]) -> Codes:
    """Labels or attributes of all splits, one after another."""
    words = [str(value) for value in range(names)] if isinstance(names, int) else list(names)
    return Codes(torch.cat(list(values)).numpy(), words)


def attributes_of(data: Data, every: Sequence[Split]) -> dict[str, Codes]:
    """The attributes of all splits by name."""
    if data.named:
        return {name: codes_of([split.named[name] for split in every], data.values_of(name)) for name in data.named}
    given = [split.attribute for split in every if split.attribute is not None]
    return {UNNAMED: codes_of(given, data.attributes)} if given else {}
