"""Train, measure, predict and explain CIFAR-10 image classifiers."""

__version__ = "0.1.0"
