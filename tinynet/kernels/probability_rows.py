"""The rows of nll and categorical_cross_entropy, which stand for probabilities.

A row is checked, and in the cache when its loss -sum_c a[c] log p[c] is taken.
"""

import numpy as np

from tinynet.checks.losses import BAD_PREDICTION, BAD_TARGET, FINE
from tinynet.kernels import floats, memory
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.loss_elements import named
from tinynet.kernels.loss_rows import bad_row
from tinynet.kernels.softmax_rows import weighted
from tinynet.kernels.surprisal import surprisal


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
                if not labels and bad_row(q, i, i + 1) >= 0:
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


# --- of logarithms l = log p ------------------------------------------------------------------------------------


@kernel(fast=True)
def log_check_row(l):
    """How many of l (C,) are above 0, how many aren't -inf, and the sum of exp(l): NaN if one of them is.

    What rounding may have left of log 1 passes for 0.
    """
    most, masked, zero = l.dtype.type(1e-6), l.dtype.type(-np.inf), l.dtype.type(0)
    above, possible, total = 0, 0, zero
    for c in range(l.size):
        above += l[c] > most
        possible += l[c] > masked
        total += floats.exp(l[c])
    return above, possible, total


@kernel(fast=True)
def log_row_loss(l, q, w, keep, soft):
    zero, masked, total = l.dtype.type(0), l.dtype.type(-np.inf), 0.0
    for c in range(l.size):
        a = w[c] * (keep * q[c] + (soft if l[c] > masked else zero))
        term = zero if a == zero else a * l[c]
        total -= term
    return total


@kernel()
def log_row_gradient(l, q, w, keep, soft, scale, g):
    zero, masked = l.dtype.type(0), l.dtype.type(-np.inf)
    for c in range(l.size):
        g[c] = -scale * (w[c] * (keep * q[c] + (soft if l[c] > masked else zero)))


@helper
def surprise(l):
    return -l


@helper
def log_slope(a, l):
    return -a


nll_rows = probability_rows("nll", log_check_row, surprise, log_slope, log_row_loss, log_row_gradient)


# --- of p itself --------------------------------------------------------------------------------------------------


@kernel(fast=True)
def p_check_row(p):
    """How many of p (C,) are below 0 or above 1, how many are above 0, and their sum: NaN if one of them is."""
    zero, most = p.dtype.type(0), p.dtype.type(1 + 1e-6)
    outside, positive, total = 0, 0, zero
    for c in range(p.size):
        outside += (p[c] < zero) | (p[c] > most)
        positive += p[c] > zero
        total += p[c]
    return outside, positive, total


@kernel(fast=True)
def p_row_loss(p, q, w, keep, soft):
    zero, total = p.dtype.type(0), 0.0
    for c in range(p.size):
        a = w[c] * (keep * q[c] + (soft if p[c] > zero else zero))
        term = zero if a == zero else a * surprisal(p[c])
        total += term
    return total


@kernel()
def p_row_gradient(p, q, w, keep, soft, scale, g):
    zero = p.dtype.type(0)
    for c in range(p.size):
        a = w[c] * (keep * q[c] + (soft if p[c] > zero else zero))
        g[c] = zero if a == zero else -(scale * a) / p[c]


@helper
def p_slope(a, p):
    return -a / p


categorical_rows = probability_rows(
    "categorical_cross_entropy", p_check_row, surprisal, p_slope, p_row_loss, p_row_gradient
)
