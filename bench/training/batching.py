"""What the network gets at each step: rows of the training set as numbers, cut so that they fit the cache.

Axes in names: R replicas (seeds), B examples of the batch, b of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.seeds import stream
from spurbench.bench.plugins.before_training import Draw, inverse_frequency, send
from spurbench.bench.plugins.dataset import Data, Inputs, join_inputs, map_inputs, tensors_in, to_numbers
from spurbench.bench.plugins.training_settings import Minibatches
from spurbench.bench.training.forward import filled_columns, with_one, zeros_together

Pass = int | slice
"""The replicas that go through the network at once, as an index into the axis R: one, or all of them (slice(None))."""
PADDING = 4  # pixels around an image before a random crop of its own size
ON_DEVICE = 1 / 3  # of a GPU's free memory: the most that training inputs may take of it


@dataclass
class MicroBatch:
    """Inputs [b, ...] or [R, b, ...]; only the given columns of flat inputs, where all others are zero."""

    x: Inputs
    columns: Tensor | None = None  # their indices
    rows: Tensor | None = None  # the examples' places [b] in the batch; None: after those of the micro-batch before
    has_one: bool = False  # flat inputs with the last column that plain networks need

    def cut(self, size: int, axis: int) -> list[MicroBatch]:
        """The same in parts of at most `size` examples, which are along an axis."""
        n = tensors_in(self.x)[0].shape[axis]
        return [self.part(slice(at, min(at + size, n)), axis) for at in range(0, n, size)]

    def part(self, of: slice, axis: int) -> MicroBatch:
        x = map_inputs(lambda each: each.narrow(axis, of.start, of.stop - of.start), self.x)
        return replace(self, x=x, rows=None if self.rows is None else self.rows[of])


def generator_for(seed: int, name: str) -> torch.Generator:
    """A generator at the start of a seed's named stream."""
    return torch.Generator().manual_seed(stream(seed, name))


def in_dtype(x: Inputs, dtype: torch.dtype) -> Inputs:
    """Inputs with their floats in another precision; integers stay, whatever their size."""
    if isinstance(x, Tensor):
        return x.to(dtype) if x.is_floating_point() else x
    return {name: part.to(dtype) if part.is_floating_point() else part for name, part in x.items()}


def to_device(x: Inputs, device: torch.device) -> Inputs:
    return map_inputs(lambda part: part.to(device), x)


@dataclass(frozen=True)
class Preprocessing:
    """From raw inputs to what the network sees: to numbers, the method's transform, floats normalised by channel.

    `numbers` is the dataset's own way to the first. With `channels_last` the channels of a pixel lie side by side in
    memory, unless it is a single image.
    """

    transform: Callable[[Any], Any] = lambda x: x
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels_last: bool = False
    numbers: Callable[[Inputs], Inputs] = partial(map_inputs, to_numbers)

    def __call__(self, x: Inputs) -> Inputs:
        found: Inputs = self.transform(self.numbers(x))
        return self.normalize(found) if isinstance(found, Tensor) and found.is_floating_point() else found

    def normalize(self, u: Tensor) -> Tensor:
        """(u − mean) / std of each channel; `u` [b, channels, ...] is in [0, 1]."""
        if self.channels_last and len(u) > 1:
            u = u.contiguous(memory_format=torch.channels_last)
        if self.mean == (0.0,) and self.std == (1.0,):
            return u
        return (u - self.per_channel(u, self.mean)) / self.per_channel(u, self.std)

    def denormalize(self, x: Tensor) -> Tensor:
        """What `normalize` makes `x` of."""
        return x * self.per_channel(x, self.std) + self.per_channel(x, self.mean)

    @staticmethod
    def per_channel(u: Tensor, values: tuple[float, ...]) -> Tensor:
        """One value for each channel of `u`, ready to broadcast."""
        return constant(values, u.dtype, u.device).view(-1, *[1] * (u.ndim - 2))


@cache
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these values, made once: each copy from the host keeps a GPU waiting."""
    return torch.tensor(values, dtype=dtype, device=device)


class Batches:
    """The training inputs of R replicas, step by step; `preprocessing` is each replica's own."""

    def __init__(
        self,
        data: Sequence[Data],
        passes: Sequence[Pass],
        preprocessing: Sequence[Preprocessing],
        device: torch.device,
    ) -> None:
        self.data, self.passes, self.preprocessing, self.device = data, passes, preprocessing, device
        self.steps_per_epoch = [1] * len(data)  # of each replica

    def rows(self, step: int) -> Tensor | None:
        """The rows of the training set that a step sees, [R, B]; None for all of them, in order."""
        return None

    def micro_batches(self, step: int) -> list[list[MicroBatch]]:
        """The inputs of a step, cut into micro-batches, for each pass."""
        raise NotImplementedError

    def replicas_in(self, replicas: Pass) -> list[int]:
        """The indices of the replicas of a pass."""
        return list(range(len(self.data)))[replicas] if isinstance(replicas, slice) else [replicas]


