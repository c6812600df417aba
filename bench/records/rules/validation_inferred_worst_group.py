"""The best worst inferred group on validation, ties broken by average accuracy and loss there.

Uses: no attribute of anything: another method infers the groups, see `groups:` of a grid's rows.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss, worst_group


class ValidationInferredWorstGroup(Rule):
    text = "worst-group accuracy on validation, with inferred groups"
    splits = ("inferred_validation",)
    criteria = (worst_group, average_accuracy, lower_loss)
    uses = ("validation labels",)
