"""From a trained replica to the counts, measures and predictions of its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from statistics import median
from typing import Any

import torch

from spurbench.bench.core.seeds import stream
from spurbench.bench.evaluation import counting
from spurbench.bench.evaluation.monitor import Progress
from spurbench.bench.jobs.recording import fail, finish
from spurbench.bench.plugins.dataset import Attack, Data, Dataset, Pgd, Score, Split
from spurbench.bench.records.record import Curve, Record
from spurbench.bench.store import artifacts, predictions
from spurbench.bench.store.store import Store
from spurbench.bench.training.model import Model


def score_random_guess(record: Record, data: Data, dataset: Dataset) -> Record:
    """The record of a reference row that predicts uniformly at random."""
    parts = [counting.parts_of(name, split, data) for name, split in data.splits.items()]
    counts = {name: counting.count_random_guess(split, data) for of in parts for name, (split, _) in of.items()}
    return finish(described(record, data, dataset).with_(status="done", cause=None, splits=counts))


def described(record: Record, data: Data, dataset: Dataset) -> Record:
    """The record with what it says of the data: how many classes and attributes there are, and which groups."""
    return record.with_(
        classes=data.classes, attributes=data.attributes, groups=data.groups, conflicting=list(dataset.misleading())
    )


def score(
    record: Record,
    model: Model,
    whole: Model,
    marked: torch.Tensor | None,
    progress: Progress,
    dataset: Dataset,
    store: Store,
    tick: Callable[[], None],
    hold: Callable[[], None],
) -> Record:
    """The complete record of a trained replica: counts of every split, further measures, predictions kept.

    `marked` are training examples that the run took to be of minorities, [n] bool.
    `whole` is the model on the dataset's own inputs: another one where only a last layer was trained, on features.
    `tick` is called during long work and may raise to stop it, `hold` before anything is written.
    """
    data, score = model.data, model.score
    record = described(record, data, dataset).with_(history=progress.history)
    if progress.diverged is not None:
        return fail(record, "diverged", f"loss or weights not finite at step {progress.diverged}")
    logits = {name: score(split.x) for name, split in data.splits.items()}
    counts = counting.count_splits(logits, data.splits, data)
    if off := [name for name, split in counts.items() if not isfinite(split.loss_sum + split.entropy_sum)]:
        return fail(record, "diverged", f"the loss on {', '.join(off)} is not finite")
    measures, curves = finite(dataset.measures(whole.score, whole.data)), dict[str, Curve]()
    if attacks := dataset.attacks():
        found, curves = attacked(whole, attacks, tick)
        for split, values in found.items():
            measures[split] = measures.get(split, {}) | values
    measures = with_agreement(measures, marked, dataset, whole.data)
    drawn = make_drawings(dataset, whole.score, whole.data)
    hold()
    store.withdraw_record(record.id)  # of an earlier time that it was done, and what is kept beside it
    artifacts.delete_arrays(store, record.id)
    artifacts.save_arrays(store, record.id, drawn)
    kept = keep_predictions(record.id, progress.logits | logits, data, store)
    record = record.with_(splits=counts, looks=progress.evaluations, measures=measures, curves=curves, predictions=kept)
    return finish(record.with_(status="done", cause=None))


def with_agreement(
    measures: dict[str, dict[str, float]], marked: torch.Tensor | None, dataset: Dataset, data: Data
) -> dict[str, dict[str, float]]:
    """The measures and, where a run marked examples as of minorities, how many, and how rightly by the true groups.

    Minorities are the groups whose attribute misleads about their label, as the dataset says; where it does not, those
    of a class that are smaller than its largest.
    """
    if marked is None:
        return measures
    found = {"marked": int(marked.sum())} | measures.get("train", {})
    if data.train.attribute is not None:
        group = data.train.group(data.attributes)
        sizes = group.bincount(minlength=len(data.groups)).view(data.classes, -1)
        smaller = (sizes < sizes.amax(1, keepdim=True)).flatten().nonzero()[:, 0]
        rare = torch.isin(group, torch.tensor(dataset.misleading() or smaller.tolist()))
        both = (rare & marked).sum().item()
        found |= {"marked_precision": both / max(1, int(marked.sum())), "marked_recall": both / max(1, int(rare.sum()))}
    return measures | {"train": found}


def finite(measures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """A dataset's measures, known to be numbers; a record could not hold others."""
    for split, values in measures.items():
        for name, value in values.items():
            if not isfinite(value):
                raise ValueError(f"the measure {name} of {split} is {value}: a measure is a number, or is left out")
    return measures


def attacked(
    model: Model, wanted: Mapping[str, Attack], tick: Callable[[], None]
) -> tuple[dict[str, dict[str, float]], dict[str, Curve]]:
    """How a trained replica stands up to the dataset's attacks: split → measure → value, and the margins' curves.

    A curve gives how many images are flipped by perturbations of at most each thousandth of the pixels' scale. Of a
    network that most images never flip there is no median margin.
    """
    from spurbench.bench.evaluation import attacks

    target = attacks.Target(model.function, model.preprocessing, model.device)
    data, measures, curves = model.data, dict[str, dict[str, float]](), dict[str, Curve]()
    with model.evaluating():
        for name, how in wanted.items():
            split = data.train if how.split == "train" else data.tests[how.split]
            if isinstance(how, Pgd):
                correct = attacks.correct_after_pgd(target, split.x, split.y, how, stream(model.seed, name), tick)
                value = correct.double().mean().item()
            else:
                sizes = attacks.find_margins(target, split.x, split.y, how, tick)
                value = median(sizes.tolist())
                flipped = [(sizes <= at / 1000).sum().item() for at in range(1001)]
                curves[name] = Curve(how.split, len(sizes), flipped)
            if isfinite(value):
                measures.setdefault(how.split, {})[name] = value
    return measures, curves


def make_drawings(dataset: Dataset, score: Score, data: Data) -> dict[str, Any]:
    """The dataset's drawings of a trained network, in half precision."""
    return {name: value.half().numpy() for name, value in dataset.drawings(score, data).items()}


def keep_predictions(run_id: str, logits: Mapping[str, torch.Tensor], data: Data, store: Store) -> str:
    """Keep the logits of every split, with what its examples are; their path in the store."""
    labels = {name: labels_of(split, data) for name, split in data.splits.items()}
    return predictions.keep(store, run_id, {name: z.numpy() for name, z in logits.items()}, labels)


def labels_of(split: Split, data: Data) -> predictions.Labels:
    """What the examples of a split are, as it is kept beside their logits."""
    index = None if split.index is None else split.index.numpy()
    return predictions.Labels(split.y.numpy(), split.group(data.attributes).numpy(), index)
