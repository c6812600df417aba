"""R replicas of one network: their parameters, and the forward and backward passes that fill the gradients.

Axes in names: R replicas, B examples of the batch, b of a micro-batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from spurbench.bench.core.seeds import stream
from spurbench.bench.plugins.dataset import Inputs
from spurbench.bench.training import forward
from spurbench.bench.training.batching import MicroBatch, Pass, in_dtype
from spurbench.bench.training.forward import Matrices, Output, Tensors


@dataclass
class ForwardPass:
    """A forward pass of a replica, or of all if they are stacked: what each micro-batch gave, and the way back."""

    inputs: list[MicroBatch]
    outputs: list[Output]
    axis: int  # of the examples in a micro-batch's logits

    def logits(self) -> Tensor:
        """The logits of the whole batch, float32, [B] or [B, C], with R before it if stacked."""
        return self.join([part.logits for part in self.outputs])

    def features(self) -> Tensor:
        """What the head is given of the whole batch, float32, [B, D], with R before it if stacked."""
        return self.join([part.features for part in self.outputs if part.features is not None])

    def join(self, parts: list[Tensor]) -> Tensor:
        """What micro-batches gave, in the order of the batch."""
        joined = torch.cat(parts, self.axis).float() if len(parts) > 1 else parts[0].detach().float()
        rows = [part.rows for part in self.inputs if part.rows is not None]
        return torch.empty_like(joined).index_copy_(0, torch.cat(rows), joined) if rows else joined

    def split(self, gradient: Tensor) -> Sequence[Tensor]:
        """The gradient with respect to what was joined, cut into those of the micro-batches."""
        rows = [part.rows for part in self.inputs if part.rows is not None]
        if rows:
            return [gradient[own] for own in rows]
        sizes = [part.logits.shape[self.axis] for part in self.outputs]
        return torch.split(gradient, sizes, self.axis) if len(sizes) > 1 else [gradient]


RandomState = tuple[Tensor, Tensor | None]
"""The states of the CPU's random numbers and, if there is one, the GPU's."""


class Noise:
    """The random numbers that networks draw themselves, as dropout does: each replica goes on with those of its seed.

    They are drawn from torch's own generators, which are handed from replica to replica, unless the first forward pass
    draws nothing. Replicas that pass all at once must draw nothing.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.drawn: bool | None = None  # None: not known yet
        self.states: list[RandomState] = []
        for seed in seeds:
            torch.manual_seed(stream(seed, "training"))
            self.states.append(self.now())

    def now(self) -> RandomState:
        return torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def put(self, state: RandomState) -> None:
        """Let torch's generators draw next what they drew after `now` gave this state."""
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], self.device)

    def restore(self, states: Sequence[RandomState]) -> None:
        """Go on from such states, wherever they were loaded to."""
        self.states = [(cpu.cpu(), None if cuda is None else cuda.cpu()) for cpu, cuda in states]

    @contextmanager
    def again(self, state: RandomState) -> Iterator[None]:
        """What is drawn inside the block has been drawn before, from this state on."""
        now = self.now()
        self.put(state)
        yield
        self.put(now)

    @contextmanager
    def of(self, replicas: Pass) -> Iterator[None]:
        """What is drawn inside the block is drawn for a replica."""
        if self.drawn is False or isinstance(replicas, slice):
            yield
            return
        before = self.states[replicas]
        self.put(before)
        yield
        self.states[replicas] = after = self.now()
        if self.drawn is None:
            pairs = zip(before, after, strict=True)
            self.drawn = any(a is not None and b is not None and not torch.equal(a, b) for a, b in pairs)


