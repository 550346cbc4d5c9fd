"""The rows of softmax_cross_entropy, and of the losses that are softmax cross-entropy with something around it.

Each is what losses/rowwise.py wants of a loss, and takes softmax_rows for the work.  The formulas are those of the
losses' own files.
"""

import numpy as np
from numba import prange

from tinynet.checks.losses import BAD_TARGET, FINE
from tinynet.kernels import floats, memory
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.loss_rows import bad_row
from tinynet.kernels.softmax import softmax_row
from tinynet.kernels.softmax_few_classes import few_classes, few_soft_classes
from tinynet.kernels.softmax_rows import (
    BLOCK,
    exponentials,
    many_classes,
    row_maximum,
    rows_of_labels,
    softmax_rows,
    weighted,
)
from tinynet.kernels.special import tanh
from tinynet.kernels.surprisal import surprisal
from tinynet.kernels.vectors import load4, load_some, select, splat, splat4, sum_of, width

ROWS = 64  # of the focal loss at a time; softmax_rows takes 32 side by side, or 16, where classes are few


@kernel()
def cross_entropy_rows(z, t, q, w, ignore_index, epsilon, scale, check_only, losses, g, first, last):
    row = bad_row(q, first, last) if q.size else -1
    if row >= 0 or check_only:
        return row, BAD_TARGET, 0.0
    return -1, FINE, many_classes(z, t, q, w, ignore_index, epsilon, scale, losses, g, first, last)


@kernel()
def cross_entropy_few_rows(z, t, q, w, ignore_index, epsilon, scale, check_only, losses, g, first, last):
    """The same for labels of few classes: by itself, as the next one, because each takes seconds to compile."""
    return -1, FINE, few_classes(z, t, w, ignore_index, scale, losses, g, first, last)


@kernel()
def cross_entropy_few_soft_rows(z, t, q, w, ignore_index, epsilon, scale, check_only, losses, g, first, last):
    row, total = few_soft_classes(z, t, q, w, ignore_index, epsilon, False, scale, check_only, losses, g, first, last)
    return row, FINE if row < 0 else BAD_TARGET, total


@kernel()
def focus(losses, gamma, F):
    """Losses (n,) go from H = -log p to q^gamma H; fills F (n,).  q^gamma = exp(-gamma (-log q)); no digit cancels."""
    one, two, zero, half = losses.dtype.type(1), losses.dtype.type(2), losses.dtype.type(0), losses.dtype.type(0.5)
    for i in range(losses.size):
        H = losses[i]
        y = tanh(half * H)
        q, p = two * y / (one + y), floats.exp(-H)
        power = one if gamma == zero else floats.exp(-gamma * surprisal(q))
        share = zero if p == zero else p * H / q  # p H goes to 0 as H goes to infinity
        share = one if zero == H else share
        losses[i] = power * H
        F[i] = power * (one + gamma * share)


@kernel()
def surprisals(z, m, log_s, H):
    """H = -log p of every class.  Not fast: m + log_s, once for all classes, would lose digits."""
    for c in range(z.size):
        H[c] = (m - z[c]) + log_s


@kernel(fast=True)
def weigh(terms, F, s, w):
    """sum_c a terms[c] and sum_c b in float64, for a = w s; where a is 0, a term is.  F becomes b = a F."""
    zero, loss, total = F.dtype.type(0), 0.0, 0.0
    for c in range(F.size):
        a = w[c] * s[c]
        F[c] = zero if a == zero else a * F[c]
        loss += zero if a == zero else a * terms[c]
        total += F[c]
    return loss, total


@kernel()
def focal_gradient(e, r, b, total, factor, dz):
    """dz = factor (total e - b (1 + r)), for p = e / (1 + r); near p = 1, total e - b cancels before r b is lost."""
    for c in range(dz.size):
        dz[c] = factor * ((total * e[c] - b[c]) - r * b[c])


@kernel()
def focal_soft_rows(z, s, w, gamma, scale, losses, g, first, last):
    """focal_rows for soft targets s (N, C), row by row."""
    total, C, real = 0.0, z.shape[1], z.dtype.type
    e, H, b = memory.scratch((C,), z), memory.scratch((C,), z), memory.scratch((C,), z)
    for i in range(first, last):
        zi, dz = memory.piece(z, i * C, C), memory.piece(g, i * C, C if g.size else 0)
        m = row_maximum(zi)
        below, ties = exponentials(zi, m, e, e)
        r = np.float64(below) + (np.float64(ties) - 1.0)
        if r == r:
            surprisals(zi, m, floats.log1p(real(r)), H)
            focus(H, real(gamma), b)
            loss, share = weigh(H, b, memory.piece(s, i * C, C), w)
            focal_gradient(e, real(r), b, real(share), real(scale / (1.0 + r)), dz)
        else:
            loss = np.nan
            for c in range(dz.size):
                dz[c] = np.nan
        losses[i] = loss
        total += loss
    return total


