"""The best of the smallest accuracies over the training environments and test: an oracle.

Ties are broken by the average accuracy and the loss of all of these together.

Uses: the environments of training, the labels of test.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, least_accuracy, lower_loss


class WorstEnvironment(Rule):
    text = "the smallest accuracy over training environments and test (test-set oracle)"
    splits = ("train_e*", "test")
    criteria = (least_accuracy, average_accuracy, lower_loss)
    uses = ("training environments", "test labels")
