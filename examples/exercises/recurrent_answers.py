"""The answers to recurrent.py.

1.  h[t] touched the loss directly, g[t]; and a[t+1], times u: da[t+1] u.T.  And a[t] touched h[t], times 1 - h[t]^2:

        da[t] = (g[t] + da[t+1] u.T) (1 - h[t]^2)              nothing comes after the last

2.  w[c,k] touched a[t,k] of every t, times x[t,c]; u[j,k] touched a[t,k], times h[t-1,j], which is 0 for t = 0; and
    b[k] touched it times 1.  All steps add up:

        dw = x.T da        du = sum_t h[t-1].T da[t]        db = sum_t da[t]

3.  x[t] touched a[t] alone, times w:                          dx = da w.T

4.  One factor for all, from the norm of all numbers together: then the step is shorter, and its direction the same.
"""

import numpy as np
import recurrent
from tasks import run


def gradients_of_a(h, u, g):
    da = np.zeros(h.shape)
    later = np.zeros(h.shape[1])  # what comes to h[t] by way of a[t+1]
    for t in reversed(range(len(h))):
        da[t] = (g[t] + later) * (1 - h[t] ** 2)
        later = da[t] @ u.T
    return da


def gradients_of_parameters(x, h, da):
    before = np.vstack([np.zeros(h.shape[1]), h[:-1]])
    return x.T @ da, before.T @ da, da.sum(axis=0)


def gradient_of_input(w, da):
    return da @ w.T


def clipped(gradients, most):
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    return [gradient * min(1, most / norm) for gradient in gradients]


if __name__ == "__main__":
    run(recurrent.tasks(globals()))
