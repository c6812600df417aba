"""The theory of gradient starvation: how fast a linear model learns each of its features, and where it stops.

Source: Pezeshki et al., "Gradient Starvation", NeurIPS 2021, arXiv 2011.09468; equation numbers are its own. Everything
is float64 and dimensionless. n examples, n features, YΦ = U S Vᵀ: the labels are in U, and V plays no part.

U    [n, n], orthogonal; one row for an example, one column for a feature
S2   [..., n], the diagonal of S²: the strengths of the features
lam  λ > 0, of (λ/2)‖θ‖² (weight decay) or of (λ/2)‖ŷ‖² (spectral decoupling, Eq. 17), beside the sum of the losses
α    [..., n] in (0, 1), the dual variable of each example; at a fixed point σ(−margin)
z    [..., n] = Uᵀ Y ŷ, the response of each feature; the margins are U z
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, wrightomega

Array = NDArray[np.float64]
Flow = Callable[[Array], Array]

# Figure 5 by the authors' code; the text gives no λ, no rates and no number of steps.
STRONG, WEAK = (2.0, 3.0, 4.0, 5.0, 6.0), 2.0  # s_1, s_2
SINE = 0.5  # δ of U; the text has 0.6, the printed end points are those of 0.5
LAMBDA, LAMBDA_SD = 0.01, 0.002  # the code adds 0.001 Σ ŷ², hence 0.002
RATE, RATE_DUAL, STEPS, ALPHA_0 = 0.05, 3e-6, 5000, 1e-8


def rotation(delta: float) -> Array:
    """U of Theorem 2 and of Figure 5, [2, 2]: the rotation whose sine is `delta`. The sign of `delta` matters there."""
    cosine = np.sqrt(1 - delta**2)
    return np.array([[cosine, -delta], [delta, cosine]])


def lambert(S2: Any, lam: float) -> Any:
    """W(s²/λ + 1), Lambert's W on its principal branch, also where s²/λ is too large for a float."""
    return wrightomega(np.log(S2 + lam) - np.log(lam))


def response(alpha: Array, U: Array, S2: Array, lam: float) -> Array:
    """z = S² Uᵀ α / λ (Eq. 11)."""
    return S2 * (alpha @ U / lam)


def uncoupled(S2: Any, lam: float) -> tuple[Any, Any]:
    """(α*, z*) of Eq. 10 for each s² by itself: U a permutation (Eq. 13), or S² = s² I.

    In the second case α* is Eq. 12's and z*_j has the further factor Σ_i u_ij. To first order in α.
    """
    share = lambert(S2, lam) / (S2 + lam)
    return lam * share, S2 * share


def lemma_1(U: Array, S2: Array, lam: float) -> Array:
    """α* [n] of Lemma 1 (Eq. 14): one Newton step on Eq. 10 from where each example would stop on its own."""
    K = (U * S2) @ U.T
    strength = np.diag(K)
    W = lambert(strength, lam)  # −log α_0, with A = K/λ + I in Eq. 10 and α_0 = W(A_ii)/A_ii
    alpha: Array = lam * (1 + W) @ np.linalg.inv(K + np.diag(lam + (strength + lam) / W))
    return alpha


def theorem_2(S2: Array, lam: float, delta: float) -> Any:
    """dz_2*/d(s_1²) of Theorem 2 (Eq. 65), to first order in `delta`, for U = rotation(delta) and S2 [..., 2].

    Negative, which is starvation, where s_1² > s_2² and δ > 0; positive at δ < 0, which the paper does not exclude.
    """
    s = np.asarray(S2, float)
    W = lambert(s, lam)
    E = (s + lam) / W  # λ e^W
    first, second = (s + lam + E)[..., 0], (s + lam + E)[..., 1]
    return -delta * (W[..., 0] + 1) * (s[..., 1] / second) * ((E[..., 0] - E[..., 1]) / first) / first


def fixed_point(U: Array, S2: Array, lam: float, first_order: bool = False) -> Array:
    """α* [n] with weight decay: where Eq. 9 stands still, or Eq. 10 if `first_order`. Primal and dual share it.

    Newton's method on λz = S² Uᵀα with α = σ(−Uz), each row divided by s² + λ. No step moves a margin by more than 1,
    within which the loss's curvature changes at most e-fold, so every step descends. Margins beyond 1,000, which need
    strengths a million apart or more, raise an ArithmeticError.
    """
    strength = S2 + lam * first_order  # log(1−α) ≈ −α is an S² larger by λ, and α = e^(−Uz)
    data, decay = strength / (strength + lam), lam / (strength + lam)
    z = np.zeros(len(U))
    for _ in range(1000):
        m = U @ z
        alpha: Array = np.exp(-m) if first_order else expit(-m)
        slope = alpha if first_order else alpha * expit(m)
        step = np.linalg.solve(np.diag(decay) + data[:, None] * (U.T * slope) @ U, data * (alpha @ U) - decay * z)
        size = np.abs(U @ step).max()
        if size < 1e-8:  # another step would be of its square
            return alpha - slope * (U @ step)
        z += step / max(1.0, size)
    raise ArithmeticError(f"no fixed point with margins up to 1,000 for S2 = {S2}, lam = {lam}")


