"""`check-method`: whether a method file keeps the promises the engine relies on; each answer is one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from spurbench.bench.checks.hook_checks import check_draws, check_hooks, check_mixing, check_start
from spurbench.bench.checks.loss_checks import (
    FIELDS,
    KINDS,
    check_gradient,
    check_large_logits,
    check_later_steps,
    check_single_examples,
    check_stacking,
    check_state,
    try_loss,
)
from spurbench.bench.checks.purity import check_determinism, check_inputs, check_memory, retained_values
from spurbench.bench.checks.questions import Check, Failure, ask, describe_error
from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.core.fields import Option
from spurbench.bench.plugin_files.reader import PluginInfo, describe, unknown_need
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.method import Method

Question = Callable[[Method, int], str]


def check(target: str | Path | type[Method]) -> list[Check]:
    """Every check of one method: a name, a file, or a class. Nothing is trained; takes about a second.

    Errors: UserError only for an unknown name or a missing file; what is wrong with the method is a Check.
    """
    if isinstance(target, type):
        return loss_checks(target)
    info = find_method(target)
    if info.problem:
        return [Check("imports", False, info.problem)]
    try:
        cls = registry.load_class(info)
    except UserError as error:
        return [Check("imports", False, str(error))]
    checks = [
        Check("imports", True, f"{info.class_name} from {info.path}"),
        ask("docstring", check_docstring, info),
    ]
    return [*checks, *loss_checks(cls)]


def find_method(target: str | Path) -> PluginInfo:
    """What is known of the method of that name or file, whether it can be used or not."""
    path = Path(target)
    if path.suffix == ".py":
        if not path.is_file():
            raise UserError(f"no file {path}")
        return describe(path.resolve(), path.stem, "method", origin="file")
    if str(target) not in registry.methods():
        raise unknown("method", str(target), registry.methods())
    return registry.methods()[str(target)]


def loss_checks(cls: type[Method]) -> list[Check]:
    """The checks of a class: its hyper-parameters, then its loss on small batches."""
    checks = [ask("hyper-parameters", check_hyper_parameters, cls), ask("needs", check_needs, cls)]
    try:
        method = cls()
    except Exception as error:
        return [*checks, Check("defaults", False, f"{cls.__name__}() raises {describe_error(error)}")]
    if not all(check.ok for check in checks):
        return checks
    if not method.trains and not method.base:
        return [*checks, Check("loss", True, "a reference row that does not train; its loss is not checked")]
    checks.append(ask("start", check_start, method))
    if not method.trains or not checks[-1].ok:
        return checks
    before = retained_values(method)
    working = [classes for classes in KINDS if try_loss(method, classes).ok]
    checks.append(ask("loss", check_loss, method))
    if not working:
        return checks
    questions: list[tuple[str, Question]] = [
        ("gradient", check_gradient),
        ("inputs", check_inputs),
        ("determinism", check_determinism),
        ("seeds together", check_stacking),
        ("single examples", check_single_examples),
        ("large logits", check_large_logits),
        ("later steps", check_later_steps),
        ("state", check_state),
    ]
    checks += [ask(name, for_every_kind(question, working), method) for name, question in questions]
    checks += [
        ask("hooks", check_hooks, method),
        ask("draws", check_draws, method),
        ask("mixing", check_mixing, method),
    ]
    return [*checks, ask("memory", lambda method: check_memory(method, before), method)]


def for_every_kind(question: Question, working: list[int]) -> Callable[[Method], str]:
    """The question, asked for each kind of logits that the loss takes."""
    return lambda method: [question(method, classes) for classes in working][-1]


def check_docstring(info: PluginInfo) -> str:
    if not info.summary:
        raise Failure("no docstring: begin the file with one sentence on what the method does")
    missing = [name for name in ("Source", "Needs", "Differs") if not info.sections.get(name)]
    if missing:
        raise Failure(f"the docstring lacks the line '{missing[0]}: …'; it has Source, Needs and Differs")
    return info.summary


def check_hyper_parameters(cls: type[Method]) -> str:
    if not dataclasses.is_dataclass(cls) or "__dataclass_params__" not in cls.__dict__:
        raise Failure(f"put @dataclass(frozen=True) above class {cls.__name__}")
    options = [registry.from_field(item) for item in dataclasses.fields(cls)]
    for option in options:
        problem = option_problem(option)
        if problem:
            raise Failure(f"field '{option.name}' {problem}")
    return ", ".join(f"{option.name}={option.default}" for option in options) or "none"


def option_problem(option: Option) -> str | None:
    """What a hyper-parameter lacks to be listed, searched and stored.

    The default None is left out of a run's identity: with it a method may gain a hyper-parameter and keep its runs.
    """
    search = option.search
    if option.default is dataclasses.MISSING:
        return "has no default: write hyper(default, low=…, high=…)"
    if not isinstance(option.default, bool | int | float | str | None):
        return f"has the default {option.default!r}; expected a number, text or true/false"
    if search.get("choices"):
        within = option.default is None or option.default in search["choices"]
        return None if within else f"has a default outside its choices {search['choices']}"
    low, high = search.get("low"), search.get("high")
    if low is None or high is None:
        return "has no search range: write hyper(default, low=…, high=…) or hyper(default, choices=(…))"
    if not low < high or (search.get("scale") == "log" and low <= 0):
        return f"has the search range {low}..{high}; expected low < high, and low > 0 on a log scale"
    return None


def check_needs(cls: type[Method]) -> str:
    if not isinstance(cls.needs, frozenset):
        raise Failure(f"needs is a {type(cls.needs).__name__}; write needs = frozenset({{'environments'}})")
    problem = unknown_need(cls.needs)
    if problem:
        raise Failure(problem)
    return ", ".join(sorted(cls.needs)) or "nothing beyond labels"


def check_loss(method: Method) -> str:
    """Which kinds of logits give a loss: both, or one of them with the reason why the other does not."""
    answers = {classes: try_loss(method, classes) for classes in KINDS}
    failed = [found for found in answers.values() if not found.ok]
    if not failed:
        return "scalar and finite for one logit and for C logits"
    undeclared = undeclared_need(method, [classes for classes in KINDS if not answers[classes].ok])
    if undeclared:
        raise Failure(f"uses what it has not declared: add '{undeclared}' to needs ({failed[0].message})")
    if len(failed) == len(KINDS):
        raise Failure(failed[0].message)
    return f"scalar and finite, but not for {failed[0].name}: {failed[0].message}"


def undeclared_need(method: Method, failing: list[int]) -> str | None:
    """The need that, once met, makes the loss work where it failed."""
    for need in sorted(FIELDS.keys() - method.needs):
        if all(try_loss(method, classes, frozenset({need})).ok for classes in failing):
            return need
    return None
