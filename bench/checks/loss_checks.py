"""Checks of a method's loss on small batches: is it finite, does it stack, does its state survive.

Axes in names: R seeds stacked, B examples of the batch, C classes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spurbench.bench.checks.questions import Check, Failure, ask, describe_error
from spurbench.bench.plugins.method import VALUE, Batch, Finished, Method, Problem, Seen, batch_of

State = dict[str, Tensor]
FIELDS = {
    "environments": "environment",
    "groups": "group",
    "index": "index",
    "second network": "second_logits",
    "features": "features",
    "random numbers": "random",
}
COUNTS = ("group_counts", "class_counts")  # of a problem
LATER = (1, 100, 10_000)  # steps by which delays and annealing are over
WIDTH = 5  # of the features
KINDS = (2, 3)  # classes: one logit, C logits


@dataclass(frozen=True)
class Sample:
    """Logits of one model and everything that a method may be given with them."""

    logits: Tensor  # [B] or [B, C]
    batch: Batch

    @classmethod
    def draw(cls, seed: int, classes: int, groups: Tensor, examples: int = 12) -> Sample:
        """Logits in -3..3; `groups` [examples] numbers label and attribute as label · 2 + attribute."""
        generator = torch.Generator().manual_seed(seed)
        shape = (examples,) if classes == 2 else (examples, classes)
        logits, second = (torch.rand(shape, generator=generator) * 6 - 3 for _ in range(2))
        counts = torch.bincount(groups, minlength=2 * classes).clamp(min=1)
        of_class = torch.bincount(groups // 2, minlength=classes)
        problem = Problem(
            examples, classes, environments=2, group_counts=counts, class_counts=of_class, steps=2 * LATER[-1],
            steps_per_epoch=LATER[-1] // 100, outputs=1 if classes == 2 else classes, features=WIDTH,
        )  # fmt: skip
        index = torch.randperm(examples, generator=generator)
        environment = torch.arange(examples) % 2
        features = torch.rand((examples, WIDTH), generator=generator) * 2 - 0.5
        random = torch.rand(examples, generator=generator)
        return cls(logits, Batch(groups // 2, problem, environment, groups, index, second, features, random))

    def seen_by(self, method: Method, more: frozenset[str] = frozenset()) -> Sample:
        """The sample with only what the method declares or, to find out what it does not, `more`; with its values."""
        needs = method.needs | more
        hidden: dict[str, Any] = {name: None for need, name in FIELDS.items() if need not in needs}
        problem = replace(
            self.batch.problem,
            environments=self.batch.problem.environments if "environments" in needs else 0,
            group_counts=self.batch.problem.group_counts if "groups" in needs else None,
            features=self.batch.problem.features if "features" in needs else 0,
        )
        given: dict[str, Any] = {"values": values_of(method, problem.classes) if method.base else {}}
        if method.mixes():
            given["soft"] = 0.7 * F.one_hot(self.batch.y, problem.classes) + 0.3 / problem.classes
        return Sample(self.logits, replace(self.batch, problem=problem, **hidden, **given))

    def as_finished(self, method: Method) -> Finished:
        """A finished run that sees these examples, in training and on validation, with what a method declares."""
        batch, outputs, features = self.batch, self.batch.problem.outputs, self.batch.features
        assert features is not None

        def seen(groups: str) -> Seen:
            group = batch.group if groups in method.needs else None
            environment = batch.environment if "environments" in method.needs else None
            return Seen(batch.y, group, environment, self.logits, features, batch.second_logits)

        head = torch.ones(outputs, features.shape[1]), torch.zeros(outputs)
        validation = seen("validation groups") if {"validation", "validation groups"} & method.needs else None
        finished = Finished(seen("groups"), validation, head)
        return replace(finished, earlier=finished) if "earlier" in method.base else finished


@cache
def values_of(method: Method, classes: int) -> Mapping[str, Tensor]:
    """The values that a method gives of the examples of a sample, of whatever seed."""
    return method.begin(make_sample(classes).as_finished(method), torch.Generator().manual_seed(0)).values


def make_sample(classes: int, seed: int = 0) -> Sample:
    """A sample of twelve examples, with every group several times."""
    return Sample.draw(seed, classes, (torch.arange(12) + seed) % (2 * classes))


def loss_of(method: Method, sample: Sample, state: State, step: int = 0) -> Tensor:
    """The loss, checked to be a finite scalar; the method gets a copy of the batch, in case it changes it."""
    loss: Any = method.loss(sample.logits, copied(sample.batch), state, step)
    if not isinstance(loss, Tensor):
        raise Failure(f"loss returns a {type(loss).__name__}; expected a scalar tensor")
    if loss.ndim:
        raise Failure(f"loss has shape {list(loss.shape)}; expected a scalar: take its mean")
    if not torch.isfinite(loss):
        low, high = sample.logits.min().item(), sample.logits.max().item()
        raise Failure(f"loss is {loss.item()} for logits in {low:.3g}..{high:.3g} at step {step}")
    return loss


def copied(batch: Batch) -> Batch:
    """The batch with tensors of its own."""
    fields: Any = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, Tensor)}
    counts: Any = {name: value.clone() for name, value in vars(batch.problem).items() if isinstance(value, Tensor)}
    problem = replace(batch.problem, **counts)
    values = {name: value.clone() for name, value in batch.values.items()}
    return replace(batch, problem=problem, values=values, **fields)


def init_state(method: Method, sample: Sample) -> State:
    """The method's first state, checked to be tensors by name."""
    state: Any = method.init_state(sample.batch.problem)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise Failure("init_state must return a dict of tensors by name; else it cannot be stored or stacked")
    return state


