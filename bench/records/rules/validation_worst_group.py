"""The best worst group on validation, ties broken by average accuracy and loss there.

Uses: the groups of validation; its labels where the data have no attribute.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss, worst_group


class ValidationWorstGroup(Rule):
    text = "worst-group accuracy on validation"
    splits = ("validation",)
    criteria = (worst_group, average_accuracy, lower_loss)
    uses = ("validation groups",)
