"""Exercises after example 03, logistic regression: five gaps.  Fill them, and run this file; it says which are right.

    python examples/exercises/logistic_regression.py

1 and 2 are about a model of counts, such as the letters that arrive in a day.  Of N days, x (N, I) are features, and t
(N,) how many letters came: 0, 1, 2, ...  A weighted sum z = x w (w (I,), no bias) gives the mean that is expected,
m = exp(z), and a count t has the probability of Poisson's distribution,

    m^t exp(-m) / t!

The rest is about yes and no again: p = 1 / (1 + exp(-z)), t is 0 or 1, and L = mean -(t log p + (1 - t) log(1 - p)).
The answers, with their derivations, are in logistic_regression_answers.py.
"""

import numpy as np
from tasks import by_small_changes, call, derivatives, gap, run, same


def loss_and_gradient_of_counts(z, t):
    """1.  From the likelihood of N counts, make a loss as the example does, a mean.  z, t (N,): return L and dz (N,).
    (t! may stay out, since no z changes it.)
    """
    gap()


def newton_step_of_counts(x, w, t):
    """2.  Newton's method, for that loss: x (N, I), t (N,).  Return the step u (I,) that it makes from w (I,).
    np.linalg.solve(H, a) solves H u = a.
    """
    gap()


def weights_for_and():
    """3.  Four points x, (0, 0), (0, 1), (1, 0) and (1, 1), and t is 1 for the last alone: "both".  z = w[0] x[0] +
    w[1] x[1] + b.  For any w and b there are better ones: return three numbers w[0], w[1], b with L below 0.001.
    """
    gap()


def weights_for_one_of_two():
    """4.  The same points, but t is 1 for (0, 1) and (1, 0): "just one of the two".  Here a lowest L exists, and only
    one w[0], w[1], b that has it.  Return them.  (What must the gradient be there?  It can be seen without a computer.)
    """
    gap()


def second_derivatives(x, w, decay):
    """5.  Newton's H (I, I), of yes and no again, for a loss with a decay: L + decay / 2 times the sum of all w^2.
    Both of its terms are wrong.  Mend them.
    """
    p = sigmoid(x @ w)
    return (x.T * p) @ x / len(x) + decay


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def tasks(written):
    """What is asserted of the functions of these names."""
    rng = np.random.default_rng(0)
    x, w, t = rng.standard_normal((8, 3)), rng.standard_normal(3) / 2, np.array([0.0, 3, 1, 0, 2, 5, 1, 1])
    points = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])

    def loss_of_counts(z):
        return (np.exp(z) - t * z).mean()

    def counts():
        z = x @ w
        loss, dz = call(written["loss_and_gradient_of_counts"], z, t, results=2)
        moved = call(written["loss_and_gradient_of_counts"], z + 1, t, results=2)[0]
        # The loss may have another constant, the mean of log t!, so its change is looked at.
        change = loss_of_counts(z + 1) - loss_of_counts(z)
        mistakes = [(-change, "it has the wrong sign"), (8 * change, "it is a mean: divide the sum by N")]
        say = "the logarithm of a product is the sum of the logarithms; change its sign, divide by N"
        same("how much L grows where all z grow by 1", moved - loss, change, mistakes, say)
        derivatives("dz", dz, z, lambda: loss_of_counts(z), len(z))

    def newton():
        dw = by_small_changes(w, lambda: loss_of_counts(x @ w))
        H = np.zeros((3, 3))
        for i in range(3):
            H[i] = by_small_changes(w, lambda i=i: x[:, i] @ (np.exp(x @ w) - t) / len(t), 1e-4)
        p = sigmoid(x @ w)
        mistakes = [
            (np.linalg.solve(H, dw), "it goes uphill, along +dw"),
            (np.linalg.solve(H * len(t), -dw), "H lacks its 1/N, or dw has lost it twice"),
            (np.linalg.solve(H / len(t), -dw), "dw lacks its 1/N"),
            (
                np.linalg.solve((x.T * (p * (1 - p))) @ x / len(t), -dw),
                "p (1 - p) is the slope of the sigmoid, not of exp",
            ),
            (-dw, "that is a step of gradient descent"),
            (w + np.linalg.solve(H, -dw), "that is where the step ends, w + u"),
        ]
        why = "H[i,j] is the derivative of dw[i] by w[j], which touched every m"
        same("u", call(written["newton_step_of_counts"], x, w, t), np.linalg.solve(H, -dw), mistakes, why)

    def both():
        found = call(written["weights_for_and"])
        assert found.shape == (3,), "expected three numbers"
        z, truth = points @ found[:2] + found[2], np.array([0, 0, 0, 1])
        for point, score, right in zip(points, z, truth, strict=True):
            assert (score > 0) == right, f"at {tuple(map(int, point))} z is {score:g}, on the wrong side of 0"
        loss = np.logaddexp(0, np.where(truth, -z, z)).mean()
        assert loss < 0.001, f"all four points are on their side of 0, but L is {loss:.3g}: they can be surer"

    def one_of_two():
        found = call(written["weights_for_one_of_two"])
        assert found.shape == (3,), "expected three numbers"
        dz = (sigmoid(points @ found[:2] + found[2]) - np.array([0, 1, 1, 0])) / 4
        gradient = np.array([*(points.T @ dz), dz.sum()])
        numbers = ", ".join(f"{number:.3g}" for number in gradient)
        assert np.abs(gradient).max() < 1e-6, f"the gradient by w[0], w[1], b is not 0 there, but {numbers}"

    def mended():
        p, eye = sigmoid(x @ w), np.eye(3)
        first, mean = (x.T * (p * (1 - p))) @ x / len(x), (x.T * p) @ x / len(x)
        found = call(written["second_derivatives"], x, w, 0.3)
        mistakes = [
            (first + 0.3, "the first term is right; by which w[j] does the decay's derivative by w[i] change?"),
            (mean + 0.3 * eye, "the second term is right; how does p change as z does?"),
            (mean + 0.3, "neither term is right yet"),
        ]
        why = "it is the derivative of dw[i] + decay w[i] by w[j]: of each term by itself"
        same("H", found, first + 0.3 * eye, mistakes, why)

    return {
        "1, counts": counts,
        "2, Newton's step": newton,
        "3, both": both,
        "4, one of two": one_of_two,
        "5, second derivatives": mended,
    }


if __name__ == "__main__":
    run(tasks(globals()))
