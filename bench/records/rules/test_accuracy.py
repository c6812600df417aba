"""The highest accuracy on the test set, ties broken by its loss: an oracle.

Uses: the labels of test.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss


class TestAccuracy(Rule):
    text = "test accuracy (test-set oracle)"
    splits = ("test",)
    criteria = (average_accuracy, lower_loss)
    uses = ("test labels",)
