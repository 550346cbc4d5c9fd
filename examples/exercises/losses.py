"""Exercises after examples 03 to 07, losses and their gradients: five gaps.  Fill them, and run this file.

    python examples/exercises/losses.py

z (N, C) are logits, t (N,) the true classes; in 1 and 2, z and t are (N,), and t is 0 or 1.  Each loss is a mean over
the N samples, and each gradient dL/dz has z's shape.  The answers, with their derivations, are in losses_answers.py.
"""

import numpy as np
from tasks import by_small_changes, gap, run, same


def gradient_of_exponential_loss(z, t):
    """1.  L = mean exp(-s z), where s is +1 for t = 1 and -1 for t = 0.  Return dz (N,)."""
    gap()


def stable_binary_cross_entropy(z, t):
    """2.  L = mean -(t log p + (1 - t) log(1 - p)), p = 1 / (1 + exp(-z)).  Return L, also where z is 1000 or -1000."""
    p = 1 / (1 + np.exp(-z))
    return -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()


def gradient_with_temperature(z, t, tau):
    """3.  The cross-entropy of p = softmax(z / tau), tau > 0 the temperature: L = mean -log p[n,t[n]].  Return dz."""
    gap()


def gradient_with_smoothing(z, t, eps):
    """4.  L = mean -sum_c q[n,c] log p[n,c], p = softmax(z), with q[n,c] = (1 - eps) [c = t[n]] + eps / C, where [...]
    is 1 if it is true, else 0: the true class is asked for, but not for certain.  Return dz.
    """
    gap()


def gradient_of_squared_probabilities(z, t):
    """5.  L = mean sum_c (p[n,c] - [c = t[n]])^2, p = softmax(z).  Every z touched every p of its row, through the sum
    below the fraction; this forgets it.  Mend it.
    """
    p = softmax(z)
    return 2 * (p - np.eye(z.shape[1])[t]) * p * (1 - p) / len(z)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def tasks(written):
    """What is asserted of the functions of these names."""
    rng = np.random.default_rng(0)
    a, yes = rng.standard_normal(6), np.array([0, 1, 1, 0, 1, 0])
    z, t = rng.standard_normal((6, 4)), np.array([3, 0, 1, 2, 1, 1])
    right = np.eye(4)[t]

    def exponential():
        expected = by_small_changes(a, lambda: np.exp(-(2 * yes - 1) * a).mean())
        same("dz", written["gradient_of_exponential_loss"](a, yes), expected)

    def stable():
        found = written["stable_binary_cross_entropy"](a, yes)
        same("L", found, np.array(-np.log(np.where(yes == 1, 1 / (1 + np.exp(-a)), 1 / (1 + np.exp(a)))).mean()))
        with np.errstate(over="raise", divide="raise", invalid="raise"):  # no overflow, no log of 0
            same(
                "L",
                written["stable_binary_cross_entropy"](np.array([1000.0, -1000, 1000]), yes[:3]),
                np.array(2000 / 3),
            )

    def temperature():
        expected = by_small_changes(z, lambda: -(right * np.log(softmax(z / 2.5))).sum(axis=1).mean())
        same("dz", written["gradient_with_temperature"](z, t, 2.5), expected)

    def smoothing():
        q = 0.8 * right + 0.2 / 4
        expected = by_small_changes(z, lambda: -(q * np.log(softmax(z))).sum(axis=1).mean())
        same("dz", written["gradient_with_smoothing"](z, t, 0.2), expected)

    def squared():
        expected = by_small_changes(z, lambda: ((softmax(z) - right) ** 2).sum(axis=1).mean())
        same("dz", written["gradient_of_squared_probabilities"](z, t), expected)

    return {
        "1, exponential loss": exponential,
        "2, stable cross-entropy": stable,
        "3, temperature": temperature,
        "4, smoothing": smoothing,
        "5, squared probabilities": squared,
    }


if __name__ == "__main__":
    run(tasks(globals()))
