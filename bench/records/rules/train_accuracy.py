"""The highest accuracy in training, ties broken by the loss there.

Uses: the labels of training.
"""

from spurbench.bench.plugins.rule import Rule, average_accuracy, lower_loss


class TrainAccuracy(Rule):
    text = "training accuracy"
    splits = ("train",)
    criteria = (average_accuracy, lower_loss)
    uses = ("training labels",)
