"""XRM, cross-risk minimisation: twin networks, each trained on half of the examples, find what each other gets wrong.

Source: Pezeshki, Bouchacourt, Ibrahim, Ballas, Vincent and Lopez-Paz, "Discovering Environments with XRM", ICML 2024,
arXiv 2309.16748, algorithm 1: an example's label turns into what the twin that never trains on it predicts, with a
probability that grows with that twin's confidence.
Needs: a second network of the same architecture, stable example indices, random numbers. The scores of this row are the
first twin's; what it is for are the groups it infers: `groups: {from: xrm}`.
Differs: which half an example belongs to is drawn when it is first seen.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Method, Problem, Seen, class_logits, means


@dataclass(frozen=True)
class XRM(Method):
    needs: ClassVar[frozenset[str]] = frozenset({"second network", "index", "random numbers"})

    def init_state(self, problem: Problem) -> dict[str, Tensor]:
        unseen = torch.full((problem.examples,), -1, device=problem.device)
        return {"half": unseen, "y": unseen.clone()}

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        assert batch.second_logits is not None and batch.index is not None and batch.random is not None
        at, classes = batch.index, batch.problem.classes
        first = state["half"][at] == -1
        half = torch.where(first, (batch.random < 0.5).long(), state["half"][at])
        y = torch.where(first, batch.y, state["y"][at])
        own, other = class_logits(logits), class_logits(batch.second_logits)
        held_in = torch.where(half[:, None] == 0, own, other)
        confidence, predicted = torch.where(half[:, None] == 0, other, own).detach().softmax(1).max(1)
        flips = (2 * batch.random) % 1 < flip_probability(confidence, classes)
        state["half"] = state["half"].scatter(0, at, half)
        state["y"] = state["y"].scatter(0, at, torch.where(flips, predicted, y))
        return class_risks(held_in, y, classes)

    def infer(self, seen: Seen, generator: torch.Generator) -> Tensor:
        assert seen.second_logits is not None
        second = class_logits(seen.second_logits).argmax(1)
        return (seen.errors | (second != seen.y)).long()


def flip_probability(confidence: Tensor, classes: int) -> Tensor:
    """How likely a label is to be flipped: 0 for a guess, 1 for certainty."""
    return (confidence - 1 / classes) * classes / (classes - 1)


def class_risks(logits: Tensor, y: Tensor, classes: int) -> Tensor:
    """The mean cross-entropy of each class, added up."""
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    return means(losses, y, classes).filled(0.0).sum()
