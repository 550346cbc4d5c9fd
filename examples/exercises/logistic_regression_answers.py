"""The answers to logistic_regression.py.

1.  log of m^t exp(-m) / t! is t z - exp(z) - log t!, since log m = z.  The sum over all days, with the other sign,
    divided by N, and without log t!:

        L = mean (exp(z) - t z)              dz = (exp(z) - t) / N = (m - t) / N

    What was expected, minus what came: the same as p - t of a yes or no.

2.  dw[i] = sum_n x[n,i] (m[n] - t[n]) / N.  w[j] touches m[n] times m[n] x[n,j], since exp is its own slope:

        H[i,j] = sum_n x[n,i] m[n] x[n,j] / N              H u = -dw

3.  z must be above 0 at (1, 1) alone: x[0] + x[1] - 1.5, say.  There, L is 0.41.  A larger multiple is surer of the
    same answers; 20 times it has z of -30, -10, -10 and 10, and each loss is below exp(-10) = 0.00005.

4.  At w = 0, b = 0 every p is 1/2, so 4 dz = (1/2, -1/2, -1/2, 1/2).  Then 4 dw[0] = -1/2 + 1/2 = 0, of the points
    (1, 0) and (1, 1); 4 dw[1] likewise, and 4 db = 0, the sum.  The loss is a bowl: where its gradient is 0, it is
    lowest.  That is log 2, the loss of guessing: no weighted sum can tell "just one of the two".  A hidden layer can.

5.  w[j] touches p[n] times p[n] (1 - p[n]) x[n,j], not p[n] x[n,j].  The decay's derivative by w[i] is decay w[i],
    which w[i] alone changes: decay on the diagonal, 0 elsewhere.
"""

import logistic_regression
import numpy as np
from logistic_regression import sigmoid
from tasks import run


def loss_and_gradient_of_counts(z, t):
    m = np.exp(z)
    return (m - t * z).mean(), (m - t) / len(z)


def newton_step_of_counts(x, w, t):
    m = np.exp(x @ w)
    dw = x.T @ (m - t) / len(x)
    H = (x.T * m) @ x / len(x)
    return np.linalg.solve(H, -dw)


def weights_for_and():
    return 20, 20, -30


def weights_for_one_of_two():
    return 0, 0, 0


def second_derivatives(x, w, decay):
    p = sigmoid(x @ w)
    return (x.T * (p * (1 - p))) @ x / len(x) + decay * np.eye(len(w))


if __name__ == "__main__":
    run(logistic_regression.tasks(globals()))
