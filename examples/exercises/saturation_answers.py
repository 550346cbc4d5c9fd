"""The answers to saturation.py.

1.  p / (2 p p (1 - p)) = 1 / (2 p (1 - p)).  1 / p = 1 + exp(-z), and 1 / (1 - p) = 1 + exp(z), so it is

        (1 + exp(-z)) (1 + exp(z)) / 2 = 1 + (exp(z) + exp(-z)) / 2 = 1 + cosh z              1,491 at z = 8

2.  1 / p = 1 + exp(-z), and its integral from 0 to z is z + 1 - exp(-z).  Of the squared error,

        1 / (p p (1 - p)) = (1 + exp(-z))^2 (1 + exp(z)) = exp(z) + 3 + 3 exp(-z) + exp(-2 z)

    and its integral exp(z) - 1 + 3 z + 3 (1 - exp(-z)) + (1 - exp(-2 z)) / 2.  Divide by lr and by 2 lr.  So the wait
    grows like z itself with the cross-entropy, and like exp(z) with the squared error.

3.  The slope of log(exp(z) + exp(-z)) is (exp(z) - exp(-z)) / (exp(z) + exp(-z)) = tanh z, and that of t z is t:

        L = mean (log(exp(z) + exp(-z)) - t z)

    It is the cross-entropy of the logit 2 z, in disguise: y = 2 p - 1 for p = 1 / (1 + exp(-2 z)).

4.  dL/dz = 2 p^2 (1 - p) = 2 p^2 - 2 p^3.  Once more by z, by way of p:

        (4 p - 6 p^2) p (1 - p) = 2 p^2 (1 - p) (2 - 3 p)

    That is 0 where p = 2/3, and below 0 from there on: exp(-z) = 1/p - 1 = 1/2, so z = log 2.

5.  (p - t) / N is dz, not dp, whatever its name: the sigmoid's slope is in it.  Here it came in a second time.
"""

import numpy as np
import saturation
from saturation import sigmoid
from tasks import run


def times_as_large(z):
    return 1 + np.cosh(z)


def steps(z, lr):
    integral = np.exp(z) - 1 + 3 * z + 3 * (1 - np.exp(-z)) + (1 - np.exp(-2 * z)) / 2
    return (z + 1 - np.exp(-z)) / lr, integral / (2 * lr)


def loss_after_tanh(z, t):
    return (np.abs(z) + np.log1p(np.exp(-2 * np.abs(z))) - t * z).mean()


def convex_up_to():
    return np.log(2)


def gradients(x, t, w, b):
    dz = (sigmoid(x @ w + b) - t) / len(x)
    return x.T @ dz, dz.sum()


if __name__ == "__main__":
    run(saturation.tasks(globals()))
