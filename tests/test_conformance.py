"""check-method passes what keeps its promises and says in one line what does not."""

import pytest

from spurbench.bench import registry
from spurbench.bench.conformance import check
from spurbench.bench.errors import UserError
from spurbench.bench.scaffold import write_method

TEXT = '''"""A method for a test.

Source: none.
Needs: nothing.
Differs: nothing.
"""
from dataclasses import dataclass
import torch
from spurbench.bench.method import Batch, Method, hyper

@dataclass(frozen=True)
class Mine(Method):
    {extra}
    a: float = hyper(0.5, low=0.1, high=1.0)
    def loss(self, logits, batch, state, step):
        {loss}
'''
STATE = "def init_state(self, problem): return {'m': torch.zeros(3)}"
BAD = [
    ("return batch.losses(logits)", "", "loss", "has shape [12]; expected a scalar: take its mean"),
    ("return batch.losses(logits).mean() * float('nan')", "", "loss", "loss is nan"),
    ("return 1.0", "", "loss", "returns a float; expected a scalar tensor"),
    ("return batch.losses(logits.detach()).mean()", "", "gradient", "does not depend on the logits"),
    ("return batch.losses(logits).mean() + logits.mul(0).sqrt().sum()", "", "gradient", "not finite"),
    ("return batch.losses(logits).mean() * torch.rand(())", "", "determinism", "random numbers"),
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


@pytest.fixture(autouse=True)
def clean_registry():
    registry.forget_plugins()
    yield
    registry.forget_plugins()


def failures(path):
    return {answer.name: answer.message for answer in check(path) if not answer.ok}


@pytest.mark.parametrize("name", sorted(registry.methods()))
def test_every_shipped_method_passes(name):
    assert failures(name) == {}


def test_a_new_method_passes_as_written(tmp_path):
    answers = check(write_method("fresh", tmp_path))
    assert all(answer.ok for answer in answers) and len(answers) == 13


@pytest.mark.parametrize(("loss", "extra", "name", "words"), BAD, ids=[f"{b[2]}: {b[3]}" for b in BAD])
def test_what_is_wrong_is_one_clear_line(tmp_path, loss, extra, name, words):
    path = tmp_path / "mine.py"
    path.write_text(TEXT.format(loss=loss, extra=extra))
    found = failures(path)
    assert words in found.get(name, ""), found
    assert not any("\n" in message for message in found.values())


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
