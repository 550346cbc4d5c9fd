"""Exercises after example 33, a convolution by hand: four gaps.  Fill them, and run this file; it says which are right.

    python examples/exercises/convolution.py

One image x (H, W), one filter w (I, J), and now a bias b and a stride s: the window moves s pixels at a time.

    y[p,q] = sum_i sum_j w[i,j] x[p s + i, q s + j] + b

The answers, with their derivations, are in convolution_answers.py.
"""

import numpy as np
from tasks import call, derivatives, gap, run


def forward(x, w, b, s):
    (H, W), (I, J) = x.shape, w.shape
    y = np.zeros(((H - I) // s + 1, (W - J) // s + 1))
    for p, q in np.ndindex(y.shape):
        y[p, q] = (w * x[p * s : p * s + I, q * s : q * s + J]).sum() + b
    return y


def gradient_of_bias(dy):
    """1.  Which outputs did b touch, and times what?  dy (P, Q): return db, one number."""
    gap()


def gradient_of_filter(x, dy, shape, s):
    """2.  w[i,j] touched all of y.  x (H, W), dy (P, Q), shape (I, J), stride s: return dw (I, J)."""
    gap()


def scattered(dy, w, shape, s):
    """3.  From the outputs' side: dy[p,q] times the filter, added to its window.  shape (H, W): return dx (H, W)."""
    gap()


def gathered(dy, w, shape, s):
    """4.  The same from the pixels' side; it is right for s = 1 only.  Which y did x[h,g] touch by w[i,j]?  Mend it."""
    dx = np.zeros(shape)
    for h, g in np.ndindex(shape):
        for i, j in np.ndindex(w.shape):
            p, q = h - i, g - j
            if 0 <= p < dy.shape[0] and 0 <= q < dy.shape[1]:
                dx[h, g] += w[i, j] * dy[p, q]
    return dx


def tasks(written):
    """What is asserted of the functions of these names, for strides of 1 and 2."""
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((7, 6)), rng.standard_normal((3, 2)), np.array(0.5)

    def for_each_stride(check):
        def all_of_them():
            for s in (1, 2):
                dy = rng.standard_normal(forward(x, w, b, s).shape)
                check(dy, s, lambda dy=dy, s=s: (forward(x, w, b, s) * dy).sum())

        return all_of_them

    def of_stride(s):
        return "it is right for s = 1; which windows are there where they begin at 0, s, 2 s, ...?" if s > 1 else ""

    def bias(dy, s, loss):
        mistakes = [(dy.mean(), "b touched every output times 1, so a sum; a mean would divide by their count")]
        derivatives("db", call(written["gradient_of_bias"], dy), b, loss, mistakes=mistakes)

    def filter_(dy, s, loss):
        found = call(written["gradient_of_filter"], x, dy, w.shape, s)
        derivatives(f"for s = {s}, dw", found, w, loss, why=of_stride(s))

    def scatter(dy, s, loss):
        last = np.zeros(x.shape)
        for p, q in np.ndindex(dy.shape):
            last[p * s : p * s + 3, q * s : q * s + 2] = dy[p, q] * w
        mistakes = [(last, "where windows overlap, what comes back adds up")]
        found = call(written["scattered"], dy, w, x.shape, s)
        derivatives(f"for s = {s}, dx", found, x, loss, mistakes=mistakes, why=of_stride(s))

    def gather(dy, s, loss):
        derivatives(f"for s = {s}, dx", call(written["gathered"], dy, w, x.shape, s), x, loss, why=of_stride(s))

    checks = {"1, bias": bias, "2, filter": filter_, "3, scatter": scatter, "4, gather": gather}
    return {task: for_each_stride(check) for task, check in checks.items()}


if __name__ == "__main__":
    run(tasks(globals()))