@kernel()
def focal_rows(z, t, q, w, ignore_index, gamma, scale, check_only, losses, g, first, last):
    """A few at a time: their gradient is the cross-entropy's, which is multiplied by F while it is in the cache."""
    row = bad_row(q, first, last) if q.size else -1
    if row >= 0 or check_only:
        return row, BAD_TARGET, 0.0
    if q.size:
        return -1, FINE, focal_soft_rows(z, q, w, gamma, scale, losses, g, first, last)
    total, C, F = 0.0, z.shape[1], np.empty(min(ROWS, last - first), z.dtype)
    for group in range(first, last, ROWS):
        end = min(group + ROWS, last)
        rows_of_labels(z, t, w[:0], ignore_index, 1.0, losses, g, group, end)
        focus(memory.piece(losses, group, end - group), z.dtype.type(gamma), F)
        for i in range(group, end):
            a = 0.0
            if t[i] != ignore_index:
                a = np.float64(w[t[i]]) if w.size else 1.0
            loss = weighted(a, np.float64(losses[i]))
            losses[i] = loss
            total += loss
            factor = z.dtype.type(a * scale * F[i - group])
            dz = memory.piece(g, i * C, C if g.size else 0)
            for c in range(dz.size):
                dz[c] *= factor
    return -1, FINE, total


@kernel()
def entropy(q):
    """H(q) = -sum_c q[c] log q[c], with the sums of blocks added in float64; 0 log 0 is 0."""
    total, C, W = 0.0, q.size, width(q)
    for first in range(0, C, BLOCK):
        end, fours, ones = min(first + BLOCK, C), splat4(q, 0), splat(q, 0)
        whole = end - (end - first) % (4 * W)
        for c in range(first, whole, 4 * W):
            x = load4(q, c)
            fours = fours + select(x == 0, 0, x * surprisal(x))
        for c in range(whole, end, W):
            x = load_some(q, c, end - c, 0)
            ones = ones + select(x == 0, 0, x * surprisal(x))
        total += np.float64(sum_of(fours)) + np.float64(sum_of(ones))
    return total


@kernel()
def divergence_rows(z, t, q, ones, ignore_index, _, scale, check_only, losses, g, first, last):
    row, C, total = bad_row(q, first, last), z.shape[1], 0.0
    if row >= 0 or check_only:
        return row, BAD_TARGET, 0.0
    many_classes(z, t, q, ones, 0, 0.0, scale, losses, g, first, last)
    for i in range(first, last):  # the row of q is still in the cache
        loss = np.float64(losses[i]) - entropy(memory.piece(q, i * C, C))
        loss = 0.0 if loss < 0.0 else loss
        losses[i] = loss
        total += loss
    return -1, FINE, total


@kernel()
def divergence_few_rows(z, t, q, ones, ignore_index, _, scale, check_only, losses, g, first, last):
    row, total = few_soft_classes(z, t, q, ones, 0, 0.0, True, scale, check_only, losses, g, first, last)
    return row, FINE if row < 0 else BAD_TARGET, total


@kernel()
def divergence_row(z, q, m, log_s, terms):
    zero = z.dtype.type(0)
    for c in range(z.size):
        terms[c] = zero if q[c] == zero else q[c] * (((m - z[c]) + log_s) - surprisal(q[c]))


@sized_kernel(16384)
def divergence_terms(z, q, terms):
    """q log(q / p) of each class, all (N, C).  A thread owns its rows."""
    N, C = z.shape
    for n in prange(N):
        zn, some = memory.piece(z, n * C, C), memory.piece(terms, n * C, C)
        m = row_maximum(zn)
        below, ties = exponentials(zn, m, some, some)
        r = np.float64(below) + (np.float64(ties) - 1.0)
        if r == r:
            divergence_row(zn, memory.piece(q, n * C, C), m, floats.log1p(z.dtype.type(r)), some)
        else:
            for c in range(C):
                some[c] = np.nan


@kernel()
def divided(x, tau, y):
    for k in range(x.size):
        y[k] = x[k] / tau


@kernel()
def centered_and_divided(x, center, tau, y):
    for k in range(x.size):
        y[k] = (x[k] - center[k]) / tau


@kernel()
def distillation_rows(s, t, T, ones, ignore_index, options, scale, check_only, losses, g, first, last):
    (tau_s, tau_t, center), K, n = options, s.shape[1], last - first
    z, P, shifted = np.empty((n, K), s.dtype), np.empty((n, K), s.dtype), np.empty((n, K), s.dtype)
    for r in range(n):
        row = memory.piece(shifted, r * K, K)
        centered_and_divided(memory.piece(T, (first + r) * K, K), center, tau_t, row)
        softmax_row(row, memory.piece(P, r * K, K))
        if P[r, 0] != P[r, 0]:
            return first + r, BAD_TARGET, 0.0
        divided(memory.piece(s, (first + r) * K, K), tau_s, memory.piece(z, r * K, K))
    if check_only:
        return -1, FINE, 0.0
    some_losses, dz = losses[first:last] if losses.size else losses, g[first:last] if g.size else g
    return -1, FINE, softmax_rows(z, t, P, ones, 0, 0.0, scale / tau_s, some_losses, dz, 0, n)
