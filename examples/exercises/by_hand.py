"""Exercises after example 02, by hand: four gaps.  Fill them, and run this file; it says which are right.

    python examples/exercises/by_hand.py

Derive each on paper first, with the question of the example: which outputs did this number touch, and times what?  Then
write it in the place of gap().  (4 is written already, but wrong.)  The answers, with their derivations, are in
by_hand_answers.py.
"""

import numpy as np
from tasks import call, derivatives, gap, run


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
        mistakes = [
            ((1 - np.tanh(a) ** 2), "that is the slope alone: how much of dh comes through it?"),
            ((1 - a**2) * g, "a is what went into tanh; what came out?"),
        ]
        da = call(written["backward_of_tanh"], a, g)
        derivatives("da", da, a, lambda: (np.tanh(a) * g).sum(), mistakes=mistakes)

    def squared_error():
        mistakes = [(2 * (a - t), "a mean over all N O numbers divides by their count"), (2 * (a - t) / 5, "by O, too")]
        dz = call(written["gradient_of_squared_error"], a, t)
        derivatives("dz", dz, a, lambda: ((a - t) ** 2).mean(), mistakes=mistakes)

    def decay():
        dw = h.T @ dz
        mistakes = [
            (dw, "that is the gradient of L alone"),
            (0.3 * w, "that is the gradient of the new term alone"),
            (dw + 0.15 * w, "the slope of a square has a factor 2, which the 1 / 2 takes away again"),
            (dw + 0.3 * w.sum(), "w[i,o] touched its own square alone: no sum is left"),
            (dw + 0.15 * (w**2).sum(), "that is the new term itself, not its derivative by each w[i,o]"),
            (dw - 0.3 * w, "the new term has a plus"),
        ]
        found = call(written["gradient_with_decay"], dw, w, 0.3)
        derivatives("the gradient", found, w, lambda: ((h @ w + b) * dz).sum() + 0.3 / 2 * (w**2).sum(), 1, mistakes)

    def weighted_sum():
        found = call(written["backward_of_weighted_sum"], h, w, dz, results=3)
        for name, array, gradient in zip(("dw", "db", "dh"), (w, b, h), found, strict=True):
            derivatives(name, gradient, array, lambda: ((h @ w + b) * dz).sum(), len(h))

    return {"1, tanh": tanh, "2, squared error": squared_error, "3, decay": decay, "4, weighted sum": weighted_sum}


if __name__ == "__main__":
    run(tasks(globals()))
