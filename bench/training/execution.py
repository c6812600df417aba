"""How to compute, not what: nothing here is part of a run's identity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How to compute, not what: nothing here is part of a run's identity."""

    device: str = "cpu"
    threads: int = 1
    micro_batch: int = 1000  # rows, so that the activations stay in cache; twice as many in bf16
    accumulate: bool = False  # a batch in micro-batches, each forwarded twice, so that one graph at a time is kept
    history: int = 20  # points of the learning curve
    checkpoint_seconds: float = 60.0
    compile: bool = False  # networks for images, by torch.compile
