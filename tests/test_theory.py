"""The theory against numbers worked out elsewhere, numerical derivatives and the dynamics' own limits."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from spurbench.bench.evaluation import theory

ONE = np.eye(2)
S2 = np.array([9.0, 4.0])
U = theory.rotation(0.1)
CODE, TEXT = theory.rotation(0.5), theory.rotation(0.6)
# s_1: z* with the code's U, with the text's, α* with the code's; then z* of Eq. 10 and of Lemma 1
TOY = {
    2: [
        (6.120438, 1.639967), (6.272661, 0.896094), (0.01120118, 0.01120118),
        (6.120509, 1.639985), (6.120509, 1.639985),
    ],
    3: [
        (7.068150, 1.583112), (7.227396, 0.859175), (0.00482244, 0.00735429),
        (7.068170, 1.583125), (7.030451, 1.585719),
    ],
    4: [
        (7.812049, 1.466814), (7.936215, 0.784359), (0.00239488, 0.00561701),
        (7.812059, 1.466822), (7.702853, 1.496675),
    ],
    5: [
        (8.465191, 1.329021), (8.513295, 0.699950), (0.00127115, 0.00457045),
        (8.465198, 1.329026), (8.257268, 1.402458),
    ],
    6: [
        (9.071019, 1.185344), (9.006631, 0.617827), (0.00070047, 0.00382621),
        (9.071025, 1.185347), (8.735890, 1.308001),
    ],
}  # fmt: skip
ENDS = {
    "dual": [(6.1171, 1.63907), (7.0681, 1.58274), (7.81202, 1.46671), (8.46518, 1.32900), (9.07102, 1.18534)],
    "primal": [(6.12044, 1.63997), (7.06816, 1.58308), (7.81231, 1.46640), (8.46688, 1.32703), (9.07639, 1.18020)],
    "decoupled": [(6.37266, 1.70754)] * 5,
}


def near(expected: Any, digits: int) -> Any:
    return pytest.approx(np.array(expected), abs=0.6 * 10.0**-digits)


def stop(U: Any, S2: Any, lam: float, first_order: bool = False) -> Any:
    return theory.response(theory.fixed_point(U, S2, lam, first_order), U, S2, lam)


@pytest.mark.parametrize(
    ("s2", "lam", "W", "alpha", "z"),
    [
        (4, 0.01, 4.491724683, 0.01120130844, 4.480523374),
        (1, 1, 0.852605502, 0.426302751, 0.426302751),
        (5, 0.5, 1.806502576, 0.1642275069, 1.642275069),
    ],
)
def test_uncoupled_features(s2: float, lam: float, W: float, alpha: float, z: float) -> None:
    assert theory.lambert(s2, lam) == near(W, 9)
    assert theory.uncoupled(s2, lam) == near((alpha, z), 9)
    assert theory.lemma_1(ONE, np.array([s2, 3.0]), lam)[0] == near(alpha, 9)
    assert theory.fixed_point(ONE, np.array([s2, 3.0]), lam, True)[0] == near(alpha, 9)


def test_equal_strengths_stop_with_one_alpha() -> None:
    """Eq. 12: the responses are those of Eq. 13 times the sums of U's columns."""
    alpha, z = theory.uncoupled(4.0, 0.01)
    assert theory.fixed_point(CODE, np.array([4.0, 4.0]), 0.01, True) == near([alpha, alpha], 12)
    assert stop(CODE, np.array([4.0, 4.0]), 0.01, True) == near(z * CODE.sum(0), 12)


def test_lemma_1() -> None:
    alpha = theory.lemma_1(U, S2, 0.1)
    assert alpha == near((0.03391602658, 0.06265744474), 10)
    assert theory.response(alpha, U, S2, 0.1) == near((3.601058835, 2.358070708), 9)
    A = np.array([[90.5, 4.974937186], [4.974937186, 41.5]])
    assert U * (S2 + 0.1) @ U.T / 0.1 == near(A, 9)
    alpha_0 = np.exp(-theory.lambert((U * S2 @ U.T).diagonal(), 0.1))
    assert alpha_0 == near((0.03656102274, 0.06563136367), 10)


