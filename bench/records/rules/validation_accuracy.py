"""The highest accuracy on validation, ties broken by its loss.

Uses: the labels of validation.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss


class ValidationAccuracy(Rule):
    text = "validation accuracy"
    splits = ("validation",)
    criteria = (average_accuracy, lower_loss)
    uses = ("validation labels",)
