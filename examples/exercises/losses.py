"""Exercises after example 07, losses and their gradients: five gaps.  Fill them, and run this file.

    python examples/exercises/losses.py

z (N, C) are logits, t (N,) the true classes; in 1 and 2, z and t are (N,), and t is 0 or 1.  Each loss is a mean over
the N samples, and each gradient dL/dz has z's shape.  [c = t] is 1 where c is t, and 0 elsewhere.  The answers, with
their derivations, are in losses_answers.py.
"""

import numpy as np
from tasks import call, derivatives, gap, run, same


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
    """4.  L = mean -sum_c q[n,c] log p[n,c], p = softmax(z): the labels are not quite believed, and the classes share
    eps, q[n,c] = (1 - eps) [c = t[n]] + eps / C.  Return dz (N, C).
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
        sizes = np.exp(-(2 * yes - 1) * a) / 6
        mistakes = [(-sizes, "z is in the exponent as -s z, which has the slope -s"), (sizes, "-s z has the slope -s")]
        dz = call(written["gradient_of_exponential_loss"], a, yes)
        derivatives("dz", dz, a, lambda: np.exp(-(2 * yes - 1) * a).mean(), 6, mistakes)

    def stable():
        losses = np.where(yes == 1, np.log(1 + np.exp(-a)), np.log(1 + np.exp(a)))
        mistakes = [(losses.sum(), "it is a mean, not a sum"), (-losses.mean(), "a loss is not below 0")]
        same("L", call(written["stable_binary_cross_entropy"], a, yes), losses.mean(), mistakes)
        why = "p or 1 - p is rounded to 0 there, and exp(1000) is too large for any number; exp(-1000) may well be 0"
        with np.errstate(all="ignore"):
            found = call(written["stable_binary_cross_entropy"], np.array([1000.0, -1000, 1000]), yes[:3])
        same("L of logits of 1000 and -1000", found, 2000 / 3, why=why)

    def temperature():
        p = softmax(z / 2.5)
        mistakes = [
            ((p - right) / 6, "z touched z / tau, times 1 / tau"),
            ((softmax(z) - right) / 6 / 2.5, "which p is it the softmax of?"),
        ]
        dz = call(written["gradient_with_temperature"], z, t, 2.5)
        derivatives("dz", dz, z, lambda: -(right * np.log(softmax(z / 2.5))).sum(axis=1).mean(), 6, mistakes)

    def smoothing():
        q = 0.8 * right + 0.2 / 4
        mistakes = [
            ((softmax(z) - right) / 6, "that is the gradient without smoothing"),
            ((softmax(z) - 0.8 * right) / 6, "all classes share eps"),
            ((softmax(z) - np.where(right, 0.8, 0.2 / 3)) / 6, "all four classes share eps, the true one, too"),
            ((softmax(z) - np.where(right, 0.8, 0.2 / 4)) / 6, "all four classes share eps, the true one, too"),
        ]
        dz = call(written["gradient_with_smoothing"], z, t, 0.2)
        derivatives("dz", dz, z, lambda: -(q * np.log(softmax(z))).sum(axis=1).mean(), 6, mistakes)

    def squared():
        dz = call(written["gradient_of_squared_probabilities"], z, t)
        derivatives("dz", dz, z, lambda: ((softmax(z) - right) ** 2).sum(axis=1).mean(), 6)

    return {
        "1, exponential loss": exponential,
        "2, stable cross-entropy": stable,
        "3, temperature": temperature,
        "4, smoothing": smoothing,
        "5, squared probabilities": squared,
    }


if __name__ == "__main__":
    run(tasks(globals()))
