"""Attacks on a trained network: projected gradient descent, and the smallest perturbation that flips an image.

Images `u` [n, channels, height, width] are in [0, 1]; a network is a function from its inputs to logits, and how an
attack is mounted says where the dataset's normalisation comes in. Sizes of perturbations are on the pixels' scale.

Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv 1706.06083; the
search for margins as in Foolbox 2's projected gradient descent, which the paper's Figure 2 used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from spurbench.bench.evaluation.counting import cross_entropy, predict
from spurbench.bench.plugins.dataset import Margins, Pgd
from spurbench.bench.training.batching import Preprocessing

Logits = Callable[[Tensor], Tensor]
CheckStop = Callable[[], None]
"""Called regularly during long work; may raise to stop it."""
TINY = 1e-12  # so that a gradient of zero has a direction of zero


@dataclass(frozen=True)
class Target:
    """A trained network in evaluation mode, and the scale of its inputs."""

    network: Logits
    preprocessing: Preprocessing
    device: torch.device = torch.device("cpu")

    def mounted(self, u: Tensor) -> Tensor:
        """Logits of images in [0, 1], through the normalisation the network was trained with."""
        return self.network(self.preprocessing.normalize(u))

    def images(self, x: Tensor) -> Tensor:
        """Raw images on the device, in [0, 1]."""
        u = self.preprocessing.numbers(x.to(self.device))
        assert isinstance(u, Tensor)
        return u


def differentiate_input(logits: Logits, u: Tensor, y: Tensor, objective: str = "loss") -> tuple[Tensor, Tensor]:
    """Logits of `u`, and the gradient of the summed cross-entropy, or of the summed margin loss, by `u`."""
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        z = logits(u)
        each = margin_loss(z, y) if objective == "logits" else cross_entropy(z, y)
        (gradient,) = torch.autograd.grad(each.sum(), u)
    return z.detach(), gradient


def margin_loss(z: Tensor, y: Tensor) -> Tensor:
    """How far the best wrong logit is above the right one, [n]; its gradient stays where cross-entropy's vanishes."""
    if z.ndim == 1:
        return (1 - 2 * y) * z
    right = F.one_hot(y, z.shape[1]).bool()
    return z.masked_fill(right, -torch.inf).amax(1) - z[right]


def pgd(logits: Logits, u: Tensor, y: Tensor, attack: Pgd, generator: torch.Generator | None = None) -> Tensor:
    """Images within `attack.eps` of `u` after `attack.steps` steps uphill in the loss, in [0, 1].

    Errors: ValueError for a negative eps or step (see Pgd).
    """
    x = u.clone()
    if attack.random_start:
        noise = torch.rand(u.shape, generator=generator).to(u) * 2 - 1
        x = project(u + attack.eps * noise, u, attack)
    for _ in range(attack.steps):
        x = project(x + attack.step * ascent_direction(differentiate_input(logits, x, y)[1], attack.norm), u, attack)
    return x


def ascent_direction(gradient: Tensor, norm: str) -> Tensor:
    """The step of length 1 in the norm that raises the loss most."""
    if norm == "inf":
        return gradient.sign()
    unit: Tensor = gradient / l2_norms(gradient).clamp(min=TINY)
    return unit


def l2_norms(x: Tensor) -> Tensor:
    """L2 norm of each image, shaped to divide by."""
    size: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return size.view(-1, *[1] * (x.ndim - 1))


def project(x: Tensor, u: Tensor, attack: Pgd) -> Tensor:
    """The nearest images within eps of `u` and in [0, 1]."""
    change = x - u
    if attack.norm == "inf":
        change = change.clamp(-attack.eps, attack.eps)
    else:
        change = change * (attack.eps / l2_norms(change).clamp(min=TINY)).clamp(max=1)
    return (u + change).clamp(0, 1)


