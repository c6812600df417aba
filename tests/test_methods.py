"""Methods against numbers worked out by hand from their papers' formulas: logits in, loss and slope out."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from spurbench.bench.plugins.dataset import Training
from spurbench.bench.plugins.method import Batch, Examples, Finished, Method, Problem, Seen, balanced_rows, class_logits
from spurbench.bench.plugins.registry import load_method
from spurbench.bench.store.store import Store
from spurbench.bench.training.optimization import Optimization

Z1, Y1 = [2.0, -1.0, 0.5, -3.0], [1, 0, 0, 1]
Z2, Y2 = [1.5, -0.5, -2.0, 0.25], [1, 1, 0, 0]
Z3, Y3 = [[2.0, 0.0, -1.0], [0.5, 1.5, -0.5], [-1.0, 0.25, 1.0], [0.0, -2.0, 3.0]], [0, 2, 2, 1]
CELEBA = [71629, 66874, 22880, 1387]
RESULTS = Path(__file__).parent.parent / "results" / "paper" / "records.jsonl.gz"


def method(name: str, **hyper_parameters: Any) -> Method:
    return load_method(name)(**hyper_parameters)


def tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def batch(y: Any, classes: int = 2, **fields: Any) -> Batch:
    problem = Problem(
        examples=fields.pop("examples", len(y)),
        classes=classes,
        environments=fields.pop("environments", 0),
        group_counts=fields.pop("group_counts", None),
        class_counts=torch.tensor(fields.pop("class_counts", [0] * classes)),
    )
    return Batch(y=torch.tensor(y), problem=problem, **fields)


def scored(one: Method, z: Any, of: Batch, step: int = 0, state: Any = None) -> tuple[float, Tensor]:
    """The loss and its slope in the logits."""
    logits = tensor(z).requires_grad_()
    loss = one.loss(logits, of, {} if state is None else state, step)
    return loss.item(), torch.autograd.grad(loss, logits)[0]


def close(found: Any, expected: Any, digits: int = 8) -> bool:
    return torch.allclose(torch.as_tensor(found, dtype=torch.float64), tensor(expected), rtol=0, atol=0.6 * 10**-digits)


def in_environments() -> tuple[Tensor, Batch]:
    """D1 and D2 as two environments, interleaved."""
    z = torch.stack([tensor(Z1), tensor(Z2)], 1).flatten()
    y = [label for pair in zip(Y1, Y2, strict=True) for label in pair]
    return z, batch(y, environment=torch.arange(8) % 2, environments=2)


def test_erm() -> None:
    loss, slope = scored(method("erm"), Z1, batch(Y1))
    assert close(loss, 1.11571351)
    assert close(slope, [-0.02980073, 0.06723536, 0.15561483, -0.23814353])


def test_sd_before_and_after_its_delay() -> None:
    sd = method("sd", coef=2e-5, delay=450, rescale=True)
    loss, slope = scored(sd, Z1, batch(Y1), step=449)
    assert close(loss, 1.115784758579, 12)
    assert close(slope, [-0.0297807305, 0.0672253553, 0.1556198328, -0.2381735317], 10)
    loss, slope = scored(sd, Z1, batch(Y1), step=450)
    assert close(loss, 9.35642701715752e-05, 18)
    assert close(slope / 2e-5, [0.97019927, -0.43276464, 0.40561483, -1.73814353])


def test_sd_as_in_equation_17() -> None:
    loss, _ = scored(method("sd", coef=0.01 / 2), Z1, batch(Y1))
    assert close(4 * loss, 4.53410403)
    text = method("sd", coef=0.5, delay=10, rescale=False)
    assert close(scored(text, Z1, batch(Y1), step=9)[0], 1.11571351)
    assert close(scored(text, Z1, batch(Y1), step=10)[0], 1.11571351 + 0.5 * 3.5625)


def test_sd_of_several_classes() -> None:
    assert close(scored(method("sd", coef=0.01), Z3, batch(Y3, 3))[0], 2.04582115)
    assert close(scored(method("sd", coef=0.2), [[2.0, 0.0]], batch([0]))[0], 0.52692801)  # check N9: 0.1 of the sum


@pytest.mark.parametrize(("lambda_", "margin"), [(0.002, 4.66512041), (0.006, 3.76688640), (2.0, 0.22232347)])
def test_sd_fixed_point(lambda_: float, margin: float) -> None:
    """At σ(−m) = λ m each example's slope vanishes, whatever the others do."""
    _, slope = scored(method("sd", coef=lambda_ / 2), [margin, -margin, 1.0], batch([1, 0, 1]))
    assert close(slope[:2], [0.0, 0.0])
    assert slope[2].abs() > 1e-3


def test_sd_gamma() -> None:
    loss, slope = scored(method("sd_gamma", form="released"), Z1, batch(Y1))
    assert close(loss, 2.74457351)
    assert close(slope, [-0.07980073, -0.07676464, 0.16161483, -0.78814353])
    assert close(scored(method("sd_gamma"), Z1, batch(Y1))[0], 1.18431271)


@pytest.mark.parametrize(("lambda_0", "lambda_1", "loss"), [(0.2, 6.498, 11.706212), (6.498, 0.2, 2.456026)])
def test_sd_gamma_as_the_modes_that_scale_logits(lambda_0: float, lambda_1: float, loss: float) -> None:
    """spw1 and spw2 with sp = 0.1 and r = 5.7: λ = 2 sp, and 2 sp r² for the class that is scaled."""
    scaled = method("sd_gamma", lambda_0=lambda_0, lambda_1=lambda_1, gamma_0=0.0, gamma_1=0.0)
    assert close(scored(scaled, Z1, batch(Y1))[0], loss, 5)


def test_sd_gamma_without_one_class() -> None:
    loss, slope = scored(method("sd_gamma", form="released"), Z1, batch([0, 0, 0, 0]))
    assert loss == loss and slope.isfinite().all()


@pytest.mark.parametrize(
    ("z", "y", "penalty", "slope"),
    [
        (Z1, Y1, 0.4427587505, [0.0302039738, 0.0240640639, 0.2461855292, -0.3620128863]),
        (Z2, Y2, 0.0002270321, [-0.0003111016, 0.0055747139, 0.0006839497, -0.0046989018]),
    ],
)
def test_irm_penalty(z: Any, y: Any, penalty: float, slope: Any) -> None:
    """Twice the loss at weight 1 less the risk's part, on one environment."""
    one = batch(y, environment=torch.zeros(4, dtype=torch.long), environments=1)
    erm_loss, erm_slope = scored(method("erm"), z, one)
    loss, found = scored(method("irm", anneal=10), z, one)
    assert close(loss - erm_loss, penalty, 10) and close(found - erm_slope, slope, 10)


