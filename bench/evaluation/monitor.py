"""What is recorded of replicas while they train: learning curves, counts on the held-out splits, and divergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from msgspec import convert, to_builtins
from torch import Tensor

from spurbench.bench.evaluation import counting
from spurbench.bench.records.record import Look
from spurbench.bench.training.engine import Engine, Observer, Step


@dataclass
class Progress:
    """What has been recorded of one replica so far."""

    history: list[dict[str, Any]] = field(default_factory=list)  # points of the learning curve
    evaluations: list[Look] = field(default_factory=list)  # counts on the held-out splits
    logits: dict[str, Tensor] = field(default_factory=dict)  # of the same splits, by `split@step`
    diverged: int | None = None  # the step at which it was noticed


class Monitor(Observer):
    """Records the progress of every replica; training ends early once all of them have diverged."""

    def __init__(self, replicas: int) -> None:
        self.progress = [Progress() for _ in range(replicas)]

    def after_step(self, engine: Engine, step: Step) -> None:
        training = engine.training
        if (engine.step - 1) % interval(engine) == 0:
            self.extend_history(engine, step)
        if training.evaluate and engine.step % training.evaluate == 0:
            self.evaluate(engine)

    def extend_history(self, engine: Engine, step: Step) -> None:
        """Add a point to the learning curve of each replica, and detect those that have diverged."""
        at = engine.step - 1
        right = [share_right(z, y) for z, y in zip(step.logits, step.labels, strict=True)]  # of the step's batch
        losses, accuracies = torch.stack([torch.stack(step.losses).double(), torch.stack(right)]).tolist()
        for r, (progress, loss) in enumerate(zip(self.progress, losses, strict=True)):
            if progress.diverged is not None or not isfinite(loss):
                progress.diverged = at if progress.diverged is None else progress.diverged
                continue
            point = {"step": at, "loss": loss, "train_accuracy": accuracies[r]}
            model = engine.model(r)
            test = model.data.tests.get("test")
            if test and not engine.training.evaluate:
                point["test_accuracy"] = share_right(model.score(test.x), test.y).item()
            progress.history.append(point)

    def evaluate(self, engine: Engine) -> None:
        """Score every held-out split, so that a selection rule may choose a step afterwards."""
        for r, progress in enumerate(self.progress):
            if progress.diverged is None:
                model = engine.model(r)
                logits = {name: model.score(split.x) for name, split in model.data.tests.items()}
                counts = counting.count_splits(logits, model.data.tests, model.data)
                if not all(isfinite(one.loss_sum + one.entropy_sum) for one in counts.values()):
                    progress.diverged = engine.step
                    continue
                progress.evaluations.append(Look(engine.step, counts))
                progress.logits |= {f"{name}@{engine.step}": z for name, z in logits.items()}

    def gives_up(self) -> bool:
        return all(progress.diverged is not None for progress in self.progress)

    def after_training(self, engine: Engine) -> None:
        for r, progress in enumerate(self.progress):
            if progress.diverged is None and not engine.is_finite(r):
                progress.diverged = engine.step

    def state(self, r: int) -> dict[str, Any]:
        progress = self.progress[r]
        return vars(progress) | {"evaluations": to_builtins(progress.evaluations)}

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        self.progress = [
            Progress(**state | {"evaluations": convert(state["evaluations"], list[Look])}) for state in states
        ]


def interval(engine: Engine) -> int:
    """Steps between two points of a learning curve."""
    return max(1, engine.training.steps // engine.options.history)


def share_right(logits: Tensor, y: Tensor) -> Tensor:
    """The share of correct predictions, a scalar of double precision."""
    return (counting.predict(logits) == y).double().mean()
