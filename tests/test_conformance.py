"""check-method passes what keeps its promises and says in one line what does not."""

import random
from functools import partialmethod

import numpy as np
import pytest
import torch

from spurbench.bench.checks.method_checks import check
from spurbench.bench.checks.purity import forbid_random_draws
from spurbench.bench.checks.scaffold import write_plugin
from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.method import Edited, untouched

TEXT = '''"""A method for a test.

Source: none.
Needs: nothing.
Differs: nothing.
"""
from dataclasses import dataclass
import torch
from spurbench.bench.plugins.method import Batch, Method, hyper

@dataclass(frozen=True)
class Mine(Method):
    {extra}
    a: float = hyper(0.5, low=0.1, high=1.0)
    def loss(self, logits, batch, state, step):
        {loss}
'''
STATE = "def init_state(self, problem): return {'m': torch.zeros(3)}"
ERM = "return batch.losses(logits).mean()"
BAD = [
    ("return batch.losses(logits)", "", "loss", "has shape [12]; expected a scalar: take its mean"),
    ("return batch.losses(logits).mean() * float('nan')", "", "loss", "loss is nan"),
    ("return 1.0", "", "loss", "returns a float; expected a scalar tensor"),
    ("return batch.losses(logits.detach()).mean()", "", "gradient", "does not depend on the logits"),
    ("return batch.losses(logits).mean() + logits.mul(0).sqrt().sum()", "", "gradient", "not finite"),
    ("return batch.losses(logits).mean() * torch.rand(())", "", "determinism", "moves torch's generator"),
    ("return batch.losses(logits).mean() * (2 if logits[0] > 0 else 1)", "", "seeds together", "vmap"),
    ("return batch.group_means(batch.losses(logits)).mean()", "", "loss", "add 'groups' to needs"),
    ("return batch.losses(logits)[batch.y == 0].mean()", "stackable = False", "single examples", "nan"),
    ("return (1 + logits.exp()).log().mean()", "", "large logits", "inf"),
    ("return batch.losses(logits).mean() / (1 if step < 100 else 0)", "", "later steps", "loss is inf"),
    ("state['m'].add_(1); return batch.losses(logits).mean()", STATE, "state", "in place"),
    ("state['n'] = logits.detach().sum(); return batch.losses(logits).mean()", STATE, "state", "its form"),
    ("state['m'] = state['m'] + logits.sum(); return batch.losses(logits).mean()", STATE, "state", "a graph"),
    ("return batch.losses(logits).mean()", "b: float = 0.1", "hyper-parameters", "'b' has no search range"),
    ("return batch.losses(logits).mean()", "b: float = hyper(0., low=0., high=1., scale='log')",
     "hyper-parameters", "low > 0 on a log scale"),
    ("return batch.losses(logits).mean()", "def weight_penalty(self, step): return -1.0", "hooks", "-1.0"),
]  # fmt: skip


