"""Maximum mean discrepancy: the features of every two environments must have the same distribution.

Source: Li, Pan, Wang and Kot, "Domain Generalization with Adversarial Feature Learning", CVPR 2018, in the form of
DomainBed (Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021): the kernel is a sum of seven
Gaussians, and the penalty is the mean over pairs of environments.
Needs: features, environments.
Differs: nothing from DomainBed's. Memory grows with the square of the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spurbench.bench.plugins.method import Batch, members
from spurbench.methods.coral import CORAL

GAMMAS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3)  # of the Gaussians exp(−γ d²)


@dataclass(frozen=True)
class MMD(CORAL):
    def penalty(self, h: Tensor, batch: Batch) -> Tensor:
        """The mean over pairs of environments of the squared distance of their mean embeddings."""
        member = members(batch.known_environment, batch.problem.environments).to(h.dtype)
        counts = member.sum(0)
        share = member / counts.clamp(min=1)
        wide = h.double()  # small distances are differences of large norms, and γ is up to 1000
        norms = wide.square().sum(1)
        distances = (norms[:, None] + norms - 2 * wide @ wide.T).clamp(min=1e-30)
        kernel = torch.stack([(-gamma * distances).exp() for gamma in GAMMAS]).sum(0).to(h.dtype)
        within = share.T @ kernel @ share  # mean kernel of examples of two environments, [E, E]
        apart = within.diagonal()[:, None] + within.diagonal() - 2 * within
        pairs = (counts > 0).to(h.dtype).outer((counts > 0).to(h.dtype)).tril(-1)
        return (apart * pairs).sum() / pairs.sum().clamp(min=1)
