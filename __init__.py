"""Compare methods against spurious correlations, with each other and with what was published.

For a plug-in, what it derives from and works with:

    from spurbench import Batch, Method, hyper

For a script or a notebook, the verbs of the command line:

    import spurbench
    results = spurbench.run("quick")            # or spurbench.load("stores/paper")
    results.frame()                             # a pandas row a run; .frame("split"), .frame("group")
    results.leaderboard()                       # shown as a page in a notebook, as a table by print()
    results.predictions(run_id)["test"]         # logits
    results.figure("fig1")                      # a matplotlib figure

Names are imported when they are first used, so that `import spurbench` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spurbench.bench.api.notebook import Results, load, run
    from spurbench.bench.core.errors import BadData, UserError
    from spurbench.bench.plugins.dataset import Build, Data, Dataset, Margins, Pgd, Split, Training
    from spurbench.bench.plugins.method import Batch, Means, Method, Problem, class_logits, hyper
    from spurbench.bench.plugins.network import Network, setting
    from spurbench.bench.plugins.optimizer import Optimizer

__all__ = [
    "BadData", "Batch", "Build", "Data", "Dataset", "Margins", "Means", "Method", "Network", "Optimizer", "Pgd",
    "Problem", "Results", "Split", "Training", "UserError", "__version__", "class_logits", "hyper", "load", "run",
    "setting",
]  # fmt: skip

HOMES = {
    "api.notebook": ("Results", "load", "run"),
    "core.errors": ("BadData", "UserError"),
    "plugins.dataset": ("Build", "Data", "Dataset", "Margins", "Pgd", "Split", "Training"),
    "plugins.method": ("Batch", "Means", "Method", "Problem", "class_logits", "hyper"),
    "plugins.network": ("Network", "setting"),
    "plugins.optimizer": ("Optimizer",),
}
"""Module of bench/ → the names that come from it."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("spurbench")
    for module, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"spurbench.bench.{module}"), name)
    raise AttributeError(f"spurbench has no '{name}'; there are: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
