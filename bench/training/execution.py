"""How to compute, not what: nothing here is part of a run's identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BIG_STEP = 1e9  # floating-point operations; below, handing work to a second thread costs more than it gains
BIG_GPU_STEP = 1e11  # 2 ms at 50 TFLOP/s, about the launch of a few hundred kernels; not measured


@dataclass(frozen=True)
class Options:
    """How to compute, not what: nothing here is part of a run's identity."""

    device: str = "cpu"
    threads: int = 1
    micro_batch: int = 1000  # rows, so that the activations stay in cache; of an MLP in bf16 twice as many
    accumulate: bool = False  # a batch in micro-batches, each forwarded twice, so that one graph at a time is kept
    history: int = 20  # points of the learning curve
    checkpoint_seconds: float = 60.0
    compile: bool = False  # networks for images, by torch.compile


def count_flops(network: Any, x: Any) -> float:
    """Floating-point operations of a step of a network on these inputs, forward and backward; one forward is made.

    Those of its matrices and convolutions are counted by their modules: torch's own counter loads the compiler, two
    seconds. The network stays as it is, and so does torch's random stream.
    """
    import torch

    counted = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal counted
        weight = getattr(module, "weight", None)
        if isinstance(module, torch.nn.Embedding) or not isinstance(output, torch.Tensor):
            return
        if isinstance(weight, torch.Tensor) and weight.ndim > 1:
            counted += 2 * weight.numel() * output.numel() // weight.shape[0]

    training = {module: module.training for module in network.modules()}
    hooks = [module.register_forward_hook(count) for module in training]
    try:
        network.eval()
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
    return 3.0 * counted
