"""Why a gradient may be wrong: what backward says beside the difference quotient often tells the mistake.

    ratio = what backward says / what the difference quotient says

    always -1                    the sign
    always N, the samples        the loss is a mean, and its 1/N is missing
    always 1/N                   divided by N twice: once by the loss, and once more here
    always another number        a factor is missing, or stands twice
    the right numbers, in the order of the transposed array
                                 x.T dy instead of dy.T x, or an array in another layout than its parameter
    -1 here and 1 there          the sign of some entries
    nearly 1 everywhere          a constant with few digits, or an array of float32 where float64 came in
    0 everywhere                 the gradient was never written
    the first entries right      a loop ends too early, or a piece is left out
    anything else                a term is missing (which outputs did this number touch, too?), or another array's
                                 number stands in a factor, say the output where the input belongs

These are guesses: gradcheck prints them as such.
"""

from dataclasses import dataclass

import numpy as np

CLOSE = 1e-4  # of the largest entry: as near as two sides must be to count as the same here


@dataclass(frozen=True)
class Worst:
    """The entry of an array where backward and the difference quotient are farthest apart.

    index     where it is: a tuple of whole numbers
    backward  what backward says there, and
    quotient  what the central difference says
    """

    index: tuple[int, ...]
    backward: float
    quotient: float

    @property
    def ratio(self) -> float:
        """backward / quotient; infinite or NaN where the quotient is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.float64(self.backward) / np.float64(self.quotient))

    def __str__(self):
        where = ", ".join(map(str, self.index))
        return (
            f"worst at [{where}]: backward says {self.backward:.6g}, the difference quotient {self.quotient:.6g},"
            f" ratio {self.ratio + 0:.4g}"
        )


def likely_cause(gradient, entries, quotients, N):
    """A sentence on what may be wrong, of an array's gradient, and the quotients at some of its flat indices.

    N is how many samples there are.
    """
    found = gradient.reshape(-1)[entries]
    if not np.isfinite(found).all():
        return "backward gives NaN or infinity: a division by 0, a logarithm of 0, or memory that was never written"
    if not np.isfinite(quotients).all():
        return "the difference quotient is NaN or infinite: forward gives no number there, or near it"
    most = max(np.abs(found).max(), np.abs(quotients).max())

    def same(a, b):
        return np.abs(a - b).max() <= CLOSE * most

    if not found.any():
        return "backward gives 0 everywhere: is this gradient ever written?"
    if not np.abs(quotients).max() > CLOSE * most:
        return "the loss doesn't depend on it, as forward goes: is it used there at all?"
    if same(found, quotients):
        return f"it is right to {np.abs(found - quotients).max() / most:.0e}: a rounded constant, or float32 somewhere?"
    ratio = float(found @ quotients / (quotients @ quotients))
    if same(found, ratio * quotients):
        return _of_a_factor(ratio, N)
    if len(entries) == gradient.size and gradient.ndim > 1:
        whole = quotients[np.argsort(entries)].reshape(gradient.shape)
        turned = gradient.reshape(*gradient.shape[:-2], gradient.shape[-1], gradient.shape[-2]).swapaxes(-1, -2)
        if same(turned, whole):
            return "these are the right numbers in the order of the transposed array: x.T dy, or dy.T x?"
    wrong = np.abs(found - quotients) > CLOSE * most
    matters = wrong | (found != 0)  # a loss may touch few entries: where both sides are 0, nothing can be seen
    first = np.unravel_index(int(np.sort(entries[wrong])[0]), gradient.shape)
    where = ", ".join(str(int(axis)) for axis in first)
    if same(np.abs(found), np.abs(quotients)):
        return f"{wrong.sum()} of {len(found)} entries have the wrong sign, the first at [{where}]"
    if wrong.sum() <= matters.sum() // 2:
        return f"{wrong.sum()} of {len(found)} entries are wrong, the first at [{where}]: are they left out of a loop?"
    return (
        "the ratio varies from entry to entry: a term is missing (which outputs did this number touch, too?), or a"
        " factor is taken from another array"
    )


def _of_a_factor(ratio, N):
    """The cause where backward is everywhere `ratio` times as large as it should be."""

    def is_near(number):
        return abs(ratio - number) <= 1e-3 * abs(number)

    if is_near(-1):
        return "the sign is wrong everywhere"
    if N > 1 and is_near(N):
        return f"it is {N} times too large everywhere, as many as there are samples: is the 1/N of a mean missing?"
    if N > 1 and is_near(1 / N):
        return f"it is 1/{N} of what it should be, and there are {N} samples: is it divided by N twice?"
    return f"it is {ratio:.6g} times what it should be everywhere: a factor is missing, or stands twice"
