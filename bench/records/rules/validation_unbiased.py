"""The best unbiased accuracy on validation, ties broken by average accuracy and loss there.

That is the mean over groups, which goes where the worst of many small groups is a matter of chance.
Uses: the groups of validation; its labels where the data have no attribute.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss, mean_over_groups


class ValidationUnbiased(Rule):
    text = "unbiased accuracy on validation"
    splits = ("validation",)
    criteria = (mean_over_groups, average_accuracy, lower_loss)
    uses = ("validation groups",)
