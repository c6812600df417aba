"""The best worst class on validation, ties broken by average accuracy and loss there.

Uses: the labels of validation, and no attribute.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss, worst_group


class ValidationWorstClass(Rule):
    text = "worst-class accuracy on validation"
    splits = ("validation",)
    criteria = (worst_group, average_accuracy, lower_loss)
    uses = ("validation labels",)
    by_class = True
