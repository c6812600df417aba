"""Which features a network learned and which it starved: the paper's analysis, for any binary run.

At initialisation J [n, P] is the Jacobian of the logit by the P parameters on n training examples, Y the diagonal of
the labels ỹ = ±1, and YJ = U S Vᵀ. A feature is a column u_j of U, its strength s_j; the response of a feature is
z_j = u_jᵀ Y ŷ for the logits ŷ of the moment. Source: Pezeshki et al., "Gradient Starvation", NeurIPS 2021, section 3.

Starvation is measured by shares of ‖ŷ‖² = Σ_j z_j². Where spectral decoupling converges all margins are equal (Eq. 18),
so that feature j has a share of (Σ_i u_ij)²/n: what it is due. A feature that is due 1 % or more starves if its share
at the end of training is below half of that; else it grew.

Where possible, the probe says what a feature is about: Y u_j is a unit vector over the examples, and its squared cosine
with the spurious attribute ã = ±1, or with the constant 1, is the share of the feature that it makes up. Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vjp, vmap

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.seeds import stream
from spurbench.bench.plugins.dataset import Inputs, map_inputs
from spurbench.bench.training.batching import in_dtype, select_rows, to_device
from spurbench.bench.training.model import Model

Array = NDArray[Any]
Parameters = dict[str, Tensor]
NOTABLE = 0.01  # of ‖ŷ‖²: features that are due less are ignored
STARVED = 0.5  # of what is due
KNOWN_SUBJECTS = ("constant", "attribute")  # what a feature may be about
MAIN_SHARE = 0.5  # of a feature
EXACT = 5_000_000  # entries of J up to which it is computed explicitly
OVERSAMPLING, ROUNDS = 6, 6  # of the randomised SVD by block Krylov (Musco and Musco, arXiv 1504.05477)
PREFIX = "probe/"  # of the arrays' names among a run's drawings
REQUIRED = {"settings", "examples", "steps", "strengths", "due", "responses"}  # of the arrays


@dataclass(frozen=True)
class Settings:
    """What is measured, and when."""

    features: int = 10  # number of features, the strongest first
    sample: int = 1000  # at most this many training examples, drawn by the run's stream "starvation" if there are more
    points: int = 60  # times from before the first update to after the last
    spacing: str = "log"  # or "even"

    def steps(self, last: int) -> list[int]:
        """The times, in updates done."""
        if self.spacing == "even":
            return sorted({round(at) for at in np.linspace(0, last, self.points)})
        return sorted({round(at) - 1 for at in np.geomspace(1, last + 1, self.points)})


class Probe:
    """Measures a replica from before its training: call `observe` before every step and after the last."""

    def __init__(self, model: Model, steps: int, settings: Settings) -> None:
        self.model, data, seed = model, model.data, model.seed
        if data.classes != 2:
            raise UserError(f"features are defined by labels ±1: this run has {data.classes} classes, not 2")
        rows = draw_sample(len(data.train.y), settings.sample, seed)
        self.x, self.sign = select_rows(data.train.x, rows), to_signs(data.train.y[rows])
        self.known = {"constant": torch.ones_like(self.sign)}
        if data.train.attribute is not None and data.attributes == 2:
            self.known["attribute"] = to_signs(data.train.attribute[rows])
        self.settings, self.steps = settings, settings.steps(steps)
        self.U, self.strengths = find_features(model, self.x, self.sign, settings.features)
        self.responses: list[Array] = []
        self.norms: list[float] = []

    def observe(self, step: int) -> None:
        """Record the responses after this many updates, if it is one of `steps`."""
        if len(self.norms) < len(self.steps) and step == self.steps[len(self.norms)]:
            z = self.sign * to_one_logit(self.model.score(self.x)).double()
            self.responses.append((self.U.T @ z).abs().numpy())
            self.norms.append(float(z.norm()))

    def arrays(self) -> dict[str, Array]:
        """All that was measured, for a run's drawings: responses [times, features], the rest by feature or time."""
        found: dict[str, Any] = {
            "settings": json.dumps(asdict(self.settings)),
            "examples": len(self.sign),
            "steps": self.steps[: len(self.norms)],
            "strengths": self.strengths,
            "due": self.U.sum(0).square() / len(self.sign),
            **{name: (self.U.T @ (self.sign * v)).square() / len(v) for name, v in self.known.items()},
            "responses": np.array(self.responses, np.float32),
            "norms": self.norms,
        }
        return {PREFIX + name: np.asarray(value) for name, value in found.items()}


def to_signs(values: Tensor) -> Tensor:
    """0 and 1 as −1 and 1."""
    return (2 * values - 1).double()


def to_one_logit(z: Tensor) -> Tensor:
    """The logit of class 1 against class 0, [n], from one logit or two."""
    return z if z.ndim == 1 else z[:, 1] - z[:, 0]


def draw_sample(n: int, most: int, seed: int) -> Tensor:
    """The rows of the training set that are used, in order: all, or `most` drawn by a stream of their own."""
    if n <= most:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(stream(seed, "starvation"))
    return torch.randperm(n, generator=generator)[:most].sort().values