def test_irm_penalty_of_several_classes() -> None:
    one = batch(Y3, 3, environment=torch.zeros(4, dtype=torch.long), environments=1)
    erm_loss, erm_slope = scored(method("erm"), Z3, one)
    loss, slope = scored(method("irm", anneal=10), Z3, one)
    assert close(loss - erm_loss, 2.0013849075, 9)
    assert close((slope - erm_slope)[0], [0.1010472696, -0.0521474201, -0.0488998495], 9)
    assert close((slope - erm_slope)[3], [-0.0608904810, -0.7246144025, 0.7855048835], 9)


def test_irm_total_with_the_norm_of_the_weights() -> None:
    irm = method("irm", l2=0.00110794568, penalty_weight=91257.18613115903, anneal=190)
    z, of = in_environments()
    for step, total in ((189, 1.1007916412), (190, 0.2215025267)):
        loss, _ = scored(irm, z.tolist(), of, step)
        assert close(loss + irm.weight_penalty(step) * 50, total, 10)


def test_irm_slope_is_that_of_the_dummy_scale() -> None:
    """The closed form against a double backward through the scale w = 1."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(30, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, (30,), generator=generator)
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    (by_w,) = torch.autograd.grad(cross_entropy(z * w, y), w, create_graph=True)
    (slope,) = torch.autograd.grad(cross_entropy(z, y) + by_w**2, z)
    of = batch(y.tolist(), 4, environment=torch.zeros(30, dtype=torch.long), environments=1)
    assert torch.allclose(scored(method("irm", anneal=5), z.tolist(), of)[1], slope, atol=1e-12)


def test_irm_of_two_halves() -> None:
    one = batch(Y3, 3, environment=torch.zeros(4, dtype=torch.long), environments=1)
    loss, _ = scored(method("irm", anneal=5, penalty="two halves"), Z3, one)
    assert close(loss - scored(method("erm"), Z3, one)[0], -1.1893873870, 9)


def test_irm_of_two_halves_has_no_bias_in_minibatches() -> None:
    """Over all batches of two; the square is too large by half the variance of a slope."""
    whole = batch(Y1, environment=torch.zeros(4, dtype=torch.long), environments=1)
    slopes = [z * (1 / (1 + math.exp(-z)) - y) for z, y in zip(Z1, Y1, strict=True)]

    def penalty(z: Any, of: Batch, **how: str) -> float:
        return scored(method("irm", anneal=5, **how), z, of)[0] - scored(method("erm"), z, of)[0]

    found: dict[str | None, list[float]] = {None: [], "two halves": []}
    for i in range(4):
        for j in range(4):
            pair = batch([Y1[i], Y1[j]], environment=torch.zeros(2, dtype=torch.long), environments=1)
            for how, values in found.items():
                values.append(penalty([Z1[i], Z1[j]], pair, penalty=how))
    biased, unbiased = (sum(values) / 16 for values in found.values())
    assert unbiased == pytest.approx(penalty(Z1, whole), rel=1e-9)
    assert biased - unbiased == pytest.approx(tensor(slopes).var(correction=0).item() / 2, rel=1e-9)


def test_irm_of_two_halves_of_too_few_examples() -> None:
    """One example of an environment makes no second half: the penalty is that of the others, or 0."""
    halves = method("irm", anneal=5, penalty="two halves")
    of = batch([*Y3, 0], 3, environment=torch.tensor([0, 0, 0, 0, 1]), environments=2)
    z = [*Z3, [1.0, 0.0, 0.0]]
    risks = [scored(method("erm"), z[at], batch(of.y[at].tolist(), 3))[0] for at in (slice(4), slice(4, 5))]
    assert close(scored(halves, z, of)[0] - sum(risks) / 2, -1.1893873870, 8)
    alone = batch([0], 3, environment=torch.tensor([1]), environments=2)
    loss, slope = scored(halves, [[1.0, 0.0, 0.0]], alone)
    assert close(loss, risks[1], 8) and slope.isfinite().all()


def test_the_choice_of_a_penalty_leaves_the_runs_there_are_as_they_are() -> None:
    records = [record for record in Store.open(RESULTS).whole_records() if record.method == "irm"]
    assert len(records) > 10
    for record in records:
        now = asdict(method("irm", **record.hyper_parameters))
        assert now["penalty"] is None and record.hyper_parameters.get("penalty") is None
        assert record.with_(hyper_parameters=now).run.id == record.id
        assert record.with_(hyper_parameters=now | {"penalty": "two halves"}).run.id != record.id


def test_irm_as_in_domainbed_and_subpopbench() -> None:
    """Mean risk plus the weighted product of the halves' slopes, undivided; environments, or the attribute's values."""
    z, of = in_environments()
    risk = of.environment_means(of.losses(z)).mean().item()
    halves = [torch.tensor(part).double().view(2, 2).T for part in (Z1, Z2)]  # every other example
    labels = [torch.tensor(part).view(2, 2).T for part in (Y1, Y2)]
    slopes = [(part * (part.sigmoid() - y)).mean(1) for part, y in zip(halves, labels, strict=True)]
    penalty = sum(first * second for first, second in slopes).item() / 2
    assert close(penalty, -0.0053504, 7)
    form = method("irm_domainbed", penalty_weight=50.0, anneal=7)
    by_attribute = replace(of, environment=None, group=of.y * 2 + of.known_environment, problem=replace(
        of.problem, environments=0, group_counts=torch.ones(4)))  # fmt: skip
    subpop = method("irm_subpopbench", penalty_weight=50.0, anneal=7)
    for step, weight in ((6, 1.0), (7, 50.0)):
        assert close(scored(form, z.tolist(), of, step)[0], risk + weight * penalty, 12)
        assert close(scored(subpop, z.tolist(), by_attribute, step)[0], risk + weight * penalty, 12)
    assert (form.resets(), subpop.resets(), method("irm").resets()) == ((7,), (), ())
    assert (form.weight_penalty(7), method("fishr", form="domainbed").resets()) == (0.0, (190,))


def logits_of_risk(*risks: float) -> list[float]:
    """One logit of label 1 for each risk."""
    return (-(tensor(risks).exp() - 1).log()).tolist()


def test_rex() -> None:
    rex = method("rex", penalty_weight=1e4, l2=0.001, anneal=0)
    of = batch([1, 1], environment=torch.arange(2), environments=2)
    z = logits_of_risk(0.55, 0.50)
    loss, slope = scored(rex, z, of)
    assert close(loss + rex.weight_penalty(0) * 60, 0.002611, 10)
    by_risk = slope / torch.autograd.functional.jacobian(lambda t: binary_cross_entropy_with_logits(
        t, torch.ones_like(t), reduction="sum"), tensor(z))  # fmt: skip
    assert close(by_risk, [0.1001, -0.0999])


def test_rex_as_in_domainbed() -> None:
    """Of the risks 0.2, 0.5, 0.8 the mean is 0.5 and the variance 0.06."""
    of = batch([1, 1, 1], environment=torch.arange(3), environments=3)
    form = method("rex_domainbed", anneal=5)
    for step, expected in ((4, 0.5 + 0.06), (5, 0.5 + 10 * 0.06)):
        assert close(scored(form, logits_of_risk(0.2, 0.5, 0.8), of, step)[0], expected, 12)
    assert form.resets() == (5,)


def test_rex_of_three_environments_is_the_variance() -> None:
    risks = tensor([0.2, 0.5, 0.9])
    of = batch([1, 1, 1], environment=torch.arange(3), environments=3)
    loss, _ = scored(method("rex", penalty_weight=0.5, anneal=0), logits_of_risk(*risks.tolist()), of)
    assert close(loss, (risks.sum() + 4 * 0.5 * risks.var(correction=0)).item(), 12)


def test_rex_of_a_batch_from_one_environment_is_its_risk() -> None:
    """Nothing is taken for the risk of the other: at z = 0 the slope is 0.00004 long, not 0.245."""
    of = batch([0, 1] * 4, environment=torch.ones(8, dtype=torch.long), environments=2)
    loss, slope = scored(method("rex", anneal=0), [0.0] * 8, of)
    assert close(loss, 2 * math.log(2) / 1e4, 12) and close(slope.norm(), 2 * 0.5 / math.sqrt(8) / 1e4, 12)


def test_rex_and_irm_of_a_batch_without_an_environment() -> None:
    """The others count as if they were all there are; the sum of V-REx stays as large."""
    z, two = in_environments()
    of = batch(two.y.tolist(), environment=torch.tensor([0, 2] * 4), environments=3)
    irm = method("irm", anneal=0, penalty_weight=100.0)
    assert scored(irm, z.tolist(), of)[0] == pytest.approx(scored(irm, z.tolist(), two)[0], rel=1e-12)
    rex, risks = method("rex", anneal=0, penalty_weight=100.0), tensor([1.11571351, 0.53208942])
    assert close(scored(rex, z.tolist(), of)[0], (3 * risks.mean() / 100 + 4 * risks.var(correction=0)).item(), 7)


@pytest.mark.parametrize("name", ["irm", "rex", "group_dro"])
def test_stacked_seeds_may_lack_different_ones(name: str) -> None:
    one, counts = method(name), torch.tensor([1, 2, 3, 2])
    z, codes = torch.randn(3, 6), torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1]])

    def loss(z: Tensor, code: Tensor) -> Tensor:
        state = {"q": torch.full((4,), 0.25)}
        known = {"group": code} if name == "group_dro" else {"environment": code}
        return one.loss(z, batch([0, 1] * 3, environments=2, group_counts=counts, **known), state, 200)

    alone = torch.stack([loss(*each) for each in zip(z, codes, strict=True)])
    assert torch.allclose(torch.func.vmap(loss)(z, codes), alone)


def test_a_mean_that_may_be_absent_is_not_taken_for_a_number() -> None:
    found = batch([0, 0, 2], 3).class_means(tensor([1.0, 2.0, 5.0]))
    assert found.present.tolist() == [True, False, True]
    assert (found.mean().item(), found.var().item()) == (3.25, 1.75**2)
    assert found.filled(-math.inf).tolist() == [1.5, -math.inf, 5.0]
    with pytest.raises(AttributeError, match=r"some may be absent, say what those count as: .filled\(0.0\).sum"):
        _ = found.sum
    with pytest.raises(TypeError):
        _ = tensor([1.0, 1.0, 1.0]) @ found  # type: ignore[operator]


@pytest.mark.parametrize(
    ("adjustment", "qs", "losses"),
    [
        (1.0, [[0.24798270, 0.24972500, 0.24873492, 0.25355738], [0.24748938, 0.25047780, 0.24924222, 0.25279060]],
         [1.10725421, 0.29965673]),
        (0.0, [[0.247999, 0.249741, 0.248744, 0.253516], [0.247505, 0.250493, 0.249244, 0.252758]],
         [1.107176, 0.299668]),
    ],
)  # fmt: skip
def test_group_dro_over_two_steps(adjustment: float, qs: Any, losses: Any) -> None:
    """The last group is not in the second batch: it keeps its q before that is normalised."""
    dro = method("group_dro", eta=0.01, adjustment=adjustment)
    counts = torch.tensor(CELEBA)
    state = {"q": torch.full((4,), 0.25, dtype=torch.float64)}
    batches = [([0.2, 0.4, 1.0, 3.0, 0.6, 2.0], [0, 0, 1, 3, 2, 3]), ([0.1, 0.3, 0.9, 0.5], [0, 1, 1, 2])]
    digits = 8 if adjustment else 6
    for (values, groups), q, expected in zip(batches, qs, losses, strict=True):
        of = batch([1] * len(values), group=torch.tensor(groups), group_counts=counts)
        loss, _ = scored(dro, logits_of_risk(*values), of, state=state)
        assert close(loss, expected, digits) and close(state["q"], q, digits)


@pytest.mark.parametrize("adjustment", [0.0, 1.0, 5.0])
def test_group_dro_gives_no_weight_to_a_group_that_no_one_is_in(adjustment: float) -> None:
    dro, counts = method("group_dro", eta=0.1, adjustment=adjustment), torch.tensor([80, 0, 20, 60])
    of = batch([1] * 160, group=torch.arange(4).repeat_interleave(counts), group_counts=counts)
    state = dro.init_state(of.problem)
    assert state["q"].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    for step in range(51):
        loss, slope = scored(dro, [0.0] * 160, of, step, state)
        assert state["q"][1] == 0 and state["q"].sum().item() == pytest.approx(1)
        assert loss == pytest.approx(math.log(2)) and slope.isfinite().all() and (slope != 0).all()
    assert state["q"][2] >= state["q"][3] >= state["q"][0] > 0.05


def test_group_dro_of_a_batch_without_a_group() -> None:
    """Its weight is that of before, against the others', and none of it goes to them."""
    dro, counts = method("group_dro", eta=0.5, adjustment=3.0), torch.tensor([100, 100, 100, 1])
    of = batch([1] * 3, group=torch.arange(3), group_counts=counts)
    state = {"q": tensor([0.2, 0.3, 0.1, 0.4])}
    risks = [0.2, 0.9, 0.5]
    grown = [q * math.exp(0.5 * (risk + 0.3)) for q, risk in zip((0.2, 0.3, 0.1), risks, strict=True)] + [0.4]
    loss, _ = scored(dro, logits_of_risk(*risks), of, state=state)
    assert close(state["q"], [q / sum(grown) for q in grown], 12)
    assert close(loss, sum(q * risk for q, risk in zip(grown, risks, strict=False)) / sum(grown), 12)