class FullBatch(Batches):
    """Every step sees the whole training set, which is cut and converted once.

    For `plain` networks inputs are flat, with a last column of ones. With `skip_zeros`, rows that are zero in the same
    columns lie together, so that most columns of a micro-batch can be left out: half of the first layer's work on
    Colored MNIST beyond the absent colour.
    """

    def __init__(
        self,
        data: Sequence[Data],
        passes: Sequence[Pass],
        preprocessing: Sequence[Preprocessing],
        device: torch.device,
        size: int,
        dtype: torch.dtype,
        plain: bool,
        skip_zeros: bool,
    ) -> None:
        super().__init__(data, passes, preprocessing, device)
        self.dtype, self.plain, self.skip_zeros = dtype, plain, skip_zeros
        self.parts = [list(self.convert(replicas, size)) for replicas in passes]

    def micro_batches(self, step: int) -> list[list[MicroBatch]]:
        return self.parts

    def convert(self, replicas: Pass, size: int) -> Iterator[MicroBatch]:
        """The micro-batches of a pass."""
        train = [self.data[r].train for r in self.replicas_in(replicas)]
        n, order = len(train[0].y), None
        if self.skip_zeros and size < n and isinstance(replicas, int) and isinstance(train[0].x, Tensor):
            order = zeros_together(train[0].x)
        for at in (slice(start, start + size) for start in range(0, n, size)):
            rows = None if order is None else order[at]
            raw = [map_inputs(itemgetter(at if rows is None else rows), split.x) for split in train]
            yield self.convert_one(replicas, raw, rows)

    def convert_one(self, replicas: Pass, raw: Sequence[Inputs], rows: Tensor | None) -> MicroBatch:
        """A micro-batch; with `skip_zeros` without columns that are zero in all of it."""
        ways = [self.preprocessing[r] for r in self.replicas_in(replicas)]
        inputs = [way(to_device(x, self.device)) for way, x in zip(ways, raw, strict=True)]
        x = join_inputs(torch.stack, inputs) if isinstance(replicas, slice) else inputs[0]
        if not self.plain or not isinstance(x, Tensor):
            return MicroBatch(in_dtype(x, self.dtype))
        x = x.flatten(2 if isinstance(replicas, slice) else 1)
        columns = filled_columns(x) if self.skip_zeros else None
        if columns is not None:
            x, columns = x[..., columns], F.pad(columns, (0, 1), value=x.shape[-1])
        x = with_one(x.to(self.dtype))
        return MicroBatch(x, columns, None if rows is None else rows.to(self.device), has_one=True)


Order = tuple[int, Tensor, Tensor]
"""An epoch, and its rows on the CPU and on the network's device."""


