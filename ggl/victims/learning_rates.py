"""The learning rates that the bundled victims are trained with."""

__all__ = ["LEARNING_RATE", "LEARNING_RATES"]

LEARNING_RATES = {"lenet": 0.02}
"""Of victims that the usual one does not suit; found on Fashion-MNIST, undefended."""


LEARNING_RATE = 0.05
