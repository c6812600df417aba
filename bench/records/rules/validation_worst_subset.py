"""The best worst class of a subset on validation, ties broken by average accuracy and loss there.

Uses: the labels and subsets of validation.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss, worst_group


class ValidationWorstSubset(Rule):
    text = "worst-subset accuracy on validation"
    splits = ("validation:*",)
    ties_on = ("validation",)
    criteria = (worst_group, average_accuracy, lower_loss)
    uses = ("validation labels", "validation subsets")