IMPURE = [
    (f"batch.y[0] = 0; {ERM}", "", "inputs", "batch.y in place: make a new tensor of it, as batch.y.clone()"),
    (f"batch.y.clamp_(0); {ERM}", "", "inputs", "batch.y in place"),
    (f"step > 50 and batch.y.zero_(); {ERM}", "", "inputs", "batch.y in place"),
    (f"batch.y.data[0] = 1; {ERM}", "stackable = False", "inputs", "batch.y in place, through .data or numpy"),
    (f"batch.y.numpy()[0] = 1; {ERM}", "stackable = False", "inputs", "batch.y in place, through .data or numpy"),
    (f"batch.environment.zero_(); {ERM}", "needs = frozenset({'environments'})", "inputs",
     "batch.environment in place"),
    (f"batch.group.zero_(); {ERM}", "needs = frozenset({'groups'})", "inputs", "batch.group in place"),
    (f"batch.problem.group_counts.add_(1); {ERM}", "needs = frozenset({'groups'})", "inputs",
     "batch.problem.group_counts in place"),
    (f"batch.index.zero_(); {ERM}", "needs = frozenset({'index'})", "inputs", "batch.index in place"),
    (f"logits.detach().clamp_(-1, 1); {ERM}", "", "inputs", "logits in place"),
    (f"{ERM} * (1 if step < 50 else batch.y.sum().item())", "", "seeds together", "vmap cannot lift the loss"),
    (f"{ERM} if step < 50 or logits.sum() > 0 else logits.mean()", "", "seeds together", "vmap cannot lift the loss"),
    (f"{ERM} * (1 if step < 50 else random.random())", "", "determinism", "moves Python's generator"),
    (f"{ERM} * np.random.rand()", "", "determinism", "moves numpy's generator"),
    (f"np.random.seed(0); {ERM} * np.random.rand()", "", "determinism", "moves numpy's generator"),
    (f"random.seed(step); {ERM} * random.random()", "", "determinism", "moves Python's generator"),
    (f"torch.manual_seed(step); {ERM}", "", "determinism", "moves torch's generator"),
    (ERM, "def init_state(self, problem): return {'m': torch.rand(3)}", "determinism", "moves torch's generator"),
    (f"{ERM} * (time.perf_counter_ns() % 10**6)", "", "determinism", "depends on more than its arguments"),
    (f"{ERM} * (1 + self.G.random())", "G: ClassVar = np.random.default_rng(0)", "determinism", "depends on more"),
    (f"global N; N += 1; {ERM} * (1 if N < 1000 else 2)", "", "memory", "something is kept in N:"),
    (f"next(COUNT); {ERM}", "", "memory", "something is kept in COUNT:"),
    (f"bump(); {ERM}", "", "memory", "something is kept in bump:"),
    (f"Keep.n += 1; {ERM}", "", "memory", "something is kept in Keep.n:"),
    (f"KEEP.n = step; {ERM}", "", "memory", "something is kept in KEEP:"),
    (f"self.n.append(1); {ERM}", "n: ClassVar[list] = []", "memory", "something is kept in Mine.n:"),
    (f"self.__dict__['n'] = step; {ERM}", "", "memory", "something is kept in self.n:"),
    (f"Mine.loss.n = step; {ERM}", "", "memory", "something is kept in Mine.loss:"),
    (f"torch.rand((), generator=OWN); {ERM}", "stackable = False", "memory", "something is kept in OWN:"),
    (f"step > 50 and state['m'].add_(1); {ERM}", STATE, "state", "in place"),
    (f"step > 50 and state.update(n=logits[0].detach()); {ERM}", STATE, "state", "its form"),
    (ERM, "def transform(self, x): return x + torch.rand(1)", "hooks", "moves torch's generator"),
    (ERM, "def transform(self, x): return x.mul_(2)", "hooks", "transform changes its input in place"),
    (ERM, "def weight_penalty(self, step): return random.random()", "hooks", "moves Python's generator"),
    (ERM, "def weight_penalty(self, step): return time.perf_counter()", "hooks", "two calls of weight_penalty(0)"),
]  # fmt: skip
PURE = [
    ("y = batch.y.clone(); y[0] = 0; return batch.losses(logits).mean()", ""),
    (f"{ERM} * self.two", "@cached_property\n    def two(self): return torch.ones(2).sum()"),
    (f"{ERM} * constant(3)", ""),
    (f"{ERM} * (1 + torch.rand((), generator=torch.Generator().manual_seed(step)))", "stackable = False"),
    (f"state['m'] = state['m'].clone().add_(1); {ERM}", STATE),
    (f"{ERM} * TABLE['one'] * len(KEEP.__dict__ or 'x') * OWN.initial_seed() ** 0", ""),
]
GLOBALS = """
import itertools, random, time
from functools import cache, cached_property
from typing import ClassVar
import numpy as np

N, COUNT, OWN, TABLE = 0, itertools.count(), torch.Generator(), {"one": torch.ones(())}

class Keep:
    n = 0

KEEP = Keep()

@cache
def constant(n): return torch.ones(n).mean()

def counter():
    n = 0
    def bump():
        nonlocal n
        n += 1
    return bump

bump = counter()
"""
QUICK = {"eiil": {"updates": 50}, "dfr_subpopbench": {"steps": 50}}  # of thousands, before training
HEAD, CLASS = TEXT.split("@dataclass(frozen=True)")


@pytest.fixture(autouse=True)
def clean_registry():
    registry.forget_plugins()
    yield
    registry.forget_plugins()


