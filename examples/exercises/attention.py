"""Exercises after example 22, attention by hand: five gaps.  Fill them, and run this file; it says which are right.

    python examples/exercises/attention.py

One sequence and one head: q, k, v (T, C) are queries, keys and values; score (T, T) says how well each query fits each
key, p (T, T) is the softmax of each of its rows, and o = p v.  The answers, with their derivations, are in
attention_answers.py.
"""

import numpy as np
from tasks import call, derivatives, gap, run, same


def scale(C, a, b):
    """1.  The numbers in q have the standard deviation a, those in k have b; all have mean 0 and are independent.  By
    which factor must q k.T be multiplied, so that the scores have the standard deviation 1?
    """
    gap()


def distances(q, k):
    """Other scores, for 2: the nearer a key is to a query, the better it fits.  score[t,j] = -|q[t] - k[j]|^2 / 2."""
    return -((q[:, None] - k) ** 2).sum(axis=2) / 2


def backward_of_distances(q, k, v, do):
    """2.  The whole backward pass of a head with these scores.  do (T, C): return dq, dk, dv.  Begin with p and dp; ask
    which scores q[t] touched, and times what; and k[j].
    """
    gap()


def causal_shares(score):
    """3.  A position takes from itself and from what is before.  This here looks into the future all the same.  Mend
    it, for any finite scores, and return p: every row sums to 1.
    """
    return softmax(score) * np.tri(len(score))


def backward_of_picking(dy, index, T):
    """4.  Rows in another order, or picked: y[n] = x[index[n]], where index may name a row of x (T, C) once, more than
    once, or never.  dy has the shape of y: return dx (T, C).
    """
    gap()


def one_more(row, keys, values, wq, wk, wv):
    """5.  Writing on, a letter at a time, causal, with the scores q k.T / sqrt(C) of the example.  keys and values
    (t, C) are those of the t rows before, row (C,) is the new one.  Return o (C,) of the new row alone, and the keys
    and values (t + 1, C) for the next time.  They may be empty at first, with t = 0.
    """
    gap()


def softmax(score):
    e = np.exp(score - score.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def tasks(written):
    """What is asserted of the functions of these names."""
    rng = np.random.default_rng(0)
    q, k, v, do = rng.standard_normal((4, 5, 3))

    def deviation():
        for C, a, b in ((16, 0.5, 3.0), (64, 1.0, 1.0)):
            right = 1 / (a * b * np.sqrt(C))
            mistakes = [
                (1 / (a * b * C), "of independent terms the variances add up, not the standard deviations"),
                (1 / np.sqrt(C), "a and b count, too"),
                (1 / right, "that is the standard deviation without the factor"),
                (right**2, "that would be the factor of a variance: a standard deviation is its root"),
            ]
            why = "begin with the variance of one product, q[t,c] k[j,c]"
            same(f"for C, a, b = {C}, {a}, {b}, it", call(written["scale"], C, a, b), right, mistakes, why)

    def nearness():
        found = call(written["backward_of_distances"], q, k, v, do, results=3)
        p = softmax(distances(q, k))
        dp = do @ v.T
        alone = p * dp  # what dscore would be, if each score touched its own share alone
        say = "score[t,j] touched all shares of its row: the sum over the row is missing"
        mistakes = [
            (alone @ k - alone.sum(axis=1)[:, None] * q, say),
            (alone.T @ q - alone.sum(axis=0)[:, None] * k, say),
            (p @ do, "v[j] touched o[t] of every t, times p[t,j]: a sum over t"),
        ]
        for name, array, gradient in zip(("dq", "dk", "dv"), (q, k, v), found, strict=True):
            derivatives(name, gradient, array, lambda: (softmax(distances(q, k)) @ v * do).sum(), 1, mistakes)

    def mask():
        score = rng.standard_normal((4, 4))
        expected = np.zeros((4, 4))
        for t in range(4):
            expected[t, : t + 1] = softmax(score[t, : t + 1])
        found = call(written["causal_shares"], score)
        assert found.shape == (4, 4), f"p has the shape {found.shape}, and should have (4, 4)"
        for t, row in enumerate(found):
            assert not np.isnan(row).any(), f"row {t} has NaN: a position takes from itself, too"
            assert abs(row.sum() - 1) < 1e-9, f"row {t} sums to {row.sum():.4f}: the rest was given to the future"
        same("p", found, expected, why="row t is the softmax of score[t,0] to score[t,t] alone, and 0 from there on")
        score = np.array([[-50000.0, 50000], [0, 0]])
        with np.errstate(all="ignore"):
            found = call(written["causal_shares"], score)
        say = "the future must be left out before the softmax takes the largest score, and only -inf is below any score"
        same("for scores of -50000 and 50000, p", found, np.array([[1, 0], [0.5, 0.5]]), why=say)

    def picking():
        x, g = rng.standard_normal((4, 2)), rng.standard_normal((5, 2))
        for index in (np.array([2, 0, 3, 1]), np.array([1, 3, 1, 0, 1])):
            dy = g[: len(index)]
            last = np.zeros(x.shape)
            last[index] = dy
            mistakes = [(last, "a row that was picked more than once touched all of these")]
            if len(index) == 4:
                mistakes = [(dy[index], "dy[n] goes to row index[n]; it doesn't come from there")]
            loss = lambda index=index, dy=dy: (x[index] * dy).sum()  # noqa: E731
            found = call(written["backward_of_picking"], dy, index, 4)
            derivatives(f"for index = {index}, dx", found, x, loss, mistakes=mistakes)

    def writing():
        x, (wq, wk, wv) = rng.standard_normal((6, 3)), rng.standard_normal((3, 3, 3))
        queries, keys, values = x @ wq, x @ wk, x @ wv
        why = "the new row's query, row @ wq, meets all keys, its own, too"
        for t in (3, 0, 5):
            o, *kept = call(written["one_more"], x[t], keys[:t], values[:t], wq, wk, wv, results=3)
            score = keys[: t + 1] @ queries[t]
            mistakes = [(softmax(score) @ values[: t + 1], "the scores are to be divided by sqrt(C)")]
            if t:
                mistakes.append((softmax(score[:t] / np.sqrt(3)) @ values[:t], "a position takes from itself, too"))
            same(f"for row {t}, o", o, softmax(score / np.sqrt(3)) @ values[: t + 1], mistakes, why)
            for name, found, right in zip(("keys", "values"), kept, (keys, values), strict=True):
                same(f"after row {t}, {name}", found, right[: t + 1])

    return {
        "1, scale": deviation,
        "2, distances": nearness,
        "3, causal": mask,
        "4, picking": picking,
        "5, one more": writing,
    }


if __name__ == "__main__":
    run(tasks(globals()))