def test_group_dro_as_in_domainbed() -> None:
    """q of the environments, e^(η risk) of each; one that is not in the second batch adds nothing to its loss."""
    dro, state = method("group_dro_domainbed", eta=0.5), {"q": torch.full((3,), 1 / 3, dtype=torch.float64)}
    first = batch([1] * 4, environment=torch.tensor([0, 0, 1, 2]), environments=3)
    grown = [math.exp(0.5 * risk) for risk in (0.3, 0.9, 0.5)]
    loss, _ = scored(dro, logits_of_risk(0.2, 0.4, 0.9, 0.5), first, state=state)
    assert close(state["q"], [q / sum(grown) for q in grown], 12)
    assert close(loss, sum(q * risk for q, risk in zip(grown, (0.3, 0.9, 0.5), strict=True)) / sum(grown), 12)
    second = batch([1, 1], environment=torch.tensor([0, 2]), environments=3)
    q = [state["q"][0].item() * math.exp(0.35), state["q"][1].item(), state["q"][2].item() * math.exp(0.05)]
    loss, _ = scored(dro, logits_of_risk(0.7, 0.1), second, state=state)
    assert close(loss, (q[0] * 0.7 + q[2] * 0.1) / sum(q), 12) and close(state["q"].sum(), 1.0)
    begun = dro.init_state(replace(first.problem, device=torch.device("cpu")))
    assert begun["q"].tolist() == pytest.approx([1 / 3] * 3)


