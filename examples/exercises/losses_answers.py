"""The answers to losses.py.

1.  z[n] touched one of N terms, exp(-s z) / N, whose slope is -s exp(-s z) / N.

2.  -log p = log(1 + exp(-z)) and -log(1 - p) = log(1 + exp(z)) = z + log(1 + exp(-z)), so the two terms together are

        (1 - t) z + log(1 + exp(-z))

    For z < 0, exp(-z) may overflow; there log(1 + exp(-z)) = -z + log(1 + exp(z)).  Both cases in one:

        max(z, 0) - t z + log(1 + exp(-|z|))                  no exponent is above 0, and no logarithm is of 0

3.  By z / tau, the derivative is (p - [c = t]) / N as ever, and z touched z / tau times 1 / tau: so
    dz = (p - [c = t]) / (N tau).

4.  -sum_c q[c] log p[c] = sum_c q[c] (log sum_k exp(z[k]) - z[c]) = log sum_k exp(z[k]) - sum_c q[c] z[c], since the q
    sum to 1.  So dz[c] = (p[c] - q[c]) / N: what was said, minus what was asked for.

5.  z[c] touched every p[k]: for k = c through the exp above the fraction, times p[k]; and for all k through the sum
    below it, times -p[k] p[c].  Together that is p[k] ([k = c] - p[c]).  With g[k] = dL/dp[k] = 2 (p[k] - [k = t]) / N,

        dz[c] = sum_k g[k] p[k] ([k = c] - p[c]) = p[c] (g[c] - sum_k g[k] p[k])

    What was given has k = c alone.
"""

import losses
import numpy as np
from losses import softmax
from tasks import run


def gradient_of_exponential_loss(z, t):
    s = 2 * t - 1
    return -s * np.exp(-s * z) / len(z)


def stable_binary_cross_entropy(z, t):
    return (np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))).mean()


def gradient_with_temperature(z, t, tau):
    return (softmax(z / tau) - np.eye(z.shape[1])[t]) / len(z) / tau


def gradient_with_smoothing(z, t, eps):
    C = z.shape[1]
    return (softmax(z) - (1 - eps) * np.eye(C)[t] - eps / C) / len(z)


def gradient_of_squared_probabilities(z, t):
    p = softmax(z)
    g = 2 * (p - np.eye(z.shape[1])[t]) / len(z)
    return p * (g - (g * p).sum(axis=1, keepdims=True))


if __name__ == "__main__":
    run(losses.tasks(globals()))
