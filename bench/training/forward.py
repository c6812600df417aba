"""A forward pass of one micro-batch and the way back from it, in three ways: by hand, by autograd, lifted by vmap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import Inputs
from spurbench.bench.training.networks.mlp import Layers

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


def is_plain(network: nn.Module) -> bool:
    """Whether a network is affine layers with ReLU between them, all trained, which `by_hand` differentiates."""
    body = network.body if isinstance(network, OneLogit) else network
    return isinstance(body, Layers) and body.plain and all(p.requires_grad for p in body.parameters())


def first_weight(network: nn.Module, features: bool) -> str | None:
    """Name of the weight that multiplies the flat input, if zero inputs can skip its columns.

    They cannot where `features` are wanted and the inputs are those, as a linear model's are.
    """
    names = [name for name, _ in network.named_parameters()]
    return names[0] if is_plain(network) and not (features and len(names) == 2) else None


def by_hand(parameters: Tensors, x: Tensor) -> Output:
    """A plain network on inputs [..., b, inputs], and the way back, in place and without a graph.

    `parameters` alternate weight and bias. Twice as fast as autograd for small layers.
    """
    names = list(parameters)
    layers = list(zip(names[::2], names[1::2], strict=True))
    inputs, z = [], x
    for weight, bias in layers:
        inputs.append(z)
        z = affine(z, parameters[weight], parameters[bias])
        if weight != names[-2]:
            relu_(z)

    def backward(gradient: Tensor, of_features: Tensor | None, into: Tensors) -> Tensors:
        found, g = {}, gradient[..., None] if z.shape[-1] == 1 else gradient
        for (weight, bias), h in zip(reversed(layers), reversed(inputs), strict=True):
            # the product whose result has fewer rows: thin ones are several times faster that way round
            thin = h.shape[-1] < g.shape[-1]
            found[weight] = (h.mT @ g).mT if thin else torch.matmul(g.mT, h, out=into.get(weight))
            if into and thin:
                into[weight].copy_(found[weight])
            found[bias] = torch.sum(g, -2, out=into.get(bias))
            if h is not x:
                g = g @ parameters[weight]
                if of_features is not None and h is inputs[-1]:
                    g += of_features
                relu_backward_(g, h)
        return {} if into else found

    return Output(z[..., 0] if z.shape[-1] == 1 else z, inputs[-1], backward)


def relu_(z: Tensor) -> None:
    """ReLU in place. The bits of bf16 taken as whole numbers have the same sign; torch's takes longer."""
    z.view(torch.int16).clamp_(min=0) if z.dtype == torch.bfloat16 else z.relu_()


def relu_backward_(g: Tensor, h: Tensor) -> None:
    """Set `g` to zero where the ReLU's output `h` is, in place."""
    if g.dtype == torch.bfloat16:
        g.view(torch.int16).mul_(h.view(torch.int16).clamp(max=1))
    else:
        torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x Wᵀ + b, of one replica or of each of a stack."""
    if x.ndim == 2:
        return torch.addmm(bias, x, weight.T)
    return torch.baddbmm(bias[:, None], x, weight.mT)


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
