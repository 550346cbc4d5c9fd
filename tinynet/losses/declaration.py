"""What a loss declares of itself, for those who would otherwise have to know each loss by name."""

from typing import Any, NamedTuple

import numpy as np

# What a loss returns: a float, or an array for reduction="none"; and an array, or None for grad=False.  "| Any" lets a
# type checker take the usual one for granted, as in model.backward(gradient).
Result = tuple[float | Any, np.ndarray | Any]


class Declaration(NamedTuple):
    """What training, explain and the tables of names read.

    expects   what it takes its predictions for: "logits", "probabilities", "log-probabilities" or any "scores"
    formulas  of the loss and of its gradient, as it is without options
    names     by which other libraries know it, in lower case and without _ and -
    """

    expects: str
    formulas: tuple[str, str]
    names: tuple[str, ...] = ()


def declares(expects, value, gradient, names=""):
    """A decorator that puts a Declaration on a loss; the function itself is left as it is."""

    def decorate(loss):
        loss.declaration = Declaration(expects, (value, gradient), tuple(names.split()))
        return loss

    return decorate