def try_loss(method: Method, classes: int, needs: frozenset[str] = frozenset()) -> Check:
    """Whether the loss is a finite scalar for this kind of logits, given what is declared and `needs` beyond that."""
    sample = make_sample(classes).seen_by(method, needs)
    kind = "one logit" if classes == 2 else "C logits"
    return ask(kind, lambda method: str(loss_of(method, sample, init_state(method, sample))), method)


def with_gradient(method: Method, sample: Sample, state: State, step: int = 0) -> tuple[Tensor, Tensor]:
    """The loss, its gradient with respect to logits and, if there are any, features; all checked to be finite."""
    inputs = {"logits": sample.logits, "features": sample.batch.features}
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items() if value is not None}
    batch = replace(sample.batch, features=leaves.get("features"))
    loss = loss_of(method, Sample(leaves["logits"], batch), state, step)
    if not loss.requires_grad:
        raise Failure("loss does not depend on the logits: nothing would be learned; is something detached?")
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    if gradients[0] is None:
        raise Failure("loss does not depend on the logits: nothing would be learned")
    known = [leaf.new_zeros(leaf.shape) if gradient is None else gradient
             for leaf, gradient in zip(leaves.values(), gradients, strict=True)]  # fmt: skip
    for name, gradient in zip(leaves, known, strict=True):
        if not torch.isfinite(gradient).all():
            low, high = leaves[name].min().item(), leaves[name].max().item()
            raise Failure(f"gradient is not finite for {name} in {low:.3g}..{high:.3g} at step {step}")
    return loss.detach(), torch.cat([gradient.flatten() for gradient in known])


def check_gradient(method: Method, classes: int) -> str:
    sample = make_sample(classes).seen_by(method)
    with_gradient(method, sample, init_state(method, sample))
    return "finite for every logit and feature" if sample.batch.features is not None else "finite for every logit"


def check_stacking(method: Method, classes: int) -> str:
    """Four seeds stacked with vmap against each of them alone, early and late; one lacks groups and environments."""
    if not method.stackable:
        return "stackable = False: seeds run one by one"
    drawn = [*(make_sample(classes, seed) for seed in range(3)), make_unbalanced_sample(classes, [0] * 12)]
    samples = [sample.seen_by(method) for sample in drawn]
    states = [init_state(method, sample) for sample in samples]
    for step in (0, *LATER):
        alone = []
        before = stack_states(states)
        for sample, state in zip(samples, states, strict=True):
            alone.append(with_gradient(method, sample, state, step))
        together = run_stacked(method, samples, before, step)
        expected = stack_states([{"loss": loss, "gradient": gradient} for loss, gradient in alone]) | stack_states(
            states
        )
        for name, value in expected.items():
            if name not in together or not torch.allclose(together[name], value, rtol=1e-5, atol=1e-6):
                raise Failure(f"{name} of stacked seeds differs from seeds alone; do sums run over one model only?")
    return "four seeds stacked give what each gives alone"


def stack_states(states: list[State]) -> State:
    """States stacked along a new first axis R."""
    return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}


