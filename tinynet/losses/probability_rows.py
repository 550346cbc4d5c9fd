"""What nll and categorical_cross_entropy share: the passes over rows that stand for probabilities.

A row is checked, and in the cache when its loss -sum_c a[c] log p[c] is taken.
"""

import numpy as np

from tinynet.checks.losses import BAD_PREDICTION, BAD_TARGET, FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import kernel
from tinynet.kernels.softmax_rows import weighted
from tinynet.losses.elementwise import named
from tinynet.losses.rowwise import strange_rows


def probability_rows(loss, check_row, surprise, slope, row_loss, row_gradient):
    """`rows` for rowwise, of numbers x that stand for probabilities p.

    check_row(x)    of a row: how many are outside of where they must be, how many p aren't 0, and the sum of p
    surprise(x)     -log p
    slope(a, x)     a d(-log p) / dx
    row_loss(x, q, w, keep, soft)                   of a row: -sum_c a log p, in float64, with a as in the formula
    row_gradient(x, q, w, keep, soft, scale, g)     of a row: g = scale a d(-log p) / dx.  g may be x
    """

    def rows(x, t, q, w, ignore_index, epsilon, scale, check_only, losses, g, first, last):
        C, labels, real = x.shape[1], q.size == 0, x.dtype.type
        hot = np.zeros(C if labels else 0, x.dtype)
        total = 0.0
        for i in range(first, last):
            xi, dx = memory.piece(x, i * C, C), memory.piece(g, i * C, C if g.size else 0)
            loss, label = 0.0, t[i] if labels else 0
            if labels and label == ignore_index:
                for c in range(dx.size):
                    dx[c] = 0
            else:
                if not labels and strange_rows(q, i, i + 1) >= 0:
                    return i, BAD_TARGET, 0.0
                outside, count, one = check_row(xi)
                if outside > 0 or abs(one - 1.0) > 1e-3:
                    return i, BAD_PREDICTION, 0.0
                if check_only:
                    continue
                if one != one:
                    loss = np.nan
                    for c in range(dx.size):
                        dx[c] = np.nan
                elif labels and epsilon == 0.0:
                    a, right = np.float64(w[label]) if w.size else 1.0, xi[label]
                    loss = weighted(a, np.float64(surprise(right)))
                    for c in range(dx.size):
                        dx[c] = 0
                    if dx.size and a > 0.0:
                        dx[label] = slope(a * scale, right)
                else:
                    if labels:
                        hot[label] = 1
                    qi = memory.piece(hot, 0, C) if labels else memory.piece(q, i * C, C)
                    keep, soft = real(1.0 - epsilon), real(epsilon / count)
                    loss = row_loss(xi, qi, w, keep, soft)
                    if dx.size:
                        row_gradient(xi, qi, w, keep, soft, real(scale), dx)
                    if labels:
                        hot[label] = 0
            total += loss
            if losses.size:
                losses[i] = loss
        return -1, FINE, total

    return kernel()(named(rows, loss))
