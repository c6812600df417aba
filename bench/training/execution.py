"""How to compute, not what: nothing here is part of a run's identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BIG_STEP = 1e9  # floating-point operations; below, handing work to a second thread costs more than it gains
BIG_GPU_STEP = 1e11  # at 50 TFLOP/s as long as a few hundred kernels take to launch; not measured


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


def count_flops(network: Any, x: Any) -> float:
    """Floating-point operations of a step of a network on these inputs, forward and backward; one forward is made.

    The network stays as it is, and so does torch's random stream.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x)
    finally:
        for module, was in training.items():
            module.training = was
    return 3.0 * int(counter.get_total_flops())