# ---- features -----------------------------------------------------------------------------------------------------


def find_features(model: Model, x: Inputs, sign: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """U [n, count] and the strengths [count] of a network as it is now, on raw inputs `x`."""
    network = model.network
    parameters = {name: p.detach().cpu().double() for name, p in model.parameters.items()}
    untrained = {name: p.detach() for name, p in network.named_parameters() if not p.requires_grad}
    fixed: Any = in_dtype(untrained | dict(network.named_buffers()), torch.float64)
    fixed = to_device(fixed, torch.device("cpu"))
    inputs = in_dtype(model.preprocessing(x), torch.float64)
    count = min(count, len(sign))

    def logits(own: Parameters, some: Inputs) -> Tensor:
        return to_one_logit(functional_call(network, own | fixed, (some,)))

    size = sum(parameter.numel() for parameter in parameters.values())
    with model.evaluating():
        if len(sign) * size <= EXACT:
            return exact_features(logits, parameters, inputs, sign, count)
        seed = stream(model.seed, "noise")
        return randomised_features(lambda own: logits(own, inputs), parameters, sign, count, seed)


def exact_features(
    logits: Callable[[Parameters, Inputs], Tensor], parameters: Parameters, inputs: Inputs, sign: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Singular vectors and values of the Jacobian, computed row by row."""
    rows = vmap(grad(lambda own, one: logits(own, map_inputs(itemgetter(None), one))[0]), (None, 0))(parameters, inputs)
    jacobian = torch.cat([part.flatten(1) for part in rows.values()], 1) * sign[:, None]
    U, S, _ = torch.linalg.svd(jacobian, full_matrices=False)
    return U[:, :count], S[:count]


def randomised_features(
    logits: Callable[[Parameters], Tensor], parameters: Parameters, sign: Tensor, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The leading ones without forming it: block Lanczos on JJᵀ from noise, by products with J and Jᵀ only."""
    transposed = vjp(logits, parameters)[1]
    itself = vjp(transposed, torch.zeros_like(sign))[1]  # the transpose of a linear map's transpose

    def gram(Q: Tensor) -> Tensor:
        return torch.stack([sign * itself(transposed(sign * column))[0] for column in Q.T], 1)

    noise = torch.Generator().manual_seed(seed)
    width = min(count + OVERSAMPLING, len(sign))
    basis = torch.linalg.qr(torch.randn(len(sign), width, generator=noise, dtype=torch.float64)).Q
    images = gram(basis)
    for _ in range(min(ROUNDS, len(sign) // width) - 1):
        block = images[:, -width:]
        for _ in range(2):  # once is not enough in floating point
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        basis, images = torch.cat([basis, block], 1), torch.cat([images, gram(block)], 1)
    squares, vectors = torch.linalg.eigh(basis.T @ images)
    order = squares.argsort(descending=True)[:count]
    return basis @ vectors[:, order], squares[order].clamp(min=0).sqrt()


# ---- results ------------------------------------------------------------------------------------------------


def read_probe(arrays: dict[str, Array], settings: Settings) -> dict[str, Array] | None:
    """What a probe with these settings kept of a run, by name; None if there is none."""
    found = {name.removeprefix(PREFIX): value for name, value in arrays.items() if name.startswith(PREFIX)}
    if not REQUIRED <= found.keys():  # one of them may be damaged
        return None
    return found if json.loads(str(found["settings"])) == asdict(settings) else None


def summary(runs: Sequence[dict[str, Array]]) -> list[dict[str, Any]]:
    """A row for each feature with means over runs, and the verdict; strongest feature first."""
    about = [name for name in KNOWN_SUBJECTS if all(name in run for run in runs)]
    mean = {name: np.mean([run[name] for run in runs], 0) for name in ("strengths", "due", "responses", *about)}
    learned = np.mean([learned_shares(run) for run in runs], 0)
    return [
        {
            "feature": j,
            "strength": float(mean["strengths"][j]),
            "first": float(mean["responses"][0, j]),
            "last": float(mean["responses"][-1, j]),
            "due": float(mean["due"][j]),
            "learned": float(learned[j]),
            "verdict": verdict(mean["due"][j], learned[j]),
        }
        | {name: float(mean[name][j]) for name in about}
        for j in range(len(learned))
    ]


def main_subject(row: Mapping[str, Any]) -> str:
    """What makes up at least half of a feature of the summary, if anything known does."""
    return next((name for name in KNOWN_SUBJECTS if row.get(name, 0.0) >= MAIN_SHARE), "")


def learned_shares(run: dict[str, Array]) -> Array:
    """Each feature's share of ‖ŷ‖² at the end."""
    found: Array = run["responses"][-1].astype(float) ** 2 / max(float(run["norms"][-1]) ** 2, 1e-300)
    return found


def verdict(due: float, learned: float) -> str:
    if due < NOTABLE:
        return "minor"
    return "starved" if learned < STARVED * due else "grew"
