"""The answers to convolution.py.

1.  b touched every y[p,q], times 1:                    db = sum_p sum_q dy[p,q]

2.  w[i,j] touched every y[p,q], times x[p s + i, q s + j]:

        dw[i,j] = sum_p sum_q dy[p,q] x[p s + i, q s + j]

    For one (i, j) these are the pixels from (i, j) on, every s-th row and column.

3.  y[p,q] was made of the window that begins at (p s, q s), each pixel times its weight, so dy[p,q] w goes back there.

4.  By w[i,j], x[h,g] touched the y[p,q] with p s + i = h and q s + j = g, so p = (h - i) / s and q = (g - j) / s: where
    these are whole numbers.  With s = 2 a window begins at every second pixel only.
"""

import convolution
import numpy as np
from tasks import run


def gradient_of_bias(dy):
    return dy.sum()


def gradient_of_filter(x, dy, shape, s):
    (P, Q), dw = dy.shape, np.zeros(shape)
    for i, j in np.ndindex(shape):
        dw[i, j] = (dy * x[i : i + (P - 1) * s + 1 : s, j : j + (Q - 1) * s + 1 : s]).sum()
    return dw


def scattered(dy, w, shape, s):
    dx = np.zeros(shape)
    for p, q in np.ndindex(dy.shape):
        dx[p * s : p * s + w.shape[0], q * s : q * s + w.shape[1]] += dy[p, q] * w
    return dx


def gathered(dy, w, shape, s):
    dx = np.zeros(shape)
    for h, g in np.ndindex(shape):
        for i, j in np.ndindex(w.shape):
            (p, p_left), (q, q_left) = divmod(h - i, s), divmod(g - j, s)
            if p_left == q_left == 0 and 0 <= p < dy.shape[0] and 0 <= q < dy.shape[1]:
                dx[h, g] += w[i, j] * dy[p, q]
    return dx


if __name__ == "__main__":
    run(convolution.tasks(globals()))