class ReplicaStack:
    """R replicas of one network; `parameters` are those that require gradients, and they and `gradients` are [R, ...].

    On a CPU the replicas pass through networks of their own, one by one, so that their activations stay in cache and
    none depends on the others; `stacked` ones pass through one network all at once.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        device: torch.device,
        stacked: bool,
        low: torch.dtype | None,  # precision of the forward pass, if it is not float32
        noise: Noise,
        accumulate: bool,  # see Options
        heads: Sequence[nn.Module] = (),  # the networks' own, if features are wanted
    ) -> None:
        self.device, self.noise, self.accumulate = device, noise, accumulate
        self.heads: Sequence[nn.Module | None] = heads or [None] * len(networks)
        self.networks = [network.to(device).train() for network in networks]
        self.stacked, self.axis = stacked, 1 if stacked else 0
        self.passes: list[Pass] = [slice(None)] if stacked else list(range(len(networks)))
        self.parameters = stack_parameters(self.networks, trained=True)
        self.fixed = stack_parameters(self.networks, trained=False) if stacked else {}
        self.buffers = stack_buffers(self.networks) if stacked else {}
        self.gradients = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.grad = self.gradients[name]
        if not stacked:
            self._share_memory()
        self.dtype, self.autocast, self.matrices = torch.float32, low, None
        multiplied, summed = self.parameters, self.gradients
        if forward.is_plain(self.networks[0]):
            self.dtype, self.autocast = low or torch.float32, None
            self.matrices = Matrices(self.parameters, self.dtype, bool(heads))
            multiplied, summed = self.matrices.layers, self.matrices.gradients
        self.views, self.gradient_views = by_pass(multiplied, self.passes), by_pass(summed, self.passes)
        if not stacked and not self.matrices:
            self.views = [{name: network.get_parameter(name) for name in self.parameters} for network in self.networks]
        self.skips_zeros = self.matrices is not None and not (heads and len(multiplied) == 1)  # features are inputs

    def _share_memory(self) -> None:
        """Let the parameters of each replica's own network be views of the stacked ones."""
        for r, network in enumerate(self.networks):
            for name in self.parameters:
                network.get_parameter(name).data = self.parameters[name][r]

    def compile(self) -> None:
        """Compile the networks, where they are called at all: a plain one is differentiated by hand."""
        if not self.stacked and not self.matrices:
            asked = torch.are_deterministic_algorithms_enabled()
            torch.use_deterministic_algorithms(asked, warn_only=True)  # this loads the compiler and tells it
            for network in self.networks:
                network.compile()

    def begin_step(self) -> None:
        """What comes before the passes of a step: its parameters stay as they are until `end_step`."""
        if self.matrices:
            self.matrices.fill(self.parameters)

    def end_step(self) -> None:
        """What comes after them: from now on `gradients` are those of the loss."""
        if self.matrices:
            self.matrices.give(self.gradients)

    def forward(self, i: int, inputs: list[MicroBatch]) -> ForwardPass:
        """The forward pass of replica `i`, or of all, micro-batch by micro-batch."""
        one = self._forward_twice if self.accumulate else self._forward_one
        with self.noise.of(self.passes[i]):
            outputs = [one(self.networks[i], self.heads[i], self.views[i], part) for part in inputs]
        return ForwardPass(inputs, outputs, self.axis)

    def _forward_one(self, network: nn.Module, head: nn.Module | None, parameters: Tensors, part: MicroBatch) -> Output:
        """What a micro-batch gives."""
        if self.matrices:
            return self._forward_plain(self.matrices, parameters, part)
        x = in_dtype(part.x, self.dtype)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            if self.stacked:
                return forward.lifted(network, parameters, self.fixed | self.buffers, x, head)
            return forward.by_autograd(network, parameters, x, head)

    def _forward_plain(self, matrices: Matrices, layers: Tensors, part: MicroBatch) -> Output:
        """What a micro-batch gives; columns of the first layer that meet only zeros are left out."""
        assert isinstance(part.x, Tensor)
        if part.columns is not None:
            first = next(iter(layers))
            layers = layers | {first: layers[first].mT.index_select(-2, part.columns).mT}
        x = part.x if part.has_one else forward.with_one(part.x.flatten(self.axis + 1).to(self.dtype))
        return forward.by_hand(layers, x, matrices.features, matrices.derives_last)

    def _forward_twice(self, *given: Any) -> Output:
        """What a micro-batch gives, without its graph: that is made again when its turn in the backward pass comes."""
        state, output = self.noise.now(), self._forward_one(*given)

        def backward(gradient: Tensor, of_features: Tensor | None) -> Tensors:
            with self.noise.again(state):
                output = self._forward_one(*given)
            return output.backward(gradient, of_features)

        return Output(output.logits, output.features, backward)

    def backward(self, i: int, done: ForwardPass, by_logits: Tensor, by_features: Tensor | None) -> None:
        """The way back of a pass, given the gradients with respect to its logits and, if the loss uses them, features.

        Each micro-batch is handed its slice; gradients are summed in float32.
        """
        gradients, whole = self.gradient_views[i], len(done.inputs) == 1 and done.inputs[0].columns is None
        if not whole:
            torch._foreach_zero_(list(gradients.values()))
        slopes = done.split(by_logits)
        of_heads = [None] * len(slopes) if by_features is None else done.split(by_features)
        # backwards: the last micro-batches are still in cache
        for part, output, slope, of_head in reversed(
            list(zip(done.inputs, done.outputs, slopes, of_heads, strict=True))
        ):
            if of_head is not None and output.features is not None:
                of_head = of_head.to(output.features.dtype)
            found = output.backward(slope.to(output.logits.dtype), of_head)
            if part.columns is not None:
                first = next(iter(gradients))
                gradients[first].mT.index_add_(-2, part.columns, found.pop(first).mT.float())
            put = torch._foreach_copy_ if whole else torch._foreach_add_
            if found:
                put([gradients[name] for name in found], list(found.values()))

    def function(self, r: int) -> Callable[[Inputs], Tensor]:
        """Replica `r` from preprocessed inputs to logits, in the mode its network is in."""
        if not self.stacked:
            return self.networks[r]
        network, parameters = self.networks[r], self.all_parameters_of(r)
        return lambda x: functional_call(network, parameters, (x,))

    def tensors_of(self, r: int) -> Tensors:
        """Parameters and buffers of one replica, by name; views."""
        return self.parameters_of(r) | dict(self.networks[r].named_buffers())

    def parameters_of(self, r: int) -> Tensors:
        return {name: parameter[r] for name, parameter in self.parameters.items()}

    def all_parameters_of(self, r: int) -> Tensors:
        """Also those of one replica that do not require gradients; in the order of its network."""
        own = {name: parameter.detach() for name, parameter in self.networks[r].named_parameters()}
        return own | {name: parameter[r] for name, parameter in (self.parameters | self.fixed).items()}

    def _by_kind(self, r: int) -> dict[str, Tensors]:
        """Parameters and buffers of one replica, as they are."""
        return {"parameters": self.all_parameters_of(r), "buffers": dict(self.networks[r].named_buffers())}

    def state(self, r: int) -> dict[str, Any]:
        """Parameters and buffers (batch statistics and the like) of one replica."""
        return {
            kind: {name: value.clone() for name, value in tensors.items()} for kind, tensors in self._by_kind(r).items()
        }

    @torch.no_grad()
    def restore(self, r: int, state: dict[str, Any]) -> None:
        """Copy such a state of a replica back."""
        for kind, tensors in self._by_kind(r).items():
            for name, value in state[kind].items():
                tensors[name].copy_(value)