def decoupled_margin(lam: Any) -> Any:
    """The margin m = α*/λ at which every example stops under spectral decoupling: σ(−m) = λ m (Eq. 18).

    It depends on neither U nor S; z* = Uᵀ(m, …, m). Newton's method on log m, from W(1/λ) > m downwards.
    """
    m = wrightomega(-np.log(lam))
    for _ in range(8):
        m = m * np.exp(-(np.logaddexp(0, m) + np.log(m) + np.log(lam)) / (1 + m * expit(m)))
    return m


def dual_flow(alpha: Array, U: Array, S2: Array, lam: float) -> Array:
    """α̇/η = log((1−α)/α) − α U S² Uᵀ/λ (Eq. 9)."""
    flow: Array = np.log1p(-alpha) - np.log(alpha) - response(alpha, U, S2, lam) @ U.T
    return flow


def first_order_flow(alpha: Array, U: Array, S2: Array, lam: float) -> Array:
    """α̇/η = −log α − α A, A = U(S² + λI)Uᵀ/λ (Eq. 10): Eq. 9 with −α for log(1−α)."""
    flow: Array = -np.log(alpha) - response(alpha, U, S2 + lam, lam) @ U.T
    return flow


def decoupled_dual_flow(alpha: Array, lam: float) -> Array:
    """α̇/η = log((1−α)/α) − α/λ (Eq. 18): no example affects another."""
    flow: Array = np.log1p(-alpha) - np.log(alpha) - alpha / lam
    return flow


def primal_flow(z: Array, U: Array, S2: Array, lam: float) -> Array:
    """ż/η = S² Uᵀ σ(−Uz) − λ z: gradient descent on θ with weight decay, in terms of the responses."""
    flow: Array = S2 * (expit(-z @ U.T) @ U) - lam * z
    return flow


def decoupled_flow(z: Array, U: Array, S2: Array, lam: float) -> Array:
    """ż/η = S² (Uᵀ σ(−Uz) − λ z): the same with spectral decoupling (Eq. 17), so that S² changes rates but no limit."""
    flow: Array = S2 * (expit(-z @ U.T) @ U - lam * z)
    return flow


def descend(flow: Flow, start: Array, rate: float, kept: Array, inside: bool = False) -> Array:
    """Gradient descent x ← x + rate · flow(x): the x after `kept` steps, [len(kept), *start.shape].

    `kept` ascends. Descent is Euler's rule for the flow, and is what the paper plots: a rate of 0.05 is too coarse for
    the primal's first steps to be the flow's. `inside` clips to (0, 1), where α lives.
    """
    least, most = np.finfo(float).tiny, 1 - np.finfo(float).epsneg
    x, path = start, list[Array]()
    for step in range(int(kept[-1]) + 1):
        if step == kept[len(path)]:
            path.append(x)
        x = x + rate * flow(x)
        x = np.clip(x, least, most) if inside else x
    return np.array(path)


def figure_5(points: int = 200) -> dict[str, Any]:
    """All that Figure 5 plots (two examples labelled +1, two features, s_1 growing), as lists, ready for JSON.

    `paths` holds [s_1][step](|z_1|, |z_2|) of each dynamics after each of `steps`: about `points` of 0 to 5,000, as
    many in each decade. `fixed_points` holds [s_1](z_1, z_2): with weight decay exactly, to first order (Eq. 10) and by
    Lemma 1, and with spectral decoupling. Left panel: dual (dotted), primal; right: primal, decoupled (dashed).
    """
    U = rotation(SINE)
    S2 = np.array([[s_1**2, WEAK**2] for s_1 in STRONG])
    kept = np.unique(np.geomspace(1, STEPS + 1, points).astype(int) - 1)
    zero = np.zeros_like(S2)
    alpha = descend(lambda a: dual_flow(a, U, S2, LAMBDA), zero + ALPHA_0, RATE_DUAL, kept, inside=True)
    paths = {
        "dual": response(alpha, U, S2, LAMBDA),
        "primal": descend(lambda z: primal_flow(z, U, S2, LAMBDA), zero, RATE, kept),
        "decoupled": descend(lambda z: decoupled_flow(z, U, S2, LAMBDA_SD), zero, RATE, kept),
    }
    fixed_points = {
        "weight_decay": [response(fixed_point(U, row, LAMBDA), U, row, LAMBDA) for row in S2],
        "first_order": [response(fixed_point(U, row, LAMBDA, True), U, row, LAMBDA) for row in S2],
        "lemma_1": [response(lemma_1(U, row, LAMBDA), U, row, LAMBDA) for row in S2],
        "decoupled": [decoupled_margin(LAMBDA_SD) * U.sum(0) for _ in S2],
    }
    return {
        "U": U.tolist(),
        "s_1": list(STRONG),
        "s_2": WEAK,
        "lambda": LAMBDA,
        "lambda_decoupled": LAMBDA_SD,
        "steps": kept.tolist(),
        "paths": {name: np.abs(path).swapaxes(0, 1).tolist() for name, path in paths.items()},
        "fixed_points": {name: np.array(rows).tolist() for name, rows in fixed_points.items()},
    }
