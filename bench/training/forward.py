"""Networks by name; weights are drawn from torch's global generator, in the order of the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.training_settings import Mlp, Training, known_network


class MLP(nn.Sequential):
    """ReLU layers on the flattened input; dropout and batch normalisation act before the ReLU."""

    def __init__(self, inputs: int, outputs: int, chosen: Mlp) -> None:
        widths = [inputs, *[chosen.width] * chosen.hidden_layers]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers.append(nn.Linear(before, after))
            if chosen.batch_norm:
                layers.append(nn.BatchNorm1d(after))
            if chosen.dropout:
                layers.append(nn.Dropout(chosen.dropout))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers, nn.Linear(widths[-1], outputs))
        self.plain = not (chosen.hidden_layers and (chosen.batch_norm or chosen.dropout))
        if chosen.init == "xavier":
            self.apply(xavier)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B] for one output, [B, C] for more, of inputs [B, ...]."""
        z: Tensor = super().forward(x.flatten(1))  # type: ignore[no-untyped-call]
        return z[:, 0] if z.shape[1] == 1 else z


def xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def build(shape: Sequence[int], outputs: int, training: Training) -> nn.Module:
    """The network of a training for inputs of `shape` (no batch axis) and this many logits.

    Errors: UserError for an unknown name, with the nearest one.
    """
    chosen = training.network
    try:
        known_network(chosen.name)
    except ValueError as error:
        raise UserError(str(error)) from None
    if isinstance(chosen, Mlp):
        return MLP(prod(shape), outputs, chosen)
    from spurbench.bench.training import convnets

    if len(shape) != 3:
        raise UserError(f"the network {chosen.name} takes pictures; these inputs have the shape {list(shape)}")
    return convnets.build(shape, outputs, chosen)


Leaves = dict[str, Tensor]
Pullback = Callable[[Tensor, Leaves], Leaves]
"""From d loss / d logits to the gradients of the parameters, by name; call it once.

It may write them into the tensors of its second argument. Those not named in the answer are where they belong.
"""


def forward(network: nn.Module, leaves: Leaves, x: Tensor, stacked: bool, amp: bool) -> tuple[Tensor, Pullback]:
    """Logits of `x` under the parameters `leaves`, and the way back from them.

    `stacked`: parameters, inputs and logits have a leading axis of replicas; if not, `leaves` are the network's own.
    A plain MLP is differentiated by hand, in place and without a graph (twice as fast for small layers); any other
    network by autograd, in bf16 where that is safe if `amp`.
    """
    if is_plain(network):
        return relu_layers(leaves, x.flatten(2 if stacked else 1))
    with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
        return traced(network, leaves, x) if stacked else called(network, x)


def is_plain(network: nn.Module) -> bool:
    return isinstance(network, MLP) and network.plain


def relu_layers(leaves: Leaves, x: Tensor) -> tuple[Tensor, Pullback]:
    """Affine layers with ReLU between them, on inputs [..., b, features]; `leaves` alternate weight and bias."""
    names = list(leaves)
    layers = list(zip(names[::2], names[1::2], strict=True))
    inputs, z = [], x
    for weight, bias in layers:
        inputs.append(z)
        z = affine(z, leaves[weight], leaves[bias])
        if weight != names[-2]:
            rectify(z)

    def pullback(slope: Tensor, into: Leaves) -> Leaves:
        grads, g = {}, slope[..., None] if z.shape[-1] == 1 else slope
        for (weight, bias), h in zip(reversed(layers), reversed(inputs), strict=True):
            # the product whose result has fewer rows: thin ones are several times faster that way round
            thin = h.shape[-1] < g.shape[-1]
            grads[weight] = (h.mT @ g).mT if thin else torch.matmul(g.mT, h, out=into.get(weight))
            if into and thin:
                into[weight].copy_(grads[weight])
            grads[bias] = torch.sum(g, -2, out=into.get(bias))
            if h is not x:
                g = g @ leaves[weight]
                rectify_slope(g, h)
        return {} if into else grads

    return z[..., 0] if z.shape[-1] == 1 else z, pullback


def rectify(z: Tensor) -> None:
    """ReLU in place. The bits of bf16 taken as whole numbers have the same sign; torch's takes longer."""
    z.view(torch.int16).clamp_(min=0) if z.dtype == torch.bfloat16 else z.relu_()


def rectify_slope(g: Tensor, h: Tensor) -> None:
    """Set `g` to zero where the ReLU's output `h` is, in place."""
    if g.dtype == torch.bfloat16:
        g.view(torch.int16).mul_(h.view(torch.int16).clamp(max=1))
    else:
        torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.ndim == 2:
        return torch.addmm(bias, x, weight.T)
    return torch.baddbmm(bias[:, None], x, weight.mT)


def called(network: nn.Module, x: Tensor) -> tuple[Tensor, Pullback]:
    """The same for one replica's own network; its gradients are added to those the parameters have."""
    with torch.enable_grad():
        z: Tensor = network(x)

    def pullback(slope: Tensor, into: Leaves) -> Leaves:
        z.backward(slope)  # type: ignore[no-untyped-call]
        return {}

    return z.detach(), pullback


def traced(network: nn.Module, leaves: Leaves, x: Tensor) -> tuple[Tensor, Pullback]:
    """The same for stacked replicas of any network without buffers."""

    def logits(own: Leaves, inputs: Tensor) -> Tensor:
        found: Tensor = functional_call(network, own, (inputs,))
        return found

    with torch.enable_grad():
        traced_leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
        z: Tensor = vmap(logits)(traced_leaves, x)

    def pullback(slope: Tensor, into: Leaves) -> Leaves:
        grads = torch.autograd.grad(z, list(traced_leaves.values()), slope)
        return dict(zip(traced_leaves, grads, strict=True))

    return z.detach(), pullback


def prefers_channels_last(network: nn.Module, device: torch.device) -> bool:
    """Whether pictures with the channels of a pixel side by side are faster: on a GPU for every convolution, on a CPU
    for narrow ones, whose time is in the pooling (1.7 × for the CIFAR-2 net; VGG-15 would lose a tenth)."""
    widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    return bool(widths) and (device.type == "cuda" or min(widths) < 16)


def first_layer(network: nn.Module) -> str | None:
    """Name of the weight that multiplies the flat input, if there is one: zero inputs can skip its columns."""
    return "0.weight" if isinstance(network, MLP) else None
