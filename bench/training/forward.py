"""A forward pass of one micro-batch and the way back from it, by autograd: of one network, or of several by vmap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import Inputs

Tensors = dict[str, Tensor]
"""Parameters or their gradients, by name."""
Backward = Callable[[Tensor, Tensor | None, Tensors], Tensors]
"""From d loss / d logits, and d loss / d features if there is one, to the gradients of the parameters, by name.

Call it once. It may write them into the tensors of its last argument. Those not named in the answer are where they
belong.
"""


class Output(NamedTuple):
    """What a forward pass gives of a micro-batch, and the way back."""

    logits: Tensor
    features: Tensor | None  # what the head is given, flat, [b, D] or [R, b, D]
    backward: Backward


class OneLogit(nn.Module):
    """A network whose single output is a logit, [B] instead of [B, 1]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Inputs) -> Tensor:
        z: Tensor = self.body(x)
        if z.shape[1:] != (1,):
            raise UserError(f"the network gives logits of the shape {list(z.shape)}, not [{len(z)}, 1] as it was to")
        return z[:, 0]


def by_autograd(network: nn.Module, x: Inputs, head: nn.Module | None) -> Output:
    """One replica's own network, and the way back, which adds to the gradients its parameters have."""
    with torch.enable_grad(), watched(head) as given:
        z: Tensor = network(x)

    def backward(gradient: Tensor, of_features: Tensor | None, into: Tensors) -> Tensors:
        pairs = [(z, gradient)] if of_features is None else [(z, gradient), (given[0], of_features)]
        pairs = [(output, slope) for output, slope in pairs if output.requires_grad]
        torch.autograd.backward([output for output, _ in pairs], [slope for _, slope in pairs])
        return {}

    return Output(z.detach(), given[0].detach() if head else None, backward)


def lifted(network: nn.Module, parameters: Tensors, fixed: Tensors, x: Inputs, head: nn.Module | None) -> Output:
    """Stacked replicas of any network without buffers, and the way back, by autograd; `fixed` parameters have none."""

    def outputs(own: Tensors, fixed: Tensors, inputs: Inputs) -> tuple[Tensor, ...]:
        with watched(head) as given:
            found: Tensor = functional_call(network, own | fixed, (inputs,))
        return (found, *given)

    with torch.enable_grad():
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        found = vmap(outputs)(leaves, fixed, x)

    def backward(gradient: Tensor, of_features: Tensor | None, into: Tensors) -> Tensors:
        slopes = [gradient] if of_features is None else [gradient, of_features]
        pairs = [(output, slope) for output, slope in zip(found, slopes, strict=False) if output.requires_grad]
        gradients = torch.autograd.grad(
            [output for output, _ in pairs], list(leaves.values()), [g for _, g in pairs], materialize_grads=True
        )
        return dict(zip(leaves, gradients, strict=True))

    return Output(found[0].detach(), found[1].detach() if head else None, backward)


@contextmanager
def watched(head: nn.Module | None) -> Iterator[list[Tensor]]:
    """What a head is given inside the block, flat; of no head nothing."""
    given: list[Tensor] = []
    if head is None:
        yield given
        return
    handle = head.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].flatten(1)))
    try:
        yield given
    finally:
        handle.remove()
