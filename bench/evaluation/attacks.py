"""Attacks on a trained network: projected gradient descent, and the smallest disturbance that flips a picture.

Pictures `u` [n, channels, height, width] are in [0, 1]; a network is a function from what it sees to logits, and how
an attack is mounted says where the dataset's normalisation comes in. Sizes of disturbances are on the pixels' scale.

Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv 1706.06083; the
search for margins as in Foolbox 2's projected gradient descent, which the paper's Figure 2 used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from spurbench.bench.evaluation.counting import losses, predictions
from spurbench.bench.plugins.dataset import Margins, Pgd
from spurbench.bench.training.batching import Preprocessing, to_float

Logits = Callable[[Tensor], Tensor]
Tick = Callable[[], None]
"""Called now and then during long work; may raise to stop it."""
LEAST = 1e-12  # so that a gradient of zero has a direction of zero


@dataclass(frozen=True)
class Target:
    """A trained network in evaluation mode, and the scale of what it sees."""

    network: Logits
    preprocessing: Preprocessing
    device: torch.device = torch.device("cpu")

    def mounted(self, u: Tensor) -> Tensor:
        """Logits of pictures in [0, 1], through the normalisation the network was trained with."""
        return self.network(self.preprocessing.normalize(u))


def slopes(logits: Logits, u: Tensor, y: Tensor, gradient: str = "loss") -> tuple[Tensor, Tensor]:
    """Logits of `u`, and with respect to `u` the gradient of the summed cross-entropy, or of the summed `lead`."""
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        z = logits(u)
        each = lead(z, y) if gradient == "logits" else losses(z, y)
        (slope,) = torch.autograd.grad(each.sum(), u)
    return z.detach(), slope


def lead(z: Tensor, y: Tensor) -> Tensor:
    """How far the best wrong logit is above the right one, [n]; its slope stays where that of the loss vanishes."""
    if z.ndim == 1:
        return (1 - 2 * y) * z
    right = F.one_hot(y, z.shape[1]).bool()
    return z.masked_fill(right, -torch.inf).amax(1) - z[right]


def pgd(logits: Logits, u: Tensor, y: Tensor, how: Pgd, generator: torch.Generator | None = None) -> Tensor:
    """Pictures within `how.eps` of `u` after `how.steps` steps uphill in the loss, in [0, 1].

    Errors: ValueError for a negative eps or step (see Pgd).
    """
    x = u.clone()
    if how.random_start:
        noise = torch.rand(u.shape, generator=generator).to(u) * 2 - 1
        x = projected(u + how.eps * noise, u, how)
    for _ in range(how.steps):
        x = projected(x + how.step * direction(slopes(logits, x, y)[1], how.norm), u, how)
    return x


def direction(slope: Tensor, norm: str) -> Tensor:
    """The step of length 1 in the norm that raises the loss most."""
    if norm == "inf":
        return slope.sign()
    unit: Tensor = slope / lengths(slope).clamp(min=LEAST)
    return unit


def lengths(x: Tensor) -> Tensor:
    """L2 norm of each picture, ready to divide by."""
    size: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return size.view(-1, *[1] * (x.ndim - 1))


def projected(x: Tensor, u: Tensor, how: Pgd) -> Tensor:
    """The nearest pictures within eps of `u` and in [0, 1]."""
    change = x - u
    if how.norm == "inf":
        change = change.clamp(-how.eps, how.eps)
    else:
        change = change * (how.eps / lengths(change).clamp(min=LEAST)).clamp(max=1)
    return (u + change).clamp(0, 1)


def right_after_pgd(target: Target, x: Tensor, y: Tensor, how: Pgd, seed: int, tick: Tick) -> Tensor:
    """Whether each picture is still classified rightly after the attack, [n]. `x` are raw inputs.

    Mounted as released, the gradients are those of the network on pictures that were not normalised; what it is then
    scored on is. On another scale than the dataset's, pictures are first put where that scale gives the network what
    it always sees.
    """
    generator = torch.Generator().manual_seed(seed)
    own = target.preprocessing
    if how.mean is not None and how.std is not None:
        target = replace(target, preprocessing=replace(own, mean=how.mean, std=how.std))
    attacked = target.mounted if how.mount == "correct" else target.network
    found = []
    for rows in torch.split(torch.arange(len(y)), how.batch):
        tick()
        u, labels = to_float(x[rows].to(target.device)), y[rows].to(target.device)
        if target.preprocessing is not own:
            u = target.preprocessing.denormalize(own.normalize(u))
        disturbed = pgd(attacked, u, labels, how, generator)
        with torch.no_grad():
            found.append((predictions(target.mounted(disturbed)) == labels).cpu())
    return torch.cat(found)


def margins(target: Target, x: Tensor, y: Tensor, how: Margins, tick: Tick) -> Tensor:
    """L∞ norm of the smallest disturbance found that flips each picture, [n], on the pixels' scale.

    0 for a picture that is misclassified as it is, infinity where the search fails.
    """
    fitting = 100 * torch.get_num_threads() if target.device.type == "cpu" else 1000  # a thread's share in its cache
    parts = torch.split(torch.arange(len(y)), how.batch or fitting)
    batches = ((to_float(x[rows].to(target.device)), y[rows].to(target.device)) for rows in parts)
    return torch.cat([search(target, u, labels, how, tick).cpu() for u, labels in batches])


def search(target: Target, u: Tensor, y: Tensor, how: Margins, tick: Tick) -> Tensor:
    """The same for one batch: eps grows until the attack succeeds, then is bisected; steps stay in proportion."""
    z, slope = slopes(target.mounted, u, y, how.gradient)
    best = torch.where(predictions(z) == y, torch.inf, 0.0)
    low, high = torch.zeros_like(best), torch.full_like(best, how.eps)
    left = best > 0
    for _ in range(how.tries):
        if not left.any():
            break
        tick()
        best = torch.minimum(best, attempt(target, u, y, slope, high, left, how))
        left = best.isinf()
        high = torch.where(left, high * 1.5, high)
    left = best.isfinite() & (best > 0)
    if how.resolution:  # the released search goes on above the smallest size found
        high = torch.minimum(high, best)
    for _ in range(how.tries):
        if not left.any():
            break
        tick()
        middle = (low + high) / 2
        size = attempt(target, u, y, slope, middle, left, how)
        best = torch.minimum(best, size)
        low, high = torch.where(size.isinf(), middle, low), torch.where(size.isinf(), high, middle)
        if how.resolution:
            high = torch.minimum(high, best)
        left = left & (high - low > how.resolution)
    return best


def attempt(target: Target, u: Tensor, y: Tensor, slope: Tensor, eps: Tensor, which: Tensor, how: Margins) -> Tensor:
    """Attack the pictures `which` [n] within their own `eps` [n]; the size of the first disturbance that flips, [n].

    `slope` is the gradient at `u`. Infinity where none flips within the steps, and for the other pictures.
    """
    found = torch.full_like(eps, torch.inf)
    left = which.nonzero()[:, 0]
    origin, reach, labels, slope = u[left], eps[left].view(-1, *[1] * (u.ndim - 1)), y[left], slope[left]
    x, flipped = origin, torch.zeros_like(left, dtype=torch.bool)
    for step in range(1, how.steps + 1):
        change = (how.share * reach * slope.sign()).add_(x).sub_(origin).clamp_(-reach, reach)
        moved = change.add_(origin).clamp_(0, 1)
        stay = ~flipped & (moved != x).flatten(1).any(1)  # one that stands still would do so for ever
        x = moved
        if not stay.all():
            left, origin, reach, labels, x = left[stay], origin[stay], reach[stay], labels[stay], x[stay]
        if not len(left):
            break
        if step < how.steps:
            z, slope = slopes(target.mounted, x, labels, how.gradient)
        else:
            with torch.no_grad():
                z = target.mounted(x)
        flipped = predictions(z) != labels
        found[left[flipped]] = (x - origin)[flipped].flatten(1).abs().amax(1)
    return found
