"""The best worst group on the test set, ties broken by average accuracy and loss there: an oracle.

Uses: the groups of test; its labels where the data have no attribute.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss, worst_group


class WorstGroup(Rule):
    text = "worst-group accuracy on test (test-set oracle)"
    splits = ("test",)
    criteria = (worst_group, average_accuracy, lower_loss)
    uses = ("test groups",)
