"""A forward pass of one micro-batch and the way back from it: by hand, by autograd, or lifted by vmap.

By hand are affine layers with ReLU between them, in place and without a graph. Such a layer is one matrix: an input
that is always one has the bias as its weights, and every hidden layer has a unit that hands the one on. So no bias is
copied into a result or summed out of a gradient, a tenth of a step. Hidden layers are filled up with units that are
always zero, to a size that is faster to multiply.

Of a network with one logit, v · max(0, W h), the last layer is left out on the way back: with G, the sum over examples
of d loss / d logit · [W h > 0] hᵀ, the gradient with respect to W is diag(v) G and that of v the row sums of W ∘ G.
Only in float32: for inputs far from zero these sums cancel, which bf16 cannot afford.

Axes: R replicas, b examples of a micro-batch, o outputs and i inputs of a layer with those added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import Inputs
from spurbench.bench.training.networks.mlp import Layers

UNIT_TILE, INPUT_TILE = 8, 16  # hidden units, columns of the input: products of a multiple of it are faster
THIN = 16  # rows or columns: products of thinner matrices are left to torch
ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # where torch was built with it
ALIGNED = 64  # numbers; torch's tensors begin at multiples of 64 bytes
Tensors = dict[str, Tensor]
"""Parameters or their gradients, by name."""
Backward = Callable[[Tensor, Tensor | None], Tensors]
"""From d loss / d logits, and d loss / d features if there is one, to the gradients of the parameters, by name.

Call it once.
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
    """Whether a network is affine layers with ReLU between them, all trained."""
    body = network.body if isinstance(network, OneLogit) else network
    return isinstance(body, Layers) and body.plain and all(p.requires_grad for p in body.parameters())