class MiniBatch(Batches):
    """Steps go through the rows that are drawn for each seed and epoch; an incomplete batch is left out.

    The draws follow from seed, epoch and step alone, so that a checkpoint need not hold them.
    """

    def __init__(
        self,
        data: Sequence[Data],
        passes: Sequence[Pass],
        preprocessing: Sequence[Preprocessing],
        device: torch.device,
        sampling: Minibatches,
        seeds: Sequence[int],
        draws: Sequence[Draw],
    ) -> None:
        super().__init__(data, passes, preprocessing, device)
        self.sampling, self.seeds = sampling, seeds
        x = data[0].train.x
        if sampling.augment and (isinstance(x, dict) or x.ndim != 4):
            what = "are several tensors" if isinstance(x, dict) else f"have the shape {list(x.shape[1:])}"
            raise UserError(f"augment={sampling.augment} changes pictures; these inputs {what}")
        self.draws = [complete(draw, d, sampling) for draw, d in zip(draws, data, strict=True)]
        self.size = sampling.batch or len(self.draws[0][0])  # none: all rows at each step
        if sampling.batch is None and any(len(rows) != self.size for rows, _ in self.draws):
            raise ValueError("seeds that train on all of as many rows as each has drawn cannot train together")
        for seed, (rows, _) in zip(seeds, self.draws, strict=True):
            if self.size > len(rows):
                what = "the training set has" if len(rows) == len(data[0].train.y) else "the method trains on"
                raise UserError(
                    f"seed {seed}: a batch of {self.size:,} examples, but {what} {len(rows):,}: "
                    f"`training: {{batch: {len(rows)}}}` or less in this row, or `batch: null` for all of them"
                )
        self.steps_per_epoch = [len(rows) // self.size for rows, _ in self.draws]
        self.orders: list[Order] = [(-1, torch.empty(0), torch.empty(0))] * len(data)
        self.x = move_if_small([d.train.x for d in data], device)

    def rows(self, step: int) -> Tensor:
        return torch.stack([self.rows_of(r, step, self.device) for r in range(len(self.data))])

    def rows_of(self, r: int, step: int, device: torch.device) -> Tensor:
        """The rows that a replica sees at a step, [B], on the CPU or on the network's device."""
        epoch, at = divmod(step, self.steps_per_epoch[r])
        if self.orders[r][0] != epoch:
            order = self.draw_order(r, epoch)
            self.orders[r] = epoch, order, send(order, self.device)
        _, here, there = self.orders[r]
        return (here if device.type == "cpu" else there)[at * self.size : (at + 1) * self.size]

    def draw_order(self, r: int, epoch: int) -> Tensor:
        """The rows of one epoch of a replica in their order, [m]."""
        generator = generator_for(self.seeds[r], f"order {epoch}")
        rows, weights = self.draws[r]
        if weights is None:
            return rows[torch.randperm(len(rows), generator=generator)]
        return rows[torch.multinomial(weights, len(rows), replacement=True, generator=generator)]

    def micro_batches(self, step: int) -> list[list[MicroBatch]]:
        inputs = []
        for r, x in enumerate(self.x):
            raw = map_inputs(lambda part, r=r: take(part, self.rows_of(r, step, part.device), self.device), x)  # type: ignore[misc]
            inputs.append(self.preprocessing[r](self.augment(raw, self.seeds[r], step)))
        return [
            [MicroBatch(join_inputs(torch.stack, inputs) if isinstance(replicas, slice) else inputs[replicas])]
            for replicas in self.passes
        ]

    def augment(self, x: Inputs, seed: int, step: int) -> Inputs:
        """Images [b, channels, height, width] after the protocol's random crops and flips."""
        kinds = (self.sampling.augment or "").split(",")
        if kinds == [""] or not isinstance(x, Tensor):
            return x
        generator = generator_for(seed, f"augment {step}")
        flips = torch.rand(len(x), generator=generator) < (0.5 if "flip" in kinds else 0.0)
        padding = PADDING if "crop" in kinds else 0
        corners = torch.randint(2 * padding + 1, (2, len(x)), generator=generator)
        drawn = send(torch.cat([corners, flips[None]]), x.device)
        return crop_and_flip(x, padding, drawn[:2], drawn[2].bool())


def complete(draw: Draw, data: Data, sampling: Minibatches) -> tuple[Tensor, Tensor | None]:
    """The rows that are trained on, and their weights if they are drawn with replacement.

    With `balanced`, an option of every training, all groups are equally likely.
    """
    n = len(data.train.y)
    rows, weights = torch.arange(n) if draw.rows is None else draw.rows.cpu(), draw.weights
    if sampling.balanced:
        if draw != Draw():
            raise UserError("balanced=true draws the examples, and so does this method: leave it out")
        weights = inverse_frequency(data.train.group(data.attributes))
    return rows, weights


def crop_and_flip(x: Tensor, padding: int, corners: Tensor, flips: Tensor) -> Tensor:
    """Windows of the images' own size at `corners` [2, b] of the images with `padding` black pixels around them.

    Where `flips` [b] is true, left and right change places.
    """
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    rows = corners[0][:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(len(x), width)
    columns = corners[1][:, None] + torch.where(flips[:, None], columns.flip(1), columns)
    example = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[example, channel, rows[:, None, :, None], columns[:, None, None, :]]


def select_rows(x: Inputs, rows: Tensor) -> Inputs:
    """Rows of `x`, each copied as one piece: 7 × as fast as `x[rows]` for memory-mapped images."""
    return map_inputs(lambda part: torch.index_select(part, 0, rows.to(part.device)), x)


def take(part: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Rows of a tensor on the device; those of the host are gathered where a GPU fetches them by itself."""
    if part.device.type == device.type:
        return torch.index_select(part, 0, rows)
    gathered = torch.empty((len(rows), *part.shape[1:]), dtype=part.dtype, pin_memory=True)
    return torch.index_select(part, 0, rows, out=gathered).to(device, non_blocking=True)


def move_if_small(inputs: Sequence[Inputs], device: torch.device) -> list[Inputs]:
    """The replicas' training inputs on the device while there is room for them, those of equal content once.

    Others stay where they are (memory-mapped).
    """
    if device.type == "cpu":
        return list(inputs)
    moved, room = list[Tensor](), torch.cuda.mem_get_info(device)[0] * ON_DEVICE

    def move(part: Tensor) -> Tensor:
        nonlocal room
        if part.nbytes > room:
            return part
        own = part.to(device)
        for other in moved:
            if other.shape == own.shape and other.dtype == own.dtype and torch.equal(other, own):
                return other
        moved.append(own)
        room -= own.nbytes
        return own

    return [map_inputs(move, x) for x in inputs]


def prefers_channels_last(network: nn.Module, device: torch.device) -> bool:
    """Whether images with the channels of a pixel side by side are faster: on a GPU for every convolution, on a CPU
    for narrow ones, whose time is in the pooling (1.7 × for the CIFAR-2 net; VGG-15 would lose a tenth)."""
    widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    return bool(widths) and (device.type == "cuda" or min(widths) < 16)