@pytest.mark.parametrize("s_1", TOY)
def test_fixed_points_of_the_toy(s_1: float) -> None:
    code, text, alpha, first_order, lemma = TOY[s_1]
    S2 = np.array([s_1**2, 4.0])
    assert stop(CODE, S2, 0.01) == near(code, 6)
    assert stop(TEXT, S2, 0.01) == near(text, 6)
    assert theory.fixed_point(CODE, S2, 0.01) == near(alpha, 8)
    assert stop(CODE, S2, 0.01, first_order=True) == near(first_order, 6)
    assert theory.response(theory.lemma_1(CODE, S2, 0.01), CODE, S2, 0.01) == near(lemma, 6)


@pytest.mark.parametrize(("lam", "margin"), [(0.002, 4.66512041), (0.006, 3.76688640), (2, 0.22232347)])
def test_decoupled_fixed_point(lam: float, margin: float) -> None:
    assert theory.decoupled_margin(lam) == near(margin, 8)
    assert theory.decoupled_dual_flow(np.array([margin * lam]), lam) == near([0], 6)


def test_decoupled_responses_do_not_depend_on_the_strengths() -> None:
    m = theory.decoupled_margin(0.002)
    assert m * CODE.sum(0) == near((6.372673, 1.707553), 6) and m * TEXT.sum(0) == near((6.531169, 0.933024), 6)
    for S2 in np.random.default_rng(0).uniform(0.1, 30, (20, 2)):
        assert theory.decoupled_flow(m * CODE.sum(0), CODE, S2, 0.002) == near([0, 0], 12)


def slope(z_2: Any, S2: Any) -> float:
    """dz_2/d(s_1²) by central differences of fourth order."""
    h = 2e-3 * S2[0]
    moved = [z_2(S2 + np.array([k * h, 0.0])) for k in (-2, -1, 1, 2)]
    return float(np.dot(moved, [1, -8, 8, -1]) / (12 * h))


def lemma_1_response(delta: float, lam: float, S2: Any) -> float:
    U = theory.rotation(delta)
    return float(theory.response(theory.lemma_1(U, S2, lam), U, S2, lam)[1])


def test_theorem_2_is_the_derivative_of_lemma_1_to_first_order_in_delta() -> None:
    assert theory.theorem_2(S2, 0.1, 0.1) == near(-0.002709364314, 12)
    generator = np.random.default_rng(1)
    for lam, s_2, more in 10 ** generator.uniform([-3, -1, -1], [1, 1, 1], (50, 3)):
        S2_drawn = np.array([s_2**2 + more, s_2**2])
        turned = [slope(partial(lemma_1_response, delta, lam), S2_drawn) for delta in (1e-4, -1e-4)]
        assert theory.theorem_2(S2_drawn, lam, 1e-4) == pytest.approx((turned[0] - turned[1]) / 2, rel=1e-5)


def test_starvation_for_positive_delta_only() -> None:
    generator = np.random.default_rng(2)
    lam, delta = 10 ** generator.uniform(-6, 2, 1000), generator.uniform(1e-3, 1, 1000)
    s_2 = 10 ** generator.uniform(-1.5, 1.5, 1000)
    drawn = np.stack([(s_2 * generator.uniform(1.01, 10, 1000)) ** 2, s_2**2], 1)
    slopes = np.array([theory.theorem_2(S2, *given) for S2, *given in zip(drawn, lam, delta, strict=True)])
    mirrored = np.array([theory.theorem_2(S2, *given) for S2, *given in zip(drawn, lam, -delta, strict=True)])
    assert (slopes < 0).all() and (mirrored > 0).all()
    assert slope(partial(lemma_1_response, -0.1, 0.1), S2) == near(0.00185, 5)
    assert slope(partial(lemma_1_response, 0.1, 0.1), S2) < 0
    assert slope(lambda S2: stop(U, S2, 0.1)[1], S2) < 0  # nor is it an artefact of the approximation


