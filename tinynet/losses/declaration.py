"""What a loss declares of itself, for those who would otherwise have to know each loss by name."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

# What a loss returns: a float, or an array for reduction="none"; and an array, or None for grad=False.  "| Any" lets a
# type checker take the usual one for granted, as in model.backward(gradient).
Result = tuple[float | Any, np.ndarray | Any]

EXPECTS = ("logits", "probabilities", "log-probabilities", "scores")


class Declaration(NamedTuple):
    """What training, explain and the tables of names read.

    expects   what it takes its predictions for: "logits", "probabilities", "log-probabilities" or any "scores"
    formulas  of the loss and of its gradient, as it is without options
    names     by which other libraries know it, in lower case and without _ and -
    """

    expects: str
    formulas: tuple[str, str]
    names: tuple[str, ...] = ()


LossFunction = TypeVar("LossFunction", bound=Callable[..., Any])


def declares(expects: str, value: str, gradient: str, names: str = "") -> Callable[[LossFunction], LossFunction]:
    """A decorator that says what a loss is: one of the package, or one of your own.  The function is left as it is.

    expects   what it takes its predictions for: "logits", "probabilities", "log-probabilities" or any "scores".  fit
              refuses a model that ends in something else, and metrics know where yes begins
    value     the formula of the loss, for explain, and
    gradient  that of its gradient
    names     other names of it, with spaces between, in lower case and without _ and -

    With it a loss is a metric, too, of which less is better.  Raises ValueError for another `expects`.

    >>> @tn.declares("scores", "L = mean of (y - t)^4", "dy = 4 (y - t)^3 / n")
    ... def fourth_power(y, t):
    ...     return float(np.mean((y - t) ** 4)), 4 * (y - t) ** 3 / y.size
    >>> fourth_power.declaration.formulas
    ('L = mean of (y - t)^4', 'dy = 4 (y - t)^3 / n')
    >>> tn.gradcheck.check(fourth_power, np.array([1.0, 2.0]), np.array([0.5, 3.0])).passed
    True
    """
    if expects not in EXPECTS:
        raise ValueError(f"declares: expects must be one of {', '.join(map(repr, EXPECTS))}, got {expects!r}")

    def decorate(loss):
        loss.declaration = Declaration(expects, (value, gradient), tuple(names.split()))
        return loss

    return decorate
