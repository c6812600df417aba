"""What the network gets at each step: rows of the training set as scaled pixels, cut so that they fit the cache.

Axes in names: R replicas (seeds), B examples of the batch, b of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.seeds import stream
from spurbench.bench.plugins.dataset import Data, Split
from spurbench.bench.plugins.training_settings import Minibatches

Lane = int | slice
"""What passes through the network at once: one replica (its index on the axis R), or all of them (slice(None))."""
PADDING = 4  # pixels around a picture before a random crop of its own size
ON_DEVICE = 4 << 30  # bytes of training inputs of one seed that are kept on a GPU


@dataclass
class Chunk:
    """A micro-batch: inputs [b, ...] or [R, b, ...] and, where all other columns are zero, the live ones."""

    x: Tensor
    live: slice | None = None


def drawn_from(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream(seed, name))


def unit(x: Tensor) -> Tensor:
    """Raw inputs as float32, bytes scaled to [0, 1]."""
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x.float()


@dataclass(frozen=True)
class Pixels:
    """From raw inputs to what the network sees: bytes to [0, 1], the method's transform, the dataset's scale.

    With `channels_last` the channels of a pixel lie side by side in memory, unless it is a single picture.
    """

    transform: Callable[[Tensor], Tensor]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels_last: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        return self.scaled(self.transform(unit(x)))

    def scaled(self, u: Tensor) -> Tensor:
        """(u − mean) / std of each channel; `u` [b, channels, ...] is in [0, 1]."""
        if self.channels_last and len(u) > 1:
            u = u.contiguous(memory_format=torch.channels_last)
        if self.mean == (0.0,) and self.std == (1.0,):
            return u
        return (u - self.each(u, self.mean)) / self.each(u, self.std)

    def unscaled(self, x: Tensor) -> Tensor:
        """What `scaled` makes `x` of."""
        return x * self.each(x, self.std) + self.each(x, self.mean)

    @staticmethod
    def each(u: Tensor, values: tuple[float, ...]) -> Tensor:
        """One value for each channel of `u`."""
        return u.new_tensor(values).view(-1, *[1] * (u.ndim - 2))


class Batches:
    """The training inputs of R replicas, lane by lane."""

    def __init__(self, data: Sequence[Data], lanes: Sequence[Lane], pixels: Pixels, device: torch.device) -> None:
        self.data, self.lanes, self.pixels, self.device = data, lanes, pixels, device

    def rows(self, step: int) -> Tensor | None:
        """The rows of the training set that a step sees, [R, B]; None for all of them, in order."""
        return None

    def chunks(self, step: int) -> list[list[Chunk]]:
        """The inputs of a step, cut into micro-batches, for each lane."""
        raise NotImplementedError

    def of(self, lane: Lane) -> list[int]:
        """The replicas of a lane."""
        return list(range(len(self.data)))[lane] if isinstance(lane, slice) else [lane]


class Whole(Batches):
    """Every step sees the whole training set: cut and converted once."""

    def __init__(
        self,
        data: Sequence[Data],
        lanes: Sequence[Lane],
        pixels: Pixels,
        device: torch.device,
        size: int,
        dtype: torch.dtype,
        flat: bool,
    ) -> None:
        super().__init__(data, lanes, pixels, device)
        self.dtype, self.flat = dtype, flat
        rows = len(data[0].train.y)
        self.cut = [[self.chunk(lane, slice(at, at + size)) for at in range(0, rows, size)] for lane in lanes]

    def chunks(self, step: int) -> list[list[Chunk]]:
        return self.cut

    def chunk(self, lane: Lane, rows: slice) -> Chunk:
        """A micro-batch; if the network takes flat inputs, without the columns that are zero in all of it."""
        inputs = [self.pixels(self.data[r].train.x[rows].to(self.device)) for r in self.of(lane)]
        x = torch.stack(inputs) if isinstance(lane, slice) else inputs[0]
        if not self.flat:
            return Chunk(x.to(self.dtype))
        x = x.flatten(2 if isinstance(lane, slice) else 1)
        columns = x.reshape(-1, x.shape[-1]).any(0).nonzero()[:, 0]
        live = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 1)
        whole = live == slice(0, x.shape[-1])
        return Chunk(x[..., live].to(self.dtype).contiguous(), None if whole else live)


class Mini(Batches):
    """Steps go through the training set in an order drawn for each seed and epoch; an incomplete batch is left out.

    With `balanced` an epoch is as many draws with replacement as there are examples, every group equally likely. The
    draws follow from seed, epoch and step alone, so that a checkpoint need not hold them.
    """

    def __init__(
        self,
        data: Sequence[Data],
        lanes: Sequence[Lane],
        pixels: Pixels,
        device: torch.device,
        sampling: Minibatches,
        seeds: Sequence[int],
    ) -> None:
        super().__init__(data, lanes, pixels, device)
        self.sampling, self.seeds = sampling, seeds
        self.size, examples, shape = sampling.batch or 1, len(data[0].train.y), data[0].train.x.shape[1:]
        if self.size > examples:
            raise UserError(f"a batch of {self.size} examples, but the training set has {examples}: a smaller 'batch'")
        if sampling.augment and len(shape) != 3:
            raise UserError(f"augment={sampling.augment} changes pictures; these inputs have the shape {list(shape)}")
        self.epoch_steps = examples // self.size
        self.order: tuple[int, Tensor] = -1, torch.empty(0)
        self.x = [kept(d.train.x, device) for d in data]

    def rows(self, step: int) -> Tensor:
        epoch, at = divmod(step, self.epoch_steps)
        if self.order[0] != epoch:
            drawn = [
                self.draw(d.train, d.attributes, seed, epoch) for d, seed in zip(self.data, self.seeds, strict=True)
            ]
            self.order = epoch, torch.stack(drawn)
        return self.order[1][:, at * self.size : (at + 1) * self.size]

    def draw(self, train: Split, attributes: int, seed: int, epoch: int) -> Tensor:
        """The order of one epoch, [n]."""
        generator = drawn_from(seed, f"order {epoch}")
        if not self.sampling.balanced:
            return torch.randperm(len(train.y), generator=generator)
        group = train.group(attributes)
        weights = 1.0 / group.bincount()[group]
        return torch.multinomial(weights, len(group), replacement=True, generator=generator)

    def chunks(self, step: int) -> list[list[Chunk]]:
        rows = self.rows(step)
        inputs = [
            self.pixels(self.changed(taken(x, rows[r]).to(self.device, non_blocking=True), self.seeds[r], step))
            for r, x in enumerate(self.x)
        ]
        return [
            [Chunk(torch.stack([inputs[r] for r in self.of(lane)]) if isinstance(lane, slice) else inputs[lane])]
            for lane in self.lanes
        ]

    def changed(self, x: Tensor, seed: int, step: int) -> Tensor:
        """Pictures [b, channels, height, width] after the protocol's random changes."""
        kinds = (self.sampling.augment or "").split(",")
        if kinds == [""]:
            return x
        generator = drawn_from(seed, f"augment {step}")
        flips = torch.rand(len(x), generator=generator) < (0.5 if "flip" in kinds else 0.0)
        reach = PADDING if "crop" in kinds else 0
        corners = torch.randint(2 * reach + 1, (2, len(x)), generator=generator)
        return cropped(x, reach, corners.to(x.device), flips.to(x.device))


def cropped(x: Tensor, reach: int, corners: Tensor, flips: Tensor) -> Tensor:
    """Windows of the pictures' own size at `corners` [2, b] of the pictures with `reach` black pixels around them.

    Where `flips` [b] is true, left and right change places.
    """
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (reach,) * 4)
    rows = corners[0][:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(len(x), width)
    columns = corners[1][:, None] + torch.where(flips[:, None], columns.flip(1), columns)
    example = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[example, channel, rows[:, None, :, None], columns[:, None, None, :]]


def taken(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of `x`, each copied as one piece: 7 × as fast as `x[rows]` for memory-mapped pictures."""
    return torch.index_select(x, 0, rows.to(x.device))


def kept(x: Tensor, device: torch.device) -> Tensor:
    """Training inputs where rows are taken from: on the device if they fit, else where they are (memory-mapped)."""
    return x.to(device) if x.numel() * x.element_size() <= ON_DEVICE else x