def run_stacked(method: Method, samples: list[Sample], state: State, step: int) -> State:
    """Loss, gradient and new state of all seeds at once, as the engine computes them."""
    fields_by_seed = [tensors_of(sample) for sample in samples]
    problem = samples[0].batch.problem

    def one(
        logits: Tensor, features: Tensor | None, fields_by_seed: Mapping[str, Tensor], state: State
    ) -> tuple[Tensor, State]:
        own, fields = dict(state), dict(fields_by_seed) | ({} if features is None else {"features": features})
        counts: Any = {name: fields.pop(name) for name in COUNTS if name in fields}
        batch = batch_of(replace(problem, **counts), fields)
        return method.loss(logits, batch, own, step), own

    logits = torch.stack([sample.logits for sample in samples]).requires_grad_()
    given = stack_states(fields_by_seed)
    features = given.pop("features", None)
    leaves = [logits] if features is None else [logits, features.requires_grad_()]
    try:
        axes = (0, None if features is None else 0, 0, 0)
        losses, states = torch.func.vmap(one, axes)(logits, features, given, state)
        gradients = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
    except (Exception, SystemExit) as error:
        raise Failure(
            f"vmap cannot lift the loss: use tensor operations or stackable = False; {describe_error(error)}"
        ) from None
    return {
        "loss": losses.detach(),
        "gradient": torch.cat([gradient.flatten(1) for gradient in gradients], 1),
        **states,
    }


def tensors_of(sample: Sample) -> State:
    """The tensors in a batch, by name."""
    names = ("y", "soft", *FIELDS.values())
    found = {name: getattr(sample.batch, name) for name in names}
    found |= {name: getattr(sample.batch.problem, name) for name in COUNTS}
    found |= {VALUE + name: value for name, value in sample.batch.values.items()}
    return {name: value for name, value in found.items() if value is not None}


def make_unbalanced_sample(classes: int, groups: list[int]) -> Sample:
    """Twelve examples of these groups; only the last one, if of another group, is of the second environment."""
    drawn = Sample.draw(0, classes, torch.tensor(groups))
    environment = torch.zeros(12, dtype=torch.long)
    environment[-1] = groups[-1] != groups[0]
    return Sample(drawn.logits, replace(drawn.batch, environment=environment))


def in_one_environment(sample: Sample) -> Sample:
    """A sample whose examples are of the only environment that there is."""
    return Sample(sample.logits, replace(sample.batch, problem=replace(sample.batch.problem, environments=1)))


def check_single_examples(method: Method, classes: int) -> str:
    """Batches in which a class, group or environment has one example or none, and a single environment."""
    last = 2 * classes - 1
    samples = [make_unbalanced_sample(classes, groups) for groups in ([0] * 11 + [last], [0] * 12, [last] * 12)]
    for whole in (*samples, in_one_environment(samples[1])):
        sample = whole.seen_by(method)
        try:
            with_gradient(method, sample, init_state(method, sample))
        except Failure as failure:
            raise Failure(f"with one example, or none, of a class, group or environment: {failure}") from None
    return "one example or none of a class, group or environment is fine"


def check_large_logits(method: Method, classes: int) -> str:
    sample = make_sample(classes).seen_by(method)
    second = sample.batch.second_logits
    batch = replace(sample.batch, second_logits=None if second is None else second * 50)
    with_gradient(method, Sample(sample.logits * 50, batch), init_state(method, sample))
    return "no overflow for logits beyond ±100"


def check_later_steps(method: Method, classes: int) -> str:
    sample = make_sample(classes).seen_by(method)
    state = init_state(method, sample)
    for step in (0, *LATER):
        with_gradient(method, sample, state, step)
        state = {name: value.detach() for name, value in state.items()}
    return f"finite at steps 0, {', '.join(map(str, LATER))}"


def check_state(method: Method, classes: int) -> str:
    """The state keeps its form, is replaced rather than changed in place, and survives a checkpoint, at any step."""
    sample = make_sample(classes).seen_by(method)
    state = init_state(method, sample)
    for step in (0, *LATER):
        state = next_state(method, sample, state, step)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        continued, resumed = (with_gradient(method, sample, each, step + 1)[0] for each in (dict(state), loaded))
        if not torch.equal(continued, resumed):
            raise Failure("the loss after a checkpoint differs: something is kept outside the state")
    return f"{', '.join(state)} survives a checkpoint" if state else "keeps no state"


def next_state(method: Method, sample: Sample, first: State, step: int) -> State:
    """The state after a step, checked to have the same form as the one before, which must stay unchanged."""
    copy = {name: value.clone() for name, value in first.items()}
    state = dict(first)
    with_gradient(method, sample, state, step)
    if not all(torch.equal(first[name], copy[name]) for name in first):
        raise Failure("loss changes a state tensor in place; put a new tensor into state instead")
    forms = [{name: (list(v.shape), v.dtype) for name, v in each.items()} for each in (first, state)]
    if forms[0] != forms[1]:
        raise Failure(f"the state changes its form in a step, from {forms[0]} to {forms[1]}")
    if any(value.requires_grad for value in state.values()):
        raise Failure("the state carries a graph from step to step; detach what goes into it")
    return state
