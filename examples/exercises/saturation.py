"""Exercises after example 05, cross-entropy or squared errors: five gaps.  Fill them, and run this file.

    python examples/exercises/saturation.py

One logit z, p = 1 / (1 + exp(-z)), and, in 1, 2 and 4, the truth is "no", t = 0, while z is large: the network is sure,
and wrong.

    cross-entropy   L = -log(1 - p)         dL/dz = p
    squared error   L = p^2                 dL/dz = 2 p p (1 - p)

The answers, with their derivations, are in saturation_answers.py.
"""

import numpy as np
from tasks import by_small_changes, call, derivatives, gap, run, same


def times_as_large(z):
    """1.  How many times as large is the cross-entropy's dL/dz as the squared error's?  Mind z = 40, where 1 - p is
    rounded to 0: write 1 / p and 1 / (1 - p) with exponentials of z, so that nothing is subtracted.
    """
    gap()


def steps(z, lr):
    """2.  About how many steps z - lr dL/dz lead from z down to 0?  For small steps, z is a smooth function of their
    number n, and dz/dn = -lr dL/dz; so n is 1/lr times the integral of 1 / (dL/dz) from 0 to z.  Multiply out what
    is to be integrated.  Return two numbers: of the cross-entropy, and of the squared error.
    """
    gap()


def loss_after_tanh(z, t):
    """3.  A network may answer with y = tanh(z), where t is 1 or -1.  There the squared error stalls, too: y has the
    slope 1 - y^2.  Which loss has the gradient dL/dz = (y - t) / N, and does not stall?  z, t (N,): return L, a mean.
    (Any constant may be added to it.)  Nothing must overflow at z = 1000.
    """
    gap()


def convex_up_to():
    """4.  The squared error of this page is convex for small z, and for large z it is not.  From which z on?"""
    gap()


def gradients(x, t, w, b):
    """5.  dw and db of a logistic regression, x (N, I), t (N,), w (I,), b a number.  They are meant to be those of the
    cross-entropy, L = mean -(t log p + (1 - t) log(1 - p)), and yet training stalls where p is sure.  Mend them.
    """
    p = sigmoid(x @ w + b)
    dp = (p - t) / len(x)
    dz = dp * p * (1 - p)
    return x.T @ dz, dz.sum()


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def tasks(written):
    """What is asserted of the functions of these names."""
    rng = np.random.default_rng(0)

    def ratio():
        for z in (-1.0, 0.0, 8.0):
            p = sigmoid(z)
            mistakes = [(2 * p * (1 - p), "that is its inverse"), (1 / (p * (1 - p)), "the slope of a square has a 2")]
            found = call(written["times_as_large"], z)
            why = "1 / p is 1 + exp(-z); and 1 / (1 - p)?"
            same(f"for z = {z:g}, it", found, p / (2 * p * p * (1 - p)), mistakes, why)
        with np.errstate(all="ignore"):
            found = call(written["times_as_large"], 40.0)
        same("for z = 40, it", found, 1.17692633418510e17, why="1 - p is rounded: do without p")

    def descent():
        def counted(gradient, z, lr):
            n = 0
            while z > 0:
                z, n = z - lr * gradient(sigmoid(z)), n + 1
            return n

        names = ("cross-entropy", "squared error")
        for z, lr in ((5.0, 0.05), (2.0, 0.01)):
            found = call(written["steps"], z, lr, results=2)
            for name, n, gradient in zip(names, found, (lambda p: p, lambda p: 2 * p * p * (1 - p)), strict=True):
                made = counted(gradient, z, lr)
                took = f"from z = {z:g}, lr = {lr:g}, the {name} took {made} steps, not {n:.1f}"
                assert abs(n - made) <= 0.02 * made, f"{took}: integrate the whole of 1 / (dL/dz), the small terms, too"

    def tanh():
        z, t = 2 * rng.standard_normal(6), np.array([1.0, -1, -1, 1, 1, -1])
        assert call(written["loss_after_tanh"], z, t).ndim == 0, "L is one number, the mean"
        slopes = by_small_changes(z, lambda: call(written["loss_after_tanh"], z, t))
        right = (np.tanh(z) - t) / 6
        mistakes = [
            (6 * right, "it is a mean, not a sum"),
            (-right, "the sign is wrong"),
            (np.tanh(z) / 6, "which function of z has the slope -t?"),
            (2 * (np.tanh(z) - t) * (1 - np.tanh(z) ** 2) / 6, "that is the squared error"),
        ]
        same("dL/dz", slopes, right, mistakes, "which function of z has the slope tanh(z)?")
        far = np.array([1000.0, -1000])
        why = "log(exp(z) + exp(-z)) is |z| + log(1 + exp(-2 |z|)), where nothing overflows"
        with np.errstate(all="ignore"):
            change = call(written["loss_after_tanh"], far, -t[:2]) - call(written["loss_after_tanh"], far / 2, -t[:2])
        same("how much L grows from z = 500 to z = 1000, where t = -1,", change, 1000, why=why)

    def bend():
        z = float(call(written["convex_up_to"]))
        assert abs(z - 2 / 3) > 0.01, "that is p there: of which z?"
        steepness = [2 * sigmoid(at) ** 2 * (1 - sigmoid(at)) for at in (z - 1e-3, z, z + 1e-3)]
        numbers = ", ".join(f"{number:.9f}" for number in steepness)
        say = f"at z = {z:.6g}, and 0.001 before and behind it, dL/dz is {numbers}: it should rise, and then fall"
        assert steepness[0] < steepness[1] > steepness[2], say

    def mended():
        x, t, w, b = rng.standard_normal((6, 3)), np.array([0.0, 1, 1, 0, 1, 0]), rng.standard_normal(3), np.array(0.3)

        def loss():
            z = x @ w + b
            return (np.logaddexp(0, z) - t * z).mean()

        dw, db = call(written["gradients"], x, t, w, b, results=2)
        derivatives("dw", dw, w, loss, 6)
        derivatives("db", db, b, loss, 6)

    return {"1, ratio": ratio, "2, steps": descent, "3, after tanh": tanh, "4, convex": bend, "5, gradients": mended}


if __name__ == "__main__":
    run(tasks(globals()))