def softplus_sum(theta: Any, features: Any) -> float:
    return float(np.logaddexp(0, -features @ theta).sum())


@pytest.mark.parametrize("decoupled", [False, True])
def test_primal_flows_are_the_gradients_of_the_losses(decoupled: bool) -> None:
    """In θ, with a V of its own: ż = S Vᵀ θ̇, θ̇ = −∇loss."""
    features = CODE * np.sqrt(S2) @ theory.rotation(-0.3).T
    theta, lam, h = np.array([0.4, -1.1]), 0.3, 1e-5

    def loss(theta: Any) -> float:
        ridge = features @ theta if decoupled else theta
        return softplus_sum(theta, features) + lam / 2 * float(ridge @ ridge)

    gradient = np.array([(loss(theta + h * e) - loss(theta - h * e)) / (2 * h) for e in ONE])
    flow = theory.decoupled_flow if decoupled else theory.primal_flow
    assert flow(CODE.T @ features @ theta, CODE, S2, lam) == near(CODE.T @ features @ -gradient, 8)


def test_dual_flows_are_the_gradients_of_the_duals() -> None:
    alpha, lam, h = np.array([0.2, 0.7]), 0.3, 1e-6
    K = CODE * S2 @ CODE.T

    def gradient(kernel: Any, first_order: bool = False) -> Any:
        def dual(a: Any) -> float:  # entropy − αᵀKα/2λ
            rest = a - a**2 / 2 if first_order else -(1 - a) * np.log(1 - a)
            return float((rest - a * np.log(a)).sum() - a @ kernel @ a / (2 * lam))

        return np.array([(dual(alpha + h * e) - dual(alpha - h * e)) / (2 * h) for e in ONE])

    assert theory.dual_flow(alpha, CODE, S2, lam) == near(gradient(K), 7)
    assert theory.decoupled_dual_flow(alpha, lam) == near(gradient(ONE), 7)
    assert theory.first_order_flow(alpha, CODE, S2, lam) == near(gradient(K, True), 7)


def test_every_flow_ends_at_its_fixed_point() -> None:
    kept, lam = np.array([0, 600]), 0.1
    half, zero = np.array([0.5, 0.5]), np.zeros(2)
    alpha, m = theory.fixed_point(CODE, S2, lam), theory.decoupled_margin(lam)
    ends = [
        (theory.dual_flow, half, 0.005, alpha),
        (theory.first_order_flow, half, 0.005, theory.fixed_point(CODE, S2, lam, True)),
        (theory.primal_flow, zero, 0.5, theory.response(alpha, CODE, S2, lam)),
        (theory.decoupled_flow, zero, 0.3, m * CODE.sum(0)),
    ]
    for flow, start, rate, end in ends:
        path = theory.descend(lambda x, flow=flow: flow(x, CODE, S2, lam), start, rate, kept, inside=start is half)
        assert path[0] == near(start, 15) and path[1] == near(end, 9)
    path = theory.descend(lambda a: theory.decoupled_dual_flow(a, lam), half, 0.03, kept, inside=True)
    assert path[1] == near([m * lam, m * lam], 9)


def test_dual_and_primal_meet_with_more_examples() -> None:
    generator = np.random.default_rng(4)
    U, strengths = np.linalg.qr(generator.normal(size=(6, 6)))[0], generator.uniform(0, 9, 6)
    alpha = theory.fixed_point(U, strengths, 0.05)
    z = theory.response(alpha, U, strengths, 0.05)
    assert alpha == near(expit(-U @ z), 12)
    assert theory.primal_flow(z, U, strengths, 0.05) == near(np.zeros(6), 12)
    assert theory.dual_flow(alpha, U, strengths, 0.05) == near(np.zeros(6), 10)


