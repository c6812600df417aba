"""One replica in training or trained, as a function from raw inputs to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spurbench.bench.plugins.dataset import Data, Inputs, split_inputs, tensors_in
from spurbench.bench.training.batching import Preprocessing, to_device
from spurbench.bench.training.forward import watched

AT_ONCE = 1 << 25  # numbers of raw inputs that a GPU is given at once to score: 200 pictures of 224 × 224


@torch.no_grad()
def outputs_of(
    networks: Sequence[nn.Module],
    head: nn.Module,  # of the first
    preprocessing: Preprocessing,
    x: Inputs,
    device: torch.device,
    rows: int,  # that pass at once
) -> dict[str, Tensor]:
    """Logits and features of raw inputs, [n] or [n, C] and [n, D], float32 on the CPU, in evaluation mode.

    With a second network there are its `second_logits`, too.
    """
    for network in networks:
        network.to(device).eval()
    parts: dict[str, list[Tensor]] = {}
    for raw in split_inputs(x, rows_at_once(x, rows, device)):
        inputs = preprocessing(to_device(raw, device))
        with watched(head) as given:
            outputs = {"logits": networks[0](inputs), "features": given[0]}
        if len(networks) > 1:
            outputs["second_logits"] = networks[1](inputs)
        for name, output in outputs.items():
            parts.setdefault(name, []).append(output.float().cpu())
    return {name: torch.cat(each) for name, each in parts.items()}


def rows_at_once(x: Inputs, most: int, device: torch.device) -> int:
    """How many examples pass at once: on a GPU fewer than `most` where their activations might not fit.

    Those are taken to be some hundred times a picture, and some thousand times a token's id.
    """
    if device.type == "cpu":
        return most
    sizes = [part[0].numel() * (1 if part.dtype == torch.uint8 or part.is_floating_point() else 1000)
             for part in tensors_in(x) if len(part)]  # fmt: skip
    return max(1, min(most, AT_ONCE // max(1, sum(sizes))))


@dataclass(frozen=True)
class Model:
    """What is evaluated of a replica: its network with the parameters of the moment, and the data it is trained on."""

    seed: int
    data: Data
    network: nn.Module  # the replica's own, or the one that all replicas pass through
    parameters: dict[str, Tensor]  # the replica's own, by name; views that follow every update
    function: Callable[[Inputs], Tensor]  # from preprocessed inputs to logits, in the mode the network is in
    preprocessing: Preprocessing
    device: torch.device
    micro_batch: int  # rows that are scored at once

    @torch.no_grad()
    def score(self, x: Inputs) -> Tensor:
        """Logits [n] or [n, C] of raw inputs [n, ...], float32, in evaluation mode, on the CPU."""
        rows = rows_at_once(x, self.micro_batch, self.device)
        with self.evaluating():
            parts = [self.function(self.preprocessing(to_device(part, self.device))) for part in split_inputs(x, rows)]
            return torch.cat(parts).cpu()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode: dropout off, batch statistics as learnt."""
        self.network.eval()
        try:
            yield
        finally:
            self.network.train()