def test_group_dro_weighs_examples() -> None:
    """d loss / d loss of an example is q of its group over the group's size in the batch."""
    dro, counts = method("group_dro", eta=0.01, adjustment=1.0), torch.tensor(CELEBA)
    z = logits_of_risk(0.2, 0.4, 1.0, 3.0, 0.6, 2.0)
    of = batch([1] * 6, group=torch.tensor([0, 0, 1, 3, 2, 3]), group_counts=counts)
    _, slope = scored(dro, z, of, state={"q": torch.full((4,), 0.25, dtype=torch.float64)})
    weights = slope / -(tensor(z).neg().sigmoid())
    assert close(weights, [0.12399135, 0.12399135, 0.24972500, 0.12677869, 0.24873492, 0.12677869])


def test_lff_over_two_steps() -> None:
    """Six training examples, four in each batch; the second network's losses make the weights."""
    lff = method("lff", q=0.7, ema=0.7)
    y = torch.tensor([0, 0, 0, 1, 1, 1])
    state = {name: torch.zeros(6, dtype=torch.float64) for name in ("biased", "debiased", "seen")} | {"y": y * 0 - 1}
    steps = [
        ([0, 1, 3, 4], [0.2, 1.5, 0.1, 2.0], [0.6, 0.9, 0.3, 1.0], 0.27321428, [0.166667, 0.5, 0.142857, 0.5]),
        ([0, 2, 4, 5], [0.1, 1.0, 2.4, 0.5], [0.4, 0.5, 0.8, 0.7], 0.22616281,
         [0.15887850, 0.54545454, 0.5, 0.24053224]),
    ]  # fmt: skip
    for index, biased, debiased, expected, weights in steps:
        sign = 2 * y[index].double() - 1
        second = tensor(logits_of_risk(*biased)) * sign
        of = batch(y[index].tolist(), index=torch.tensor(index), second_logits=second, examples=6)
        z = (tensor(logits_of_risk(*debiased)) * sign).tolist()
        loss, slope = scored(lff, z, of, state=state)
        own = (tensor(biased).neg().exp() ** 0.7 * 0.7 * tensor(biased)).mean().item()  # of the biased network
        assert close(loss - own, expected)
        assert close(slope / (tensor(z).sigmoid() - y[index]) * 4, weights, 6)
    assert close(state["biased"], [0.17, 1.5, 1.0, 0.1, 2.12, 0.5])
    assert close(state["debiased"], [0.54, 0.9, 0.5, 0.3, 0.94, 0.7])


def test_lff_biased_loss_is_the_released_generalised_cross_entropy() -> None:
    lff = method("lff", q=0.7)
    second = tensor(Z3).requires_grad_()
    of = batch(Y3, 3, index=torch.arange(4), second_logits=second)
    state = {name: torch.zeros(4, dtype=torch.float64) for name in ("biased", "debiased", "seen")}
    loss = lff.loss(tensor([[50.0 * (k == y) for k in range(3)] for y in Y3]), of, state | {"y": torch.tensor(Y3)}, 0)
    assert close(loss.item(), 0.18979905)
    (slope,) = torch.autograd.grad(loss, second)
    assert close(slope[0], [-0.02427166, 0.01774401, 0.00652765])


def test_adam_keeps_its_memory_when_the_loss_shrinks() -> None:
    """What SD's released rule rests on: after 450 steps at 0.01 a gradient of 2e-5 moves a weight by almost nothing."""
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adam = Optimization([[p]], Training(optimizer="adam", lr=1e-4))
    seen = {}
    for step in range(2001):
        before = p.item()
        p.grad = torch.full_like(p, 0.01 if step < 450 else 2e-5)
        with torch.no_grad():
            adam.step()
        seen[step] = p.item() - before
        if step == 449:
            assert close(p.item(), -0.0449999550, 10)
    for step, move in ((450, -9.01441e-05), (460, -3.19957e-05), (500, -7.09162e-07), (650, -2.54121e-07)):
        assert seen[step] == pytest.approx(move, rel=1e-5)
    assert close(p.item(), -0.0465618566, 10)


def test_an_optimizer_that_begins_anew() -> None:
    """At step 3 Adam moves as at its first step, under the schedule as it goes on."""
    p, fresh = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    training = Training(optimizer="adam", lr=0.1, steps=4, drops="0.5")
    adam, other = (
        Optimization([[p]], training, resets=(3,)),
        Optimization([[fresh]], Training(optimizer="adam", lr=0.01)),
    )
    for step in range(5):
        before = p.detach().clone()
        for one in (p, fresh):
            one.grad = torch.tensor([5.0, -0.3 * step], dtype=torch.float64)
        with torch.no_grad():
            adam.step()
            if step >= 3:
                was = fresh.detach().clone()
                other.step()
                assert torch.allclose(p - before, fresh - was, rtol=1e-12)


# ---- losses of examples and classes ---------------------------------------------------------------------------------

Z4, Y4, CLASSES, GROUPS = [[1.0, -1.0], [0.2, 0.4], [-0.5, 2.0]], [0, 0, 1], [3682, 1113], [3498, 184, 56, 1057]
V = [0.1, 0.4, 0.2, 1.5, 0.8, 0.05, 0.9]


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 0.1533195), (2.0, 0.0811829), (0.0, 0.3346522)])
def test_focal(gamma: float, expected: float) -> None:
    assert close(scored(method("focal", gamma=gamma), Z4, batch(Y4))[0], expected, 7)


def test_focal_of_what_is_certain() -> None:
    loss, slope = scored(method("focal", gamma=0.5), [100.0, -100.0], batch([1, 0]))
    assert loss < 1e-12 and slope.isfinite().all()


def test_generalised_cross_entropy() -> None:
    assert close(scored(method("gce"), Z4, batch(Y4))[0], (0.1214526 + 0.6114947 + 0.0767510) / 3, 7)
    assert close(scored(method("gce", q=1.0), [0.0, math.log(3)], batch([1, 1]))[0], (0.5 + 0.25) / 2)


