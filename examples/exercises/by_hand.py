"""Exercises after example 02, by hand: four gaps.  Fill them, and run this file; it says which are right.

    python examples/exercises/by_hand.py

Derive each on paper first, with the question of the example: which outputs did this number touch, and times what?  Then
write it.  The answers, with their derivations, are in by_hand_answers.py.
"""

import numpy as np
from tasks import by_small_changes, gap, run, same


def backward_of_tanh(a, dh):
    """1.  Another bend: h = tanh(a), whose slope is 1 - tanh(a)^2.  a, dh (N, O): return da (N, O)."""
    gap()


def gradient_of_squared_error(z, t):
    """2.  Another loss: L is the mean of (z - t)^2 over all N times O numbers.  z, t (N, O): return dz."""
    gap()


def gradient_with_decay(dw, w, decay):
    """3.  Another term: L + (decay / 2) times the sum of all w^2.  dw is dL/dw: return the gradient of both."""
    gap()


def backward_of_weighted_sum(h, w, dz):
    """4.  z = h w + b.  h (N, I), w (I, O), dz (N, O): dw, db and dh.  Two of the three are wrong.  Mend them."""
    dw = dz.T @ h
    db = dz.mean(axis=0)
    dh = dz @ w.T
    return dw, db, dh


def tasks(written):
    """What is asserted of the functions of these names."""
    rng = np.random.default_rng(0)
    a, g, t = rng.standard_normal((3, 5, 4))
    h, w, b = rng.standard_normal((5, 4)), rng.standard_normal((4, 3)), rng.standard_normal(3)
    dz = rng.standard_normal((5, 3))

    def tanh():
        same("da", written["backward_of_tanh"](a, g), by_small_changes(a, lambda: (np.tanh(a) * g).sum()))

    def squared_error():
        same("dz", written["gradient_of_squared_error"](a, t), by_small_changes(a, lambda: ((a - t) ** 2).mean()))

    def decay():
        dw = h.T @ dz
        expected = by_small_changes(w, lambda: ((h @ w + b) * dz).sum() + 0.3 / 2 * (w**2).sum())
        same("the gradient", written["gradient_with_decay"](dw, w, 0.3), expected)

    def weighted_sum():
        found = written["backward_of_weighted_sum"](h, w, dz)
        for name, array, gradient in zip(("dw", "db", "dh"), (w, b, h), found, strict=True):
            same(name, gradient, by_small_changes(array, lambda: ((h @ w + b) * dz).sum()))

    return {"1, tanh": tanh, "2, squared error": squared_error, "3, decay": decay, "4, weighted sum": weighted_sum}


if __name__ == "__main__":
    run(tasks(globals()))
