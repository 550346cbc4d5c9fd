"""The answers to loss_and_gradient.py.

1.  dL/dp = -p^(k-1), and p moves with z times p (1 - p):

        dL/dz = -p^k (1 - p)              k = 1: -p (1 - p), which gives up where p is small;  k near 0: p - 1

2.  The derivative of p^k (1 - p) by p is k p^(k-1) (1 - p) - p^k.  It is 0 where k (1 - p) = p:

        p = k / (1 + k)                   1/2 for k = 1, and 0 for the cross-entropy: sure and wrong

3.  -log p[t] = log sum_k exp(z[k]) - z[t].  With the largest logit m taken out of the sum, s = sum_k exp(z[k] - m),
    this is m + log s - z[t].  No exponent is above 0, and one is 0, so nothing overflows, and s is at least 1: it has a
    logarithm.  And the order: (m - z[t]) + log s.  The two large numbers first, or log s is lost in m.

4.  Only the rows that are known are computed at all; to multiply the others by 0 does not help, since 0 times NaN is
    NaN.  Each of the M that are known gets (p - onehot(t)) / M.

5.  Adding the same number to both logits changes nothing, so let it be -z[n,0].  That leaves 0 and u = z[n,1] - z[n,0]:

        p[n,1] = exp(u) / (1 + exp(u)) = 1 / (1 + exp(-u))              the sigmoid of the difference

    z[n,1] touched u times 1 and z[n,0] touched it times -1, so with du = (p - t) / N, dz[n] = (-du, du).
"""

import loss_and_gradient
import numpy as np
from loss_and_gradient import softmax
from tasks import run


def pull(p, k):
    return -(p**k) * (1 - p)


def hardest(k):
    return k / (1 + k)


def loss_of_row(z, t):
    m = z.max()
    return (m - z[t]) + np.log(np.exp(z - m).sum())


def loss_with_unknown_labels(z, t):
    known = np.flatnonzero(t != -100)
    dz, count = np.zeros(z.shape), max(len(known), 1)
    if len(known) == 0:
        return 0.0, dz
    p = softmax(z[known])
    at = np.arange(len(known)), t[known]
    loss = -np.log(p[at]).sum() / count
    p[at] -= 1
    dz[known] = p / count
    return loss, dz


def softmax_of_two(z, t):
    u = z[:, 1] - z[:, 0]
    p = 1 / (1 + np.exp(-u))
    du = (p - t) / len(z)
    return -np.log(np.where(t == 1, p, 1 - p)).mean(), np.stack([-du, du], axis=1)


if __name__ == "__main__":
    run(loss_and_gradient.tasks(globals()))