def correct_after_pgd(target: Target, x: Tensor, y: Tensor, attack: Pgd, seed: int, check_stop: CheckStop) -> Tensor:
    """Whether each image is still classified correctly after the attack, [n]. `x` are raw inputs.

    Mounted as released, the gradients are taken on images that were not normalised, while those scored are. If the
    attack has a scale of its own, images are first mapped so that with that scale the network gets its usual inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    own = target.preprocessing
    if attack.mean is not None and attack.std is not None:
        target = replace(target, preprocessing=replace(own, mean=attack.mean, std=attack.std))
    attacked = target.mounted if attack.mount == "correct" else target.network
    found = []
    for rows in torch.split(torch.arange(len(y)), attack.batch):
        check_stop()
        u, labels = target.images(x[rows]), y[rows].to(target.device)
        if target.preprocessing is not own:
            u = target.preprocessing.denormalize(own.normalize(u))
        perturbed = pgd(attacked, u, labels, attack, generator)
        with torch.no_grad():
            found.append((predict(target.mounted(perturbed)) == labels).cpu())
    return torch.cat(found)


def find_margins(target: Target, x: Tensor, y: Tensor, attack: Margins, check_stop: CheckStop) -> Tensor:
    """L∞ norm of the smallest perturbation found that flips each image, [n], on the pixels' scale.

    0 for an image that is misclassified already, infinity where the search fails.
    """
    cached_batch = 100 * torch.get_num_threads() if target.device.type == "cpu" else 1000  # fits a thread's cache
    parts = torch.split(torch.arange(len(y)), attack.batch or cached_batch)
    batches = ((target.images(x[rows]), y[rows].to(target.device)) for rows in parts)
    return torch.cat([search_margins(target, u, labels, attack, check_stop).cpu() for u, labels in batches])


def search_margins(target: Target, u: Tensor, y: Tensor, attack: Margins, check_stop: CheckStop) -> Tensor:
    """The same for one batch: eps grows until the attack succeeds, then is bisected; steps stay in proportion to it."""
    z, gradient = differentiate_input(target.mounted, u, y, attack.gradient)
    best = torch.where(predict(z) == y, torch.inf, 0.0)
    low, high = torch.zeros_like(best), torch.full_like(best, attack.eps)
    left = best > 0
    for _ in range(attack.tries):
        if not left.any():
            break
        check_stop()
        best = torch.minimum(best, attack_within(target, u, y, gradient, high, left, attack))
        left = best.isinf()
        high = torch.where(left, high * 1.5, high)
    left = best.isfinite() & (best > 0)
    if attack.resolution:  # the released search continues above the smallest size found
        high = torch.minimum(high, best)
    ahead, flips = attack.share * high / 2, torch.zeros_like(high)
    for _ in range(attack.tries):
        if not left.any():
            break
        check_stop()
        middle = (low + high) / 2
        if attack.resolution:  # a step before the flip there was none: the margin is hardly below that
            middle = torch.maximum(middle, high - ahead)
        size = attack_within(target, u, y, gradient, middle, left, attack)
        best, flipped = torch.minimum(best, size), size.isfinite()
        low, high = torch.where(flipped, low, middle), torch.where(flipped, middle, high)
        if attack.resolution:
            high, flips = torch.minimum(high, best), flips + flipped
            ahead = torch.where(flipped, attack.share * middle / 2 * 1.5**flips, ahead)
        left = left & (high - low > attack.resolution)
    return best


def attack_within(
    target: Target, u: Tensor, y: Tensor, gradient: Tensor, eps: Tensor, which: Tensor, attack: Margins
) -> Tensor:
    """Attack the images `which` [n] within their own `eps` [n]; the size of the first perturbation that flips, [n].

    `gradient` is that at `u`. Infinity where none flips within the steps, and for the other images.
    """
    found = torch.full_like(eps, torch.inf)
    left = which.nonzero()[:, 0]
    origin, reach, labels, gradient = u[left], eps[left].view(-1, *[1] * (u.ndim - 1)), y[left], gradient[left]
    x, flipped = origin, torch.zeros_like(left, dtype=torch.bool)
    for step in range(1, attack.steps + 1):
        change = (attack.share * reach * gradient.sign()).add_(x).sub_(origin).clamp_(-reach, reach)
        moved = change.add_(origin).clamp_(0, 1)
        stay = ~flipped & (moved != x).flatten(1).any(1)  # one that did not move never will
        x = moved
        if not stay.all():
            left, origin, reach, labels, x = left[stay], origin[stay], reach[stay], labels[stay], x[stay]
        if not len(left):
            break
        if step < attack.steps:
            z, gradient = differentiate_input(target.mounted, x, labels, attack.gradient)
        else:
            with torch.no_grad():
                z = target.mounted(x)
        flipped = predict(z) != labels
        found[left[flipped]] = (x - origin)[flipped].flatten(1).abs().amax(1)
    return found
