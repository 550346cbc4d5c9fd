"""Exercises after example 04, what losses punish: five gaps.  Fill them, and run this file; it says which are right.

    python examples/exercises/loss_and_gradient.py

1 and 2 ask the questions of the example about another loss, with p = 1 / (1 + exp(-z)) for what is true:

    L = (1 - p^k) / k             k between 0 and 1.  At k = 1 it is 1 - p, and near k = 0 it is nearly -log p

3 to 5 are about the cross-entropy of C classes, as the package computes it.  z (N, C) are logits, p their softmax
(example 02), t (N,) the true classes as whole numbers, and the loss of row n is -log p[n,t[n]].  The answers, with
their derivations, are in loss_and_gradient_answers.py.
"""

import numpy as np
from tasks import by_small_changes, call, derivatives, gap, run, same


def pull(p, k):
    """1.  dL/dz of that loss, by p and k alone.  The slope of the sigmoid is p (1 - p)."""
    gap()


def hardest(k):
    """2.  At which p does it pull hardest?  Where |dL/dz| is largest, its derivative by p is 0."""
    gap()


def loss_of_row(z, t):
    """3.  -log p[t] of one row z (C,).  This is right for small logits only.  Mend it for logits of any size: take the
    largest, m, away first; take the logarithm on paper, so that no p is left; and mind the order in which you add up.
    """
    p = np.exp(z) / np.exp(z).sum()
    return -np.log(p[t])


def loss_with_unknown_labels(z, t):
    """4.  Some labels are unknown: t is -100 there, and z may be anything, NaN too.  Such rows add no loss, get a
    gradient of 0, and don't count in the mean.  If all are unknown, the loss is 0.  Return L and dz (N, C).
    """
    gap()


def softmax_of_two(z, t):
    """5.  For C = 2, z (N, 2), the softmax's p[n,1] is a sigmoid: of which number?  Return L, a mean, and dz (N, 2), by
    no other formulas than those of example 03: -log p where t is 1, -log(1 - p) where it is 0, and p - t.
    """
    gap()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def tasks(written):
    """What is asserted of the functions of these names."""
    rng = np.random.default_rng(0)
    a, z, t = rng.standard_normal(6), 2 * rng.standard_normal((6, 4)), np.array([3, 0, 1, 2, 1, 1])

    def cross_entropy(z, t):
        return -np.log(softmax(z)[np.arange(len(t)), t])

    def pulls():
        for k in (0.3, 1.0):
            p = 1 / (1 + np.exp(-a))
            mistakes = [(-(p ** (k - 1)), "that is dL/dp; z touched p, too, times the sigmoid's slope")]
            loss = lambda k=k: ((1 - (1 + np.exp(-a)) ** -k) / k).sum()  # noqa: E731
            derivatives("dL/dz", call(written["pull"], p, k), a, loss, mistakes=mistakes)

    def where():
        p = np.linspace(0, 1, 1_000_001)[1:-1]
        for k in (0.25, 1.0):
            found = float(call(written["hardest"], k))
            assert 0 < found < 1, f"for k = {k:g} it is {found:.6g}, which is no probability"
            expected = p[(p**k * (1 - p)).argmax()]
            there, most = (at**k * (1 - at) for at in (found, expected))
            weaker = f"|dL/dz| is {there:.4f} there, and elsewhere {most:.4f}"
            assert abs(found - expected) < 1e-4, f"for k = {k:g} it is {found:.6g}: {weaker}"

    def row():
        cases = [
            ("small logits", [1.0, -2, 0.5], 2, "the loss is log of the sum of all exp(z[k]), minus z[t]"),
            ("logits of 1000", [1000.0, 1000], 0, "exp(1000) is too large for any number: how large is exp(z - m)?"),
            (
                "a true class 800 below",
                [0.0, 800],
                0,
                "p[t] is rounded to 0, which has no logarithm: do without p",
            ),
            ("two logits of 10^17", [1e17, 1e17], 1, "log 2 is lost in 10^17 + log 2: first subtract what is large"),
        ]
        for name, logits, true, why in cases:
            logits = np.array(logits)
            expected = logits.max() - logits[true] + np.log(np.exp(logits - logits.max()).sum())
            with np.errstate(all="ignore"):
                same(f"the loss of {name}", call(written["loss_of_row"], logits, true), expected, why=why)

    def unknown():
        known = np.array([True, False, True, True, False, True])
        given, labels = np.where(known[:, None], z, np.nan), np.where(known, t, -100)
        loss, dz = call(written["loss_with_unknown_labels"], given, labels, results=2)
        losses = cross_entropy(z, t)[known]
        why = "a row that doesn't count is NaN: leave it out, since 0 times NaN is NaN" if np.isnan(loss) else ""
        same("L", loss, losses.mean(), [(losses.sum() / 6, "four rows of the six count in the mean")], why)
        right = np.zeros((6, 4))
        right[known] = by_small_changes(z, lambda: cross_entropy(z, t)[known].mean())[known]
        why = "a row that doesn't count must have a gradient of 0" if np.isnan(dz).any() else ""
        same("dz", dz, right, [(right * 4 / 6, "four rows of the six count in the mean")], why)
        with np.errstate(all="ignore"):
            nothing = call(written["loss_with_unknown_labels"], given, np.full(6, -100), results=2)
        same("L of nothing known", nothing[0], 0, why="nothing counts: divide by 1, say, but not by 0")
        same("dz of nothing known", nothing[1], np.zeros((6, 4)), why="nothing counts: divide by 1, say, but not by 0")

    def two():
        pairs, which = np.ascontiguousarray(z[:, :2]), t % 2
        loss, dz = call(written["softmax_of_two"], pairs, which, results=2)
        say = "take z[n,0] away from both logits, which changes no p: what is left of z[n,1]?"
        other = cross_entropy(pairs, 1 - which).mean(), "that is the loss of the other class"
        same("L", loss, cross_entropy(pairs, which).mean(), [other], say)
        derivatives("dz", dz, pairs, lambda: cross_entropy(pairs, which).mean(), 6)

    return {
        "1, pull": pulls,
        "2, hardest": where,
        "3, loss of a row": row,
        "4, unknown labels": unknown,
        "5, softmax of two": two,
    }


if __name__ == "__main__":
    run(tasks(globals()))
