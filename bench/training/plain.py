"""Networks of affine layers with ReLU between them, differentiated by hand, in place and without a graph.

Such a layer is one matrix: an input that is always one has the bias as its weights, and every hidden layer has a unit
that hands the one on. So no bias is copied into a result or summed out of a gradient, a tenth of a step. Hidden layers
are filled up with units that are always zero, to a size that is faster to multiply.

Axes: R replicas, b examples of a micro-batch, o outputs and i inputs of a layer with those added here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spurbench.bench.training.forward import OneLogit, Output, Tensors
from spurbench.bench.training.networks.mlp import Layers

TILE = 8  # units of a hidden layer: products of a multiple of it are faster


def is_plain(network: nn.Module) -> bool:
    """Whether a network is affine layers with ReLU between them, all trained."""
    body = network.body if isinstance(network, OneLogit) else network
    return isinstance(body, Layers) and body.plain and all(p.requires_grad for p in body.parameters())


class Matrices:
    """The layers of R plain networks, and the gradients by them, in the order of `names`, their weights.

    `layers` [R, o, i] are in the precision of the forward pass, `gradients` in float32.
    """

    def __init__(self, parameters: Tensors, dtype: torch.dtype) -> None:
        names = list(parameters)  # weight and bias by turns
        self.layers: Tensors = {}
        self.gradients: Tensors = {}
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}  # by parameter: where its values and its gradients are
        self.features = parameters[names[-2]].shape[-1]  # what the last layer is given, without what is added here
        size = parameters[names[0]].shape[-1] + 1
        for weight, bias in zip(names[::2], names[1::2], strict=True):
            replicas, units, inputs = parameters[weight].shape
            rows = -(-(units + 1) // TILE) * TILE if weight != names[-2] else units
            layer = parameters[weight].new_zeros((replicas, rows, size), dtype=dtype)
            layer[:, units : units + 1, inputs] = 1  # what hands the one on; the last layer has no such unit
            gradient = torch.zeros_like(layer, dtype=torch.float32)
            self.parts[weight] = layer[:, :units, :inputs], gradient[:, :units, :inputs]
            self.parts[bias] = layer[:, :units, inputs], gradient[:, :units, inputs]
            self.layers[weight], self.gradients[weight], size = layer, gradient, rows

    def fill(self, parameters: Tensors) -> None:
        """Take over the parameters as they are now."""
        for name, (values, _) in self.parts.items():
            values.copy_(parameters[name])

    def give(self, gradients: Tensors) -> None:
        """Write the gradients by the parameters."""
        for name, (_, values) in self.parts.items():
            gradients[name].copy_(values)


def with_one(x: Tensor) -> Tensor:
    """Flat inputs [..., i - 1] with the one that the bias is multiplied by."""
    return F.pad(x, (0, 1), value=1.0)


def by_hand(layers: Tensors, x: Tensor, features: int) -> Output:
    """A plain network on inputs [..., b, i], and the way back; the last layer has so many inputs by itself."""
    inputs, z = [], x
    for i, layer in enumerate(layers.values()):
        if i:
            relu_(z)
        inputs.append(z)
        z = z @ layer.mT

    def backward(gradient: Tensor, of_features: Tensor | None, into: Tensors) -> Tensors:
        found, g = {}, gradient[..., None] if z.shape[-1] == 1 else gradient
        for (name, layer), h in zip(reversed(layers.items()), reversed(inputs), strict=True):
            # the product whose result has fewer rows: thin ones are several times faster that way round
            thin = h.shape[-1] < g.shape[-1]
            found[name] = (h.mT @ g).mT if thin else torch.matmul(g.mT, h, out=into.get(name))
            if into and thin:
                into[name].copy_(found[name])
            if h is not x:
                g = g * layer if layer.shape[-2] == 1 else g @ layer  # a product with one row takes 3 × as long
                if of_features is not None and h is inputs[-1]:
                    g[..., :features] += of_features
                relu_backward_(g, h)
        return {} if into else found

    return Output(z[..., 0] if z.shape[-1] == 1 else z, inputs[-1][..., :features], backward)


def relu_(z: Tensor) -> None:
    """ReLU in place. The bits of bf16 taken as whole numbers have the same sign; torch's takes longer."""
    z.view(torch.int16).clamp_(min=0) if z.dtype == torch.bfloat16 else z.relu_()


def relu_backward_(g: Tensor, h: Tensor) -> None:
    """Set `g` to zero where the ReLU's output `h` is, in place; `h` is of no use afterwards."""
    if g.dtype == torch.bfloat16:
        g.view(torch.int16).mul_(h.view(torch.int16).clamp_(max=1))
    else:
        torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