def test_ldam() -> None:
    ldam, of = method("ldam"), batch(Y4, class_counts=CLASSES)
    assert close(ldam.margins(torch.tensor(CLASSES)), [0.370743, 0.5], 6)  # type: ignore[attr-defined]
    assert close(scored(ldam, Z4, of)[0], 5.7074294, 5)
    one, two = (scored(ldam, z, of)[0] for z in ([-2.0, 0.2, 2.5], Z4))  # one logit is that of class 1 above class 0
    assert close(one, two)


def test_balanced_softmax() -> None:
    of = batch(Y4, class_counts=CLASSES)
    assert close(scored(method("balanced_softmax"), Z4, of)[0], 0.1981884, 6)
    assert close(scored(method("balanced_softmax", tau=0.0), Z4, of)[0], 0.3346522, 7)


def test_reweighting_by_counts() -> None:
    """The weights of four counts, and the loss of two classes."""
    counts = torch.tensor(GROUPS)
    sqrt, full, balanced = method("sqrt_reweight"), method("sqrt_reweight", power=1.0), method("class_balanced")
    assert close(full.weights(counts), [0.046628, 0.886448, 2.912613, 0.154311], 6)  # type: ignore[attr-defined]
    assert close(sqrt.weights(counts), [0.265204, 1.156327, 2.096020, 0.482450], 6)  # type: ignore[attr-defined]
    assert close(balanced.weights(counts), [0.054803, 0.887248, 2.896681, 0.161269], 6)  # type: ignore[attr-defined]
    loss = scored(full, Z4, batch(Y4, class_counts=[3, 1]))[0]
    assert close(loss, (0.5 * 0.1269280 + 0.5 * 0.7981389 + 1.5 * 0.0788897) / 3, 6)


def test_reweighting_by_group() -> None:
    """As by class, of groups; one without examples has no weight, and the others' sum to the number of all."""
    counts = torch.tensor(GROUPS)
    for by, expected in (
        ("number", [0.046628, 0.886448, 2.912613, 0.154311]),
        ("square root", [0.265204, 1.156327, 2.096020, 0.482450]),
        ("effective number", [0.054803, 0.887248, 2.896681, 0.161269]),
    ):
        own = method("group_reweight", by=by)
        assert close(own.weights(counts), expected, 6)  # type: ignore[attr-defined]
        lacking = own.weights(torch.tensor([3498, 0, 56, 1057]))  # type: ignore[attr-defined]
        assert lacking[1] == 0 and close(lacking.sum(), 4.0)
    of = batch(Y4, group=torch.tensor([0, 1, 2]), group_counts=counts)
    assert close(scored(method("group_reweight"), Z4, of)[0], 0.3144007, 6)


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.1, 1.5), (0.2, 1.3285714), (0.5, 0.9714286), (1.0, 0.5642857), (0.01, 1.5)]
)
def test_cvar_dro(alpha: float, expected: float) -> None:
    """The loss of V, given as logits of examples of class 0; its slopes are the weights times those of the losses."""
    logits = tensor(V).expm1().log()
    loss, slope = scored(method("cvar_dro", alpha=alpha), logits, batch([0] * 7))
    assert close(loss, expected, 7) and close((slope / logits.sigmoid()).sum(), 1.0)


@pytest.mark.parametrize(
    ("rho", "expected"), [(0.5, 1.0545869), (1.0, 1.2318985), (2.0, 1.3971304), (3.0, 1.5), (100.0, 1.5)]
)
def test_chi2_dro(rho: float, expected: float) -> None:
    chi2 = method("chi2_dro", rho=rho)
    assert close(scored(chi2, tensor(V).expm1().log(), batch([0] * 7))[0], expected, 6)
    weights = chi2.weights(tensor(sorted(V, reverse=True)))  # type: ignore[attr-defined]
    assert close(weights.sum(), 1.0) and weights.min() >= 0
    if rho <= 2:
        assert close((7 * weights - 1).square().mean() / 2, rho)


def test_chi2_dro_keeps_the_digits_of_nearly_equal_losses() -> None:
    chi2, losses = method("chi2_dro", rho=1.0), (tensor(sorted(V, reverse=True)) + 100).float()
    exact = chi2.weights(losses.double())  # type: ignore[attr-defined]
    assert close(chi2.weights(losses), exact.tolist(), 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([2.0, 2.0, 2.0], [1 / 3] * 3), ([0.0, 0.0], [0.5, 0.5]), ([2.0, 2.0, 1.0, 0.0], [0.5, 0.5, 0.0, 0.0]),
     ([1.0], [1.0])],
)  # fmt: skip
def test_chi2_dro_of_equal_losses(losses: list[float], expected: list[float]) -> None:
    assert close(method("chi2_dro", rho=0.5).weights(tensor(losses)), expected)  # type: ignore[attr-defined]


# ---- features -------------------------------------------------------------------------------------------------------

