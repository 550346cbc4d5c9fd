"""The answers to by_hand.py.

1.  a[n,i] touched h[n,i] alone, times 1 - tanh(a[n,i])^2:

        da[n,i] = (1 - h[n,i]^2) dh[n,i]

2.  z[n,o] touched one of the N O terms, (z - t)^2 / (N O), whose slope is 2 (z - t) / (N O):

        dz = 2 (z - t) / (N O)

3.  w[i,o] also touched its own square in the new term, decay / 2 w^2, whose slope is decay w.  Both ways add up:

        dw + decay w

4.  w[i,o] touched z[n,o] of every n, times h[n,i]: dw[i,o] = sum_n h[n,i] dz[n,o], which is h.T dz, of w's shape
    (I, O).  (dz.T h is its transpose, (O, I).)  b[o] touched z[n,o] of every n, times 1, so db[o] is the sum over n.
    A mean would divide by N once more: the loss has done so already.
"""

import by_hand
import numpy as np
from tasks import run


def backward_of_tanh(a, dh):
    return (1 - np.tanh(a) ** 2) * dh


def gradient_of_squared_error(z, t):
    return 2 * (z - t) / z.size


def gradient_with_decay(dw, w, decay):
    return dw + decay * w


def backward_of_weighted_sum(h, w, dz):
    return h.T @ dz, dz.sum(axis=0), dz @ w.T


if __name__ == "__main__":
    run(by_hand.tasks(globals()))