def failures(path):
    return {answer.name: answer.message for answer in check(path) if not answer.ok}


@pytest.mark.parametrize("name", sorted(registry.methods()))
def test_every_shipped_method_passes(name, monkeypatch):
    cls = registry.load_method(name)
    monkeypatch.setattr(cls, "__init__", partialmethod(cls.__init__, **QUICK.get(name, {})))
    assert failures(name) == {}


def test_a_new_method_passes_as_written(tmp_path):
    answers = check(write_plugin("method", "fresh", tmp_path))
    assert all(answer.ok for answer in answers) and len(answers) == 18


@pytest.mark.parametrize(("loss", "extra", "name", "words"), BAD, ids=[f"{b[2]}: {b[3]}" for b in BAD])
def test_what_is_wrong_is_one_clear_line(tmp_path, loss, extra, name, words):
    path = tmp_path / "mine.py"
    path.write_text(TEXT.format(loss=loss, extra=extra))
    found = failures(path)
    assert words in found.get(name, ""), found
    assert not any("\n" in message for message in found.values())


def with_globals(path, loss, extra):
    """A method file with names beside its class in which something could be kept."""
    path.write_text(f"{HEAD}{GLOBALS}\n@dataclass(frozen=True){CLASS.format(loss=loss, extra=extra)}")
    return path


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("loss", "extra", "name", "words"), IMPURE, ids=[f"{b[2]}: {b[0][:40]}" for b in IMPURE])
def test_a_loss_is_a_function_of_what_it_is_handed(tmp_path, loss, extra, name, words):
    found = failures(with_globals(tmp_path / "mine.py", loss, extra))
    assert words in found.get(name, ""), found
    assert not any("\n" in message for message in found.values())


@pytest.mark.parametrize(("loss", "extra"), PURE)
def test_constants_and_copies_are_nobodys_business(tmp_path, loss, extra):
    assert failures(with_globals(tmp_path / "mine.py", loss, extra)) == {}


def test_checking_leaves_the_random_generators_as_they_were():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    with forbid_random_draws("this"):
        pass
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("edit", [lambda y: y.zero_(), lambda y: y[1:].add_(1), lambda y: y.detach().clamp_(0)])
def test_a_change_in_place_is_noticed_as_it_happens(edit):
    """Also through a view of one seed's part, and in a loss that is lifted."""
    y, other = torch.zeros(3, 5, dtype=torch.long), torch.ones(3, 5)

    def loss(y, other):
        edit(y)
        return (y * other).sum()

    for call in (lambda: torch.func.vmap(loss)(y, other), lambda: loss(y[1], other[1])):
        with pytest.raises(Edited, match=r"Mine.loss changes y in place: make a new tensor of it, as y.clone\(\) does"):
            with untouched("Mine.loss", {"y": y, "other": other}):
                call()
    with untouched("Mine.loss", {"y": y, "other": other}):
        y.add(1), torch.func.vmap(lambda y: y.clone().zero_())(y)


def test_one_kind_of_logits_is_enough_and_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TEXT.format(loss="return (logits * (batch.y - 0.5)).mean()", extra=""))
    answers = {answer.name: answer for answer in check(path)}
    assert all(answer.ok for answer in answers.values())
    assert "not for C logits: RuntimeError" in answers["loss"].message and "mine.py:" in answers["loss"].message


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("def broken(:\n", "imports", "syntax error, line 1"),
        ("import no_such_package\n", "imports", "imports 'no_such_package', which is not installed"),
        (
            TEXT.format(loss="return logits.mean()", extra="").replace("Source:", ""),
            "docstring",
            "'Source: …'",
        ),
        (
            TEXT.format(loss="return 0", extra="").replace("(frozen=True)", "(frozen=True, oops=1)"),
            "imports",
            "oops",
        ),
    ],
)
def test_files_that_do_not_get_as_far(tmp_path, text, name, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert words in failures(path)[name]


def test_unknown_targets(tmp_path):
    with pytest.raises(UserError, match="no method 'ermm'; did you mean erm"):
        check("ermm")
    with pytest.raises(UserError, match="no file"):
        check(tmp_path / "nothing.py")