FIRST, SECOND = [[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]], [[1.0, 3.0], [0.0, 0.0]]
H = [[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [2.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 2.0, 1.0]]
T, E = [1, 0, 1, 0, 1], [0, 0, 0, 1, 1]
VARIANCES = [[0.1011905, 0.1286833, 0.2510679, 0.1664085], [0.0790106, 0.7110954, 0.3160424, 0.3160424]]


def of_features(features: Any, y: list[int] = T, environments: list[int] = E, **more: Any) -> Batch:
    return batch(y, features=tensor(features), environment=torch.tensor(environments), environments=2, **more)


def test_alignment_of_features() -> None:
    of = of_features(FIRST + SECOND)
    assert close(method("coral").penalty(of.known_features, of), 6.0)  # type: ignore[attr-defined]
    assert close(method("mmd").penalty(of.known_features, of), 3.3512359, 7)  # type: ignore[attr-defined]
    alone = of_features(FIRST + SECOND[:1], T[:4], E[:4])
    assert method("coral").penalty(alone.known_features, alone) == 0  # type: ignore[attr-defined]


def test_alignment_is_added_to_the_mean_risk() -> None:
    of = of_features(FIRST + SECOND)
    for name, penalty in (("coral", 6.0), ("mmd", 3.3512359)):
        added = scored(method(name, gamma=2.0), [0.0] * 5, of)[0] - math.log(2)
        assert close(added, 2 * penalty, 6)


def test_fishr() -> None:
    """Variances of the last layer's gradients, and their distance in both forms."""
    z = tensor(H) @ tensor([0.3, -0.2, 0.1]) + 0.05
    of, script = of_features(H), method("fishr")
    loss, _ = scored(script, z, of, step=script.anneal)  # type: ignore[attr-defined]
    risk = of.environment_means(of.losses(z)).mean().item()
    assert close(loss, risk / 91257.18613115903 + 0.1831539, 7)
    assert close(scored(script, z, of, step=0)[0], risk + 0.1831539, 7)
    assert close(script.weight_penalty(0), 0.00110794568) and script.weight_penalty(190) < 2e-8
    form = method("fishr", form="domainbed", penalty_weight=1.0, anneal=0, ema=0.9)
    state = form.init_state(replace(of.problem, features=3))
    found = scored(form, z, of, step=0, state=state)[0]
    assert close(found, risk + 0.0228942, 7)  # 0.1 v / (1 − 0.9): at the first step as without a memory
    assert close(state["variances"], [[0.1 * v for v in of_one] for of_one in VARIANCES], 7)
    assert close(scored(form, z, of, state=state)[0], risk + 0.0228942 * 1.9**2, 6)


def test_fishr_of_two_logits() -> None:
    z = tensor(H) @ tensor([[0.3, -0.2, 0.1], [0.0, 0.4, -0.1]]).T
    of = of_features(H)
    script, form = method("fishr", anneal=0, penalty_weight=1.0), method("fishr", form="domainbed", ema=0.9)
    risk = of.environment_means(of.losses(z)).mean().item()
    assert close(scored(script, z, of)[0], risk + 0.2890521, 7)
    state = form.init_state(replace(of.problem, features=3, outputs=2))
    assert close(scored(form, z, of, step=190, state=state)[0], risk + 91257.18613115903 * 0.0180658, 2)


def test_information_bottleneck() -> None:
    """IRM's penalty by halves, and the sample variance of the features, each from its own step on."""
    z, of = in_environments()
    of = replace(of, features=torch.stack([z, 2 * z], 1))
    ib = method("ib_irm", irm_weight=3.0, irm_anneal=5, ib_weight=7.0, ib_anneal=9)
    risk = of.environment_means(of.losses(z)).mean().item()
    first, second = of.environment_halves(z * (z.sigmoid() - of.y))
    irm = (first * second).mean().item()
    spread = torch.stack([tensor(values).var() * 2.5 for values in (Z1, Z2)]).mean().item()
    for step, expected in ((0, risk + irm), (5, risk + 3 * irm), (9, risk + 3 * irm + 7 * spread)):
        assert close(scored(ib, z, of, step)[0], expected)


# ---- what is drawn --------------------------------------------------------------------------------------------------


def examples(group: list[int], attributes: int = 2, seed: int = 0) -> Examples:
    of = torch.tensor(group)
    return Examples(of // attributes, of, None, torch.Generator().manual_seed(seed))


UNEQUAL = [0] * 9 + [1] * 3 + [2] * 2 + [3] * 6


@pytest.mark.parametrize(("name", "expected"), [("subg", [2, 2, 2, 2]), ("suby", [None, None, 2, 6])])
def test_a_subset_in_which_all_are_as_many(name: str, expected: list[int | None]) -> None:
    """As many of each group, or class; another subset for another seed."""
    drawn = [method(name).draw(examples(UNEQUAL, seed=seed)) for seed in (0, 0, 1)]
    rows = [set(draw.rows.tolist()) for draw in drawn if draw.rows is not None]
    counts = torch.tensor(UNEQUAL)[sorted(rows[0])].bincount(minlength=4).tolist()
    assert all(one in (None, count) for one, count in zip(expected, counts, strict=True))
    assert sum(counts[:2]) == sum(counts[2:]) and drawn[0].weights is None
    assert rows[0] == rows[1] != rows[2] and all(len(of) == sum(counts) for of in rows)


def test_a_group_without_examples_is_in_no_subset() -> None:
    drawn = method("subg").draw(examples([0, 0, 0, 3, 3]))
    assert drawn.rows is not None and sorted(torch.tensor([0, 0, 0, 3, 3])[drawn.rows].tolist()) == [0, 0, 3, 3]


@pytest.mark.parametrize(("name", "of"), [("rwg", "group"), ("rwy", "y")])
def test_every_group_or_class_is_drawn_equally_often(name: str, of: str) -> None:
    given = examples(UNEQUAL)
    drawn = method(name).draw(given)
    assert drawn.rows is None and drawn.weights is not None
    shares = torch.zeros(4).scatter_add(0, getattr(given, of), drawn.weights / drawn.weights.sum())
    assert close(shares[shares > 0], [1 / (4 if of == "group" else 2)] * (4 if of == "group" else 2), 6)


@pytest.mark.parametrize(("ratio", "rows"), [(1.0, 4), (2.5, 7), (100.0, 20)])
def test_mixture_balancing(ratio: float, rows: int) -> None:
    given = examples([0] * 18 + [2] * 2)
    drawn = method("mixture", ratio=ratio).draw(given)
    assert drawn.rows is not None and drawn.weights is not None and len(drawn.rows) == rows
    y = given.y[drawn.rows]
    assert y.sum() == 2 and close(drawn.weights[y == 1].sum(), drawn.weights[y == 0].sum().item(), 6)


# ---- what goes in ---------------------------------------------------------------------------------------------------

PICTURES = torch.arange(4.0)[:, None, None, None].expand(4, 1, 10, 10)


def test_soft_labels() -> None:
    """The cross-entropy of a mixed label is the mix of the cross-entropies; of one logit as of two."""
    hard, soft = batch([0, 1, 1]), torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    z = tensor([1.0, -2.0, 0.5])
    mixed = replace(hard, soft=soft).losses(z)
    each = torch.stack([batch([k] * 3).losses(z) for k in range(2)], 1)
    assert close(mixed, (soft * each).sum(1).tolist())
    assert close(replace(hard, soft=soft).losses(class_logits(z)), mixed.tolist())


def test_mixup() -> None:
    x, soft = method("mixup").mix(PICTURES, batch([0, 0, 1, 1]), torch.Generator().manual_seed(0))
    assert close(soft.sum(1), [1.0] * 4, 6) and x.shape == PICTURES.shape
    share = x[:, 0, 0, 0]  # of pictures that are their own number everywhere: share · i + (1 − share) · partner
    assert ((x - share[:, None, None, None]).abs() < 1e-6).all() and close(share.sum(), 6.0, 5)


def test_mixup_with_a_share_for_each_example() -> None:
    """Labels of the second class tell every example's share: 1 less that of its own, of examples of the first one."""
    x, y = torch.eye(8), [0] * 4 + [1] * 4
    for shares, several in ((None, False), ("each", True)):
        one = method("mixup", alpha=2.0, shares=shares)
        mixed, soft = one.mix(x, batch(y), torch.Generator().manual_seed(0))
        assert close(mixed.sum(1), [1.0] * 8, 6) and close(mixed[:, 4:].sum(1), soft[:, 1].tolist(), 6)
        own = mixed.diagonal()[mixed.diagonal() < 1]
        assert (len(set(own.tolist())) > 1) == several and len(own) > 3


def test_cutmix() -> None:
    """Labels are mixed by the area that was replaced, which lies in a rectangle."""
    for seed in range(20):
        x, soft = method("cutmix").mix(PICTURES, batch([0, 1, 0, 1]), torch.Generator().manual_seed(seed))
        replaced = (x != PICTURES)[:, 0]
        moved = replaced.any(-1).any(-1)
        inside = replaced[moved].float()
        if len(inside):
            area = inside[0].mean().item()
            assert inside[0].sum() == inside[0].any(0).sum() * inside[0].any(1).sum()
            assert all(soft[i].max() > 1 - area - 1e-6 for i in range(4))
    with pytest.raises(ValueError, match="cutmix takes pictures"):
        method("cutmix").mix(torch.zeros(4, 7), batch([0, 1, 0, 1]), torch.Generator())


@pytest.mark.parametrize("p_sel", [0.0, 1.0])
def test_lisa(p_sel: float) -> None:
    """Partners share the label and not the attribute, or the attribute and not the label; without one, nothing."""
    groups = torch.tensor([0, 1, 2, 3, 0, 3])
    x = torch.eye(6)
    of = batch((groups // 2).tolist(), group=groups, group_counts=torch.tensor([2, 1, 1, 2]))
    mixed, soft = method("lisa", p_sel=p_sel).mix(x, of, torch.Generator().manual_seed(3))
    for i, row in enumerate(mixed):
        partner = int((row * (1 - x[i])).argmax())
        assert row[i] < 1 and (groups[i] // 2 == groups[partner] // 2) == (p_sel == 1)
        assert (groups[i] % 2 == groups[partner] % 2) == (p_sel == 0)
        assert close(soft[i].max(), 1.0 if p_sel else max(row[i].item(), 1 - row[i].item()), 6)
    alone = replace(of, group=torch.zeros_like(groups), y=torch.zeros_like(groups))
    assert torch.equal(method("lisa", p_sel=p_sel).mix(x, alone, torch.Generator())[0], x)


@pytest.mark.parametrize("p_sel", [0.0, 1.0])
def test_lisa_with_cutmix(p_sel: float) -> None:
    """A picture is its own number everywhere, but for a rectangle that is its partner's."""
    groups = torch.tensor([0, 1, 2, 3])
    of = batch((groups // 2).tolist(), group=groups, group_counts=torch.ones(4))
    areas = set()
    for seed in range(9):
        mixed, soft = method("lisa_cutmix", p_sel=p_sel).mix(PICTURES, of, torch.Generator().manual_seed(seed))
        for i, picture in enumerate(mixed):
            other, area = int(picture.max() + picture.min() - i), (picture != i).float().mean().item()
            areas.add(area)
            assert not area or (groups[i] // 2 == groups[other] // 2, groups[i] % 2 == groups[other] % 2) == (
                p_sel == 1, p_sel == 0)  # fmt: skip
            assert close(soft[i, i // 2], 1.0 if p_sel or not area else 1 - area, 6)
    assert len(areas) > 3
    with pytest.raises(ValueError, match="lisa_cutmix takes pictures"):
        method("lisa_cutmix").mix(torch.zeros(4, 7), of, torch.Generator())


# ---- methods that start from a finished run -------------------------------------------------------------------------


def seen(logits: list[Any], y: list[int], **more: Any) -> Seen:
    z = torch.tensor(logits)
    return Seen(torch.tensor(y), more.get("group"), None, z, more.get("features", torch.zeros(len(y), 2)))


def test_eiil_by_hand() -> None:
    from spurbench.methods.eiil import ascent, violation
    from spurbench.methods.irm import scale_slope

    slopes = scale_slope(torch.tensor([1.2, -0.4, 0.3, -2, 0.8]), torch.tensor([1, 0, 1, 0, 1]))
    weights = torch.tensor([0.5, -0.3, 0.1, 0.9, -1.0]).requires_grad_()
    share = weights.sigmoid()
    risks = [(part * slopes).mean().square().item() for part in (share, 1 - share)]
    assert risks == pytest.approx([0.0118563, 0.0103207], abs=1e-6)
    assert violation(slopes, share).item() == pytest.approx(0.0110885, abs=1e-6)
    (gradient,) = torch.autograd.grad(violation(slopes, share), weights)
    assert torch.allclose(ascent(slopes, share), gradient, atol=1e-8)


FIVE = [[2.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [0.5, 0.0], [0.0, 3.0]]


def test_afr_by_hand() -> None:
    from spurbench.methods.afr import AFR

    base = seen(FIVE, [0, 0, 1, 1, 1])
    weights = AFR(gamma=4.0).weights(base, torch.arange(5))
    assert weights.tolist() == pytest.approx([0.0534300, 0.6175710, 0.0356200, 0.2666487, 0.0267303], abs=1e-6)
    assert (weights * base.losses).sum().item() == pytest.approx(1.0833704, abs=1e-5)


def test_self_by_hand() -> None:
    from spurbench.methods.self_llr import disagreement

    last = torch.tensor(FIVE)
    found = disagreement(last, 0.5 * last.flip(0)).tolist()
    assert found == pytest.approx([0.6435127, 0.0950215, 0.0413039, 0.0612297, 0.8297800], abs=1e-6)


def test_xrm_by_hand() -> None:
    from spurbench.methods.xrm import class_risks, flip_probability

    assert flip_probability(torch.tensor([0.9, 0.6, 0.5]), 2).tolist() == pytest.approx([0.8, 0.2, 0.0], abs=1e-6)
    assert flip_probability(torch.tensor(0.6), 3).item() == pytest.approx(0.4, abs=1e-6)
    logits = torch.tensor([[1.0, -1.0], [0.2, 0.4], [-0.5, 2.0]])
    assert class_risks(logits, torch.tensor([0, 0, 1]), 2).item() == pytest.approx(0.5414232, abs=1e-6)


def test_xrm_flips_what_the_other_twin_is_sure_of() -> None:
    """Two examples of each half; the held-out twin contradicts the labels of the first of each, with certainty."""
    xrm = method("xrm")
    random = torch.tensor([0.1, 0.2, 0.6, 0.7])  # the first two are the second twin's
    problem = Problem(4, 2)
    y = torch.tensor([0, 0, 0, 0])
    first, second = torch.tensor([9.0, -9.0, -9.0, -9.0]), torch.tensor([-9.0, -9.0, 9.0, -9.0])
    state = xrm.init_state(problem)
    xrm.loss(first, Batch(y, problem, index=torch.arange(4), second_logits=second, random=random), state, 0)
    assert state["half"].tolist() == [1, 1, 0, 0] and state["y"].tolist() == [1, 0, 1, 0]


def test_cnc_by_hand() -> None:
    """One anchor, [1, 0], with two positives and two negatives; the others are none, as the base gets them wrong."""
    from spurbench.methods.cnc import contrast

    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.2], [-1.0, 0.0]])
    unit = torch.nn.functional.normalize(features, dim=1)
    y, predicted = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 1, 0, 0])
    assert contrast(unit @ unit.T / 0.1, y, predicted).item() == pytest.approx(6.3332157, abs=1e-5)


def test_jtt_has_the_entries_of_the_released_code_and_of_the_paper() -> None:
    finished = Finished(seen(FIVE, [0, 0, 1, 1, 1]), None, (torch.ones(2, 2), torch.zeros(2)))  # two are wrong
    for form, entries in (("released", 5 + 20 * 2), ("paper", 5 + 19 * 2)):
        start = method("jtt", form=form, upweight=20).begin(finished, torch.Generator())
        assert start.draw.rows is not None and len(start.draw.rows) == entries
        assert start.draw.rows.bincount().tolist() == [1, entries // 2 - 1, 1, entries // 2 - 1, 1]
    weighted = method("jtt", form="subpopbench", upweight=20).begin(finished, torch.Generator())
    assert weighted.values["weight"].tolist() == [1, 20, 1, 20, 1] and weighted.draw.rows is None


def test_dfr_is_the_mean_of_penalised_fits() -> None:
    """Forty points: the scale's source, the order of strengths, the mean of the heads, liblinear's intercept."""
    from sklearn.linear_model import LogisticRegression

    from spurbench.methods import dfr

    generator = torch.Generator().manual_seed(0)
    y, x = torch.arange(40) % 2, torch.randn(40, 3, generator=generator)
    x[:, 0] += 2.0 * y
    group = 2 * y + (torch.arange(40) % 5 == 0)
    base = seen([[0.0, 0.0]] * 40, y.tolist(), group=group, features=x)
    scale = dfr.scale_of(x)
    assert torch.allclose(scale[0], x.mean(0)) and torch.allclose(scale[1], x.std(0, correction=0))
    weight, bias = dfr.fit(x, y, scale, 0.3)
    sure = LogisticRegression(l1_ratio=1.0, C=0.3, solver="liblinear").fit(
        ((x - scale[0]) / scale[1]).numpy(), y.numpy()
    )
    ours = ((x @ weight.T + bias)[:, 0]).numpy()
    assert ours == pytest.approx(sure.decision_function(((x - scale[0]) / scale[1]).numpy()), abs=1e-5)
    strong = dfr.fit(x[:, 1:] * 0, y, (torch.zeros(2), torch.ones(2)), 0.01)
    assert strong[1].item() == 0, "the intercept is penalised, too"
    heads = [(torch.tensor([[k, 0.0, 0.0]]), torch.tensor([-k])) for k in (1.0, 1.0, 0.2, -1.0, 0.0, 0.0, 0.0)]
    assert dfr.best_strength(heads, base, torch.arange(40)) == 1.0, "of equals the first, the largest"
    made = dfr.DFR(fits=2).fit_many(
        base, scale, 0.3, (torch.ones(2, 3), torch.zeros(2)), torch.Generator().manual_seed(3)
    )
    again = torch.Generator().manual_seed(3)
    fits = [dfr.fit(x[rows], y[rows], scale, 0.3) for rows in (balanced_rows(group, again) for _ in range(2))]
    assert torch.allclose(made[0][1], (fits[0][0] + fits[1][0])[0] / 2) and (made[0][0] == 0).all()


def test_crt_balances_groups_in_its_draws_or_its_loss() -> None:
    group = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])
    base = seen([[0.0, 0.0]] * 8, (group // 2).tolist(), group=group)
    finished = Finished(base, None, (torch.ones(2, 2), torch.zeros(2)))
    drawn, weighed, plain = (
        method("crt", balance=balance).begin(finished, torch.Generator().manual_seed(0))
        for balance in ("draws", "weights", "none")
    )
    rare = [1 / 3] * 3 + [1.0] + [0.5] * 4
    assert drawn.draw.weights is not None and close(drawn.draw.weights, rare, 6) and not drawn.values
    assert close(weighed.values["weight"], [2 * one for one in rare], 6) and weighed.draw.weights is None
    assert plain.head is not None and drawn.head is not None and torch.equal(plain.head[0], drawn.head[0])
    assert (plain.head[0] != 1).all(), "the head is a new one"
    of = replace(batch([1, 0]), values={"weight": tensor([2.0, 0.5])})
    loss, _ = scored(method("crt", balance="weights"), logits_of_risk(0.3, 0.8), of)
    assert close(loss, (2 * 0.3 + 0.5 * math.log(1 / (1 - math.exp(-0.8)))) / 2)


def test_dfr_of_subpopbench_moves_by_the_gradient_with_its_penalty() -> None:
    """Against autograd, of one logit and of two; then two steps with momentum."""
    from spurbench.methods.dfr_subpopbench import DFRSubpopBench

    generator = torch.Generator().manual_seed(0)
    features, y = torch.randn(6, 3, generator=generator), torch.tensor([0, 1, 1, 0, 1, 0])
    for outputs in (1, 2):
        head = torch.randn(outputs, 3, generator=generator), torch.randn(outputs, generator=generator)
        weight, bias = (part.clone().requires_grad_() for part in head)
        z = class_logits((features @ weight.T + bias).squeeze(1)) if outputs == 1 else features @ weight.T + bias
        by_hand = torch.autograd.grad(cross_entropy(z, y) + 0.7 * weight.abs().sum(), [weight, bias])
        found = DFRSubpopBench(strength=0.7).slopes(head, features, y)
        assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, by_hand, strict=True))
    same = seen([[0.0, 0.0]] * 4, [0, 0, 1, 1], group=torch.arange(4), features=torch.zeros(4, 3))
    finished, like = Finished(same, same, (torch.ones(2, 3), torch.zeros(2))), torch.Generator().manual_seed(1)
    heads = [
        method("dfr_subpopbench", strength=0.1, lr=1e-3, steps=steps).begin(finished, like.manual_seed(1)).head
        for steps in (0, 2)
    ]
    assert heads[0] is not None and heads[1] is not None
    assert torch.allclose(heads[0][0] - heads[1][0], 1e-3 * 0.1 * (1 + 1.9) * heads[0][0].sign(), atol=1e-7)


def test_spare_draws_small_clusters_more() -> None:
    """Of ninety examples of a class the network takes ten for the other one: clusters are drawn equally often."""
    logits = [[5.0, 0.0]] * 80 + [[0.0, 5.0]] * 10
    finished = Finished(seen(logits, [0] * 90), None, (torch.ones(2, 2), torch.zeros(2)))
    start = method("spare").begin(finished, torch.Generator().manual_seed(0))
    assert start.marked is not None and start.marked.tolist() == [False] * 80 + [True] * 10
    weights = start.draw.weights
    assert weights is not None and weights[:80].sum().item() == pytest.approx(weights[80:].sum().item(), rel=1e-5)


def test_bam_first_moves_its_auxiliary_logits_by_the_gradient() -> None:
    bam = method("bam_first", amplify=2.0, rate=0.5)
    problem, y, index = Problem(4, 2), torch.tensor([1, 0]), torch.tensor([3, 1])
    state = bam.init_state(problem)
    logits = torch.tensor([0.5, -1.0])
    bam.loss(logits, Batch(y, problem, index=index), state, 0)
    own = torch.zeros(2, 2, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(torch.stack([0 * logits, logits], 1) + 2.0 * own, y)
    (gradient,) = torch.autograd.grad(loss, own)
    assert torch.allclose(state["auxiliary"][index], -0.5 * gradient, atol=1e-6) and (state["auxiliary"][0] == 0).all()