class Matrices:
    """The layers [R, o, i] of R plain networks, and their gradients, each under the name of its weight.

    `layers` are in the precision of the forward pass, `gradients` in float32. `derives_last`: the last layer's gradient
    is made from that of the layer before, see above; not where the loss depends on features, too.
    """

    def __init__(self, parameters: Tensors, dtype: torch.dtype, uses_features: bool) -> None:
        names = list(parameters)  # weight and bias by turns
        self.layers: Tensors = {}
        self.gradients: Tensors = {}
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}  # by parameter: where its values and its gradients are
        self.features = parameters[names[-2]].shape[-1]  # what the last layer is given, without what is added here
        size = parameters[names[0]].shape[-1] + 1
        for weight, bias in zip(names[::2], names[1::2], strict=True):
            replicas, units, inputs = parameters[weight].shape
            rows = -(-(units + 1) // UNIT_TILE) * UNIT_TILE if weight != names[-2] else units
            layer, gradient = (aligned_zeros(parameters[weight], rows, size, kind) for kind in (dtype, torch.float32))
            layer[:, units : units + 1, inputs] = 1  # what hands the one on; the last layer has no such unit
            self.parts[weight] = layer[:, :units, :inputs], gradient[:, :units, :inputs]
            self.parts[bias] = layer[:, :units, inputs], gradient[:, :units, inputs]
            self.layers[weight], self.gradients[weight], size = layer, gradient, rows
        self.derives_last = dtype == torch.float32 and len(names) > 2 and units == 1 and not uses_features

    def fill(self, parameters: Tensors) -> None:
        """Take over the parameters as they are now."""
        for name, (values, _) in self.parts.items():
            values.copy_(parameters[name])

    def give(self, gradients: Tensors) -> None:
        """Write the gradients of the parameters."""
        if self.derives_last:
            hidden, last = list(self.layers)[-2:]
            torch.sum(self.layers[hidden] * self.gradients[hidden], -1, out=self.gradients[last][:, 0])
            self.gradients[hidden] *= self.layers[last].mT
        for name, (_, values) in self.parts.items():
            gradients[name].copy_(values)


def aligned_zeros(like: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Zeros [R, o, i] for replicas like those [R, ...] of a tensor, each where a tensor of its own could begin.

    Kernels add up in another order where memory is aligned otherwise, and seeds together are to equal seeds alone.
    They are column-major, so that columns are selected fast.
    """
    stride = -(-rows * columns // ALIGNED) * ALIGNED
    return like.new_zeros((len(like), stride), dtype=dtype)[:, : rows * columns].view(len(like), columns, rows).mT


def with_one(x: Tensor) -> Tensor:
    """Flat inputs [..., i - 1] with the one that the bias is multiplied by."""
    return F.pad(x, (0, 1), value=1.0)


def filled_columns(x: Tensor) -> Tensor | None:
    """The columns of flat inputs [..., b, i] that are not all zero, and some to fill up the last tile; None: all."""
    filled = x.reshape(-1, x.shape[-1]).any(0)
    kept = -(-(int(filled.sum()) + 1) // INPUT_TILE) * INPUT_TILE - 1  # the ones are a column, too
    return None if kept >= len(filled) else filled.byte().argsort(stable=True, descending=True)[:kept].sort().values


def zeros_together(x: Tensor) -> Tensor:
    """An order [n] of examples [n, ...]: by which channels are all zero, then by the rarest column that is not."""
    filled = x.flatten(1) != 0
    rarest = filled[:, filled.sum(0).argsort(stable=True)].byte().argmax(1)
    channels = x.flatten(2).any(2) if x.ndim > 2 else filled.any(1, keepdim=True)
    alike: Tensor = torch.unique(channels, dim=0, return_inverse=True)[1]
    return (alike * filled.shape[1] + rarest).argsort(stable=True)


def by_hand(layers: Tensors, x: Tensor, features: int, derives_last: bool) -> Output:
    """A plain network on inputs [..., b, i], and the way back; the last layer has so many inputs by itself.

    With `derives_last` the way back omits the last layer's gradient, and leaves that layer's weights out of the
    gradient of the one before; `Matrices.give` makes up for both. It overwrites the last activations.
    """
    inputs, z = [], x
    for i, layer in enumerate(layers.values()):
        if i:
            relu_(z)
        inputs.append(z)
        z = product(z, layer)

    def backward(gradient: Tensor, of_features: Tensor | None) -> Tensors:
        found, g = {}, gradient[..., None] if z.shape[-1] == 1 else gradient
        names, last = list(layers), None
        if derives_last:
            h, last = inputs.pop(), layers[names.pop()]
            g = relu_backward(g.expand_as(h), h, h)
        for name, h in zip(reversed(names), reversed(inputs), strict=True):
            # results with fewer rows: thin products are several times faster that way round
            found[name] = product(h.mT, g.mT).mT if h.shape[-1] <= g.shape[-1] else product(g.mT, h.mT)
            if h is not x:
                g = product(g, (layers[name] if last is None else layers[name] * last.mT).mT)
                if of_features is not None and h is inputs[-1]:
                    g[..., :features] += of_features
                relu_backward(g, h, g)
                last = None
        return found

    return Output(z[..., 0] if z.shape[-1] == 1 else z, inputs[-1][..., :features], backward)


def product(x: Tensor, w: Tensor) -> Tensor:
    """`x @ w.mT` of [..., m, k] and [..., n, k].

    On CPUs in float32 by oneDNN: torch leaves such products to MKL, which does not use AVX-512 on AMD processors and
    takes 2.2 × as long there.
    """
    thin = min(*x.shape, *w.shape) < THIN
    if thin or x.ndim > 2 or x.dtype != torch.float32 or x.device.type != "cpu" or ONEDNN is None:
        return x @ w.mT
    z: Tensor = ONEDNN(x, w, None, "none", [], "")
    return z


def relu_(z: Tensor) -> None:
    """ReLU in place; NaN in bf16 may become 0: its bits are taken as whole numbers, which is faster than torch's."""
    z.view(torch.int16).clamp_(min=0) if z.dtype == torch.bfloat16 else z.relu_()


def relu_backward(g: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """`g`, but zero where the ReLU's output `h` is; `out` may be either. Bits of bf16 as whole numbers are faster."""
    whole = g.dtype == torch.bfloat16
    g, h, given = (part.view(torch.int16) if whole else part for part in (g, h, out))
    torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=given)
    return out


def by_autograd(network: nn.Module, parameters: Tensors, x: Inputs, head: nn.Module | None) -> Output:
    """One replica's own network, and the way back to the parameters of it that are trained."""
    with torch.enable_grad(), watched(head) as given:
        z: Tensor = network(x)
    return differentiable((z, *given), parameters)


def lifted(network: nn.Module, parameters: Tensors, fixed: Tensors, x: Inputs, head: nn.Module | None) -> Output:
    """Stacked replicas of any network, and the way back, by autograd; `fixed`: untrained parameters, and buffers.

    Errors: ValueError for a network that puts another tensor in a buffer's place: in the stack it would be lost.
    """

    def outputs(own: Tensors, fixed: Tensors, inputs: Inputs) -> tuple[Tensor, ...]:
        tensors = own | fixed
        with watched(head) as given:
            found: Tensor = functional_call(network, tensors, (inputs,))
        if replaced := [name for name, tensor in fixed.items() if tensors[name] is not tensor]:
            raise ValueError(f"the network replaces its buffer {replaced[0]}: change it in place")
        return (found, *given)

    with torch.enable_grad():
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        found = vmap(outputs)(leaves, fixed, x)
    return differentiable(found, leaves)


def differentiable(outputs: tuple[Tensor, ...], parameters: Tensors) -> Output:
    """Logits, and features if there are any, of a graph, and the way back through it."""

    def backward(*slopes: Tensor | None) -> Tensors:
        pairs = [(z, slope) for z, slope in zip(outputs, slopes, strict=False) if z.requires_grad and slope is not None]
        gradients = torch.autograd.grad(
            [z for z, _ in pairs], list(parameters.values()), [slope for _, slope in pairs], materialize_grads=True
        )
        return dict(zip(parameters, gradients, strict=True))

    logits, *features = (output.detach() for output in outputs)
    return Output(logits, features[0] if features else None, backward)


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
