"""SPARE, separate early and resample: clusters of a young network's outputs are drawn the more, the smaller they are.

Source: Yang, Gan, Dziugaite and Mirzasoleiman, "Identifying Spurious Biases Early in Training through the Lens of
Simplicity Bias", AISTATS 2024, arXiv 2305.18761; as in the authors' code each class is clustered by k-means, the number
of clusters is that with the best silhouette, and frequencies enter with the power 2 where that is below 0.9.
Needs: nothing beyond labels. Starts from ERM, at the share `stop` of its training; the network begins anew.
Differs: silhouettes are those of 2,000 examples of a class at most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from torch import Tensor

from spurbench.bench.plugins.method import Batch, Draw, Finished, Method, Seen, Start, hyper


@dataclass(frozen=True)
class SPARE(Method):
    base: ClassVar[Mapping[str, Any]] = {"method": "erm", "step": "stop"}

    stop: float = hyper(0.1, low=0.01, high=0.3)
    most: int = hyper(5, choices=(2, 5, 10))

    def begin(self, finished: Finished, generator: torch.Generator) -> Start:
        seen = finished.train
        weights, marked = torch.zeros(len(seen.y)), torch.zeros(len(seen.y), dtype=torch.bool)
        for y in seen.y.bincount().nonzero()[:, 0]:
            rows = (seen.y == y).nonzero()[:, 0]
            cluster, silhouette = self.cluster(seen, rows, generator)
            sizes = cluster.bincount().double()
            chances = sizes ** -(1.0 if silhouette >= 0.9 else 2.0)
            weights[rows] = (chances / (chances * sizes).sum())[cluster].float()  # classes equally
            marked[rows] = cluster > 0
        return Start(draw=Draw(weights=weights), marked=marked)

    def infer(self, seen: Seen, generator: torch.Generator) -> Tensor:
        found = torch.zeros(len(seen.y), dtype=torch.int64)
        for y in seen.y.bincount().nonzero()[:, 0]:
            rows = (seen.y == y).nonzero()[:, 0]
            found[rows] = self.cluster(seen, rows, generator)[0]
        return found

    def cluster(self, seen: Seen, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        """The cluster of each of these examples, 0 the largest, and how well separated they are, from −1 to 1."""
        x = seen.class_logits[rows].softmax(1).numpy()
        seed = int(torch.randint(2**31, (), generator=generator))
        best = torch.zeros(len(rows), dtype=torch.int64), -1.0
        distinct = len({tuple(point) for point in x.round(6).tolist()})
        for k in range(2, min(self.most, distinct, len(x) - 1) + 1):
            labels = KMeans(k, n_init=3, random_state=seed).fit_predict(x)
            silhouette = float(silhouette_score(x, labels, sample_size=min(2000, len(x)), random_state=seed))
            if silhouette > best[1]:
                best = torch.as_tensor(labels).long(), silhouette
        order = best[0].bincount().argsort(descending=True).argsort()  # of each cluster its rank by size
        return order[best[0]], best[1]

    def loss(self, logits: Tensor, batch: Batch, state: dict[str, Tensor], step: int) -> Tensor:
        return batch.losses(logits).mean()
