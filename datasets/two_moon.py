"""Two-Moon: 300 points in the plane, separable along one axis; the moons' shape is the feature that starves.

Each point is x = (x_0, x_1): x_0 = −ỹ(|v| + Δ) is the easy, separating axis, x_1 runs along the moons. y is the moon.
For Δ > 0 a vertical line separates the classes with a gap of at least 2Δ; for Δ < 0 some points cross over.

Source: Pezeshki et al., "Gradient Starvation", NeurIPS 2021, arXiv 2011.09468, Figures 1 and 6, appendix B.2.
Licence: drawn from the seed by scikit-learn; no data file.
Groups: none; 150 points of each class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.spatial import KDTree
from sklearn.datasets import make_moons
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import Build, Data, Dataset, Score, Split, Training

Points = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
GRID = np.linspace(-2, 2, 100)


@dataclass(frozen=True)
class TwoMoon(Dataset):
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("train", "min_margin"), ("grid", "easy_share"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ()
    training: ClassVar[Training] = Training(
        width=500, hidden_layers=1, optimizer="sgd", lr=0.01, momentum=0.9, steps=10_000)  # fmt: skip

    delta: float = 0.1  # Δ, half the gap between the classes along the separating axis
    rotation: float = 0.0  # degrees
    examples: int = 300

    def __post_init__(self) -> None:
        if self.examples < 2:
            raise UserError(f"two_moon: examples is {self.examples}; each class needs one")

    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        points, y = self.points(seed)
        x = torch.from_numpy(points).float()
        torch.manual_seed(seed)
        return Data(Split(x, torch.from_numpy(y)), tests={}), build(x)

    def points(self, seed: int) -> tuple[Points, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
        """The points [n, 2] and their class [n] in 0, 1."""
        x, y = make_moons(self.examples, noise=0.1, random_state=seed)
        sign = 2 * y - 1
        along = x[:, 0] - 0.5
        across = x[:, 1] - 0.3 * sign
        across = across - across.mean()
        x = np.stack([-sign * (np.abs(across) + self.delta), along], 1)
        return x @ self.turn, y.astype(np.int64)

    @property
    def turn(self) -> Points:
        """The rotation, applied to row vectors from the right."""
        angle = np.deg2rad(self.rotation)
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def measures(self, score: Score, data: Data) -> dict[str, dict[str, float]]:
        """Distance of training points to the decision boundary, and the share of [−2, 2]² where x_0 alone decides."""
        contour = boundary(score)
        grid = lattice(GRID)
        easy = -(grid @ self.turn.T)[:, 0]  # rotated back, so that the axis is the separating one
        agrees = (logits_at(score, grid) > 0) == (easy > 0)
        found = {"grid": {"easy_share": float(agrees.mean())}}
        if len(contour):  # a constant prediction has no boundary and so no margin
            distance = KDTree(contour).query(data.train.x.double().numpy())[0]
            found["train"] = {"min_margin": float(distance.min()), "median_margin": float(np.median(distance))}
        return found

    def drawings(self, score: Score, data: Data) -> dict[str, Tensor]:
        """The decision surface: the logit at (x_0, x_1) on the 100 × 100 lattice of [−2, 2]²."""
        return {"surface": torch.from_numpy(logits_at(score, lattice(GRID))).reshape(len(GRID), len(GRID))}


def lattice(axis: Points) -> Points:
    """All pairs of values of `axis`, [len² , 2], the second coordinate fastest."""
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def logits_at(score: Score, points: Points) -> Points:
    return score(torch.from_numpy(points).float()).double().numpy()


def boundary(score: Score, reach: float = 3.0, pitch: float = 0.01) -> Points:
    """Points of the zero contour of the logit within [−reach, reach]², found on the lattice's edges, [m, 2]."""
    axis = np.arange(-reach, reach + pitch / 2, pitch)
    z = logits_at(score, lattice(axis)).reshape(len(axis), len(axis))
    crossings = []
    for dim in (0, 1):
        low, high = np.take(z, range(len(axis) - 1), dim), np.take(z, range(1, len(axis)), dim)
        at = np.argwhere((low > 0) != (high > 0))
        a, b = low[tuple(at.T)], high[tuple(at.T)]
        point = axis[at]
        point[:, dim] += pitch * a / (a - b)
        crossings.append(point)
    return np.concatenate(crossings)