def stack_parameters(networks: Sequence[nn.Module], trained: bool) -> Tensors:
    """The parameters of networks that require gradients, or those that do not, [R, ...]."""
    names = [name for name, parameter in networks[0].named_parameters() if parameter.requires_grad == trained]
    return {name: torch.stack([network.get_parameter(name).detach() for network in networks]) for name in names}


def stack_buffers(networks: Sequence[nn.Module]) -> Tensors:
    """The buffers of networks, [R, ...]; from now on those of each network are views of them."""
    buffers = [dict(network.named_buffers()) for network in networks]
    stacked = {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
    for r, own in enumerate(buffers):
        for name, buffer in own.items():
            buffer.data = stacked[name][r]
    return stacked


def by_pass(tensors: Tensors, passes: Sequence[Pass]) -> list[Tensors]:
    """What each pass has of tensors [R, ...]: views, so that they follow every update."""
    return [{name: tensor[replicas] for name, tensor in tensors.items()} for replicas in passes]


def may_stack(networks: Sequence[nn.Module], device: torch.device) -> bool:
    """Whether replicas can go through the network all at once on a device where that may pay: a GPU, no dropout."""
    noisy = any(isinstance(module, _DropoutNd) and module.p for module in networks[0].modules())
    return device.type != "cpu" and len(networks) > 1 and not noisy


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether what it makes of an example depends on the batch: buffers that are saved with it are taken for that."""
    return not {name for name, _ in network.named_buffers()}.isdisjoint(network.state_dict())
