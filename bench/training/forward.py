"""A forward pass of one micro-batch and the way back from it, in three ways: by hand, by autograd, lifted by vmap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spurbench.bench.training.networks.mlp import Layers

Tensors = dict[str, Tensor]
"""Parameters or their gradients, by name."""
Backward = Callable[[Tensor, Tensors], Tensors]
"""From d loss / d logits to the gradients of the parameters, by name; call it once.

It may write them into the tensors of its second argument. Those not named in the answer are where they belong.
"""


class OneLogit(nn.Module):
    """A network whose single output is a logit, [B] instead of [B, 1]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.body(x)
        return z[:, 0]


def is_plain(network: nn.Module) -> bool:
    """Whether a network is affine layers with ReLU between them, which `by_hand` differentiates."""
    body = network.body if isinstance(network, OneLogit) else network
    return isinstance(body, Layers) and body.plain


def first_weight(network: nn.Module) -> str | None:
    """Name of the weight that multiplies the flat input, if there is one: zero inputs can skip its columns."""
    return next(iter(dict(network.named_parameters()))) if is_plain(network) else None


def by_hand(parameters: Tensors, x: Tensor) -> tuple[Tensor, Backward]:
    """Logits of a plain network on inputs [..., b, features] and the way back, in place and without a graph.

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

    def backward(gradient: Tensor, into: Tensors) -> Tensors:
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
                relu_backward_(g, h)
        return {} if into else found

    return z[..., 0] if z.shape[-1] == 1 else z, backward


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


def by_autograd(network: nn.Module, x: Tensor) -> tuple[Tensor, Backward]:
    """Logits of one replica's own network and the way back, which adds to the gradients its parameters have."""
    with torch.enable_grad():
        z: Tensor = network(x)

    def backward(gradient: Tensor, into: Tensors) -> Tensors:
        z.backward(gradient)  # type: ignore[no-untyped-call]
        return {}

    return z.detach(), backward


def lifted(network: nn.Module, parameters: Tensors, x: Tensor) -> tuple[Tensor, Backward]:
    """Logits [R, b] or [R, b, C] of stacked replicas of any network without buffers, and the way back, by autograd."""

    def logits(own: Tensors, inputs: Tensor) -> Tensor:
        found: Tensor = functional_call(network, own, (inputs,))
        return found

    with torch.enable_grad():
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        z: Tensor = vmap(logits)(leaves, x)

    def backward(gradient: Tensor, into: Tensors) -> Tensors:
        gradients = torch.autograd.grad(z, list(leaves.values()), gradient)
        return dict(zip(leaves, gradients, strict=True))

    return z.detach(), backward
