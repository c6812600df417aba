"""Nothing is chosen: hyper-parameters as given, scored after the last step.

Uses: nothing.
"""

from spurbench.bench.plugins.rule import Rule


class NoChoice(Rule):
    text = "hyper-parameters as given, last step scored"