def test_descent_stays_where_alpha_lives() -> None:
    flow = partial(theory.decoupled_dual_flow, lam=1e-3)
    wild = theory.descend(flow, np.array([0.5]), 1.0, np.arange(9), inside=True)
    assert ((wild > 0) & (wild < 1)).all() and np.isfinite(flow(wild)).all()
    assert theory.descend(lambda x: -x, np.array([1.0]), 0.5, np.array([1, 3]))[:, 0].tolist() == [0.5, 0.125]


def test_figure_5() -> None:
    figure = json.loads(json.dumps(theory.figure_5()))
    assert figure["s_1"] == list(TOY) and figure["s_2"] == 2 and figure["steps"][0] == 0 and figure["steps"][-1] == 5000
    assert 100 < len(figure["steps"]) <= 200
    for name, ends in ENDS.items():
        path = np.array(figure["paths"][name])
        assert path.shape == (5, len(figure["steps"]), 2) and (path >= 0).all()
        assert path[:, 0] == near(np.zeros((5, 2)), 4)
        assert path[:, -1] == pytest.approx(np.array(ends), abs=2e-5)
    found = figure["fixed_points"]
    for name, column in {"weight_decay": 0, "first_order": 3, "lemma_1": 4}.items():
        assert np.array(found[name]) == near([row[column] for row in TOY.values()], 6)
    assert np.array(found["decoupled"]) == near([(6.372673, 1.707553)] * 5, 6)
    starved, kept = np.array(found["weight_decay"])[:, 1], np.array(found["decoupled"])[:, 1]
    assert (np.diff(starved) < 0).all() and np.ptp(kept) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lam", [1e-300, 1e-300, 1e-30, 1e-12, 1e12, 1e30, 1e300])
def test_tiny_and_huge_coefficients(lam: float) -> None:
    W, (alpha, z), m = theory.lambert(4.0, lam), theory.uncoupled(4.0, lam), theory.decoupled_margin(lam)
    assert W + np.log(W) == pytest.approx(np.log(4 + lam) - np.log(lam), rel=1e-12, abs=1e-12)
    assert alpha == pytest.approx(np.exp(-W), rel=1e-12) and z == pytest.approx(4 * (alpha / lam), rel=1e-12)
    assert np.log(m) + np.log(lam) == pytest.approx(-np.logaddexp(0, m), rel=1e-12)
    exact = stop(CODE, S2, lam)
    alphas = theory.fixed_point(CODE, S2, lam)
    assert alphas == pytest.approx(expit(-CODE @ exact), rel=1e-9) and (alphas > 0).all() and (alphas < 1).all()
    assert np.isfinite(theory.lemma_1(CODE, S2, lam)).all()
    assert np.isfinite(theory.theorem_2(S2, lam, 0.1)) and theory.theorem_2(S2, lam, 0.1) <= 0
    extremes = np.array([-1e3, 1e3])
    for flow in (theory.primal_flow, theory.decoupled_flow):
        assert np.isfinite(flow(extremes, CODE, S2, lam)).all()


@pytest.mark.filterwarnings("error")
def test_features_of_no_and_of_huge_strength() -> None:
    alpha = theory.fixed_point(CODE, np.array([9.0, 0.0]), 0.01)
    z = theory.response(alpha, CODE, np.array([9.0, 0.0]), 0.01)
    assert z[1] == 0 and alpha == near(expit(-CODE @ z), 12)
    assert theory.uncoupled(1e300, 1e-300)[1] == pytest.approx(1374.32533757, rel=1e-9)  # W(1e600)
    assert theory.uncoupled(0.0, 1.0)[1] == 0
    with pytest.raises(ArithmeticError, match="margins up to 1,000"):
        theory.fixed_point(theory.rotation(0.005), np.array([1e6, 1e-2]), 1e-9)
