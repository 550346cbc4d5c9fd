"""The rows of multiclass_hinge, whose formulas stand in losses/multiclass_hinge.py: loops that vectorise."""

import numpy as np

from tinynet.checks.losses import FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import kernel


@kernel(fast=True)
def row_loss(z, t, margin):
    """sum_c h[c], in float64, and how many of them are above 0; a NaN in z makes the sum one."""
    zero, right = z.dtype.type(0), z.dtype.type(z[t])
    total, violations = np.nan if right != right else 0.0, 0  # which shows also where there is no other class
    for c in range(z.size):
        h = z[c] - right + margin
        h = zero if h <= zero or c == t else h
        total += h
        violations += h > zero
    return total, violations


@kernel(fast=True)
def row_squares(z, t, margin):
    """sum_c h[c]^2 and sum_c 2 h[c], in float64; a NaN in z makes both one."""
    zero, right = z.dtype.type(0), z.dtype.type(z[t])
    total = slopes = np.nan if right != right else 0.0
    for c in range(z.size):
        h = z[c] - right + margin
        h = np.float64(zero if h <= zero or c == t else h)
        total += h * h
        slopes += h + h
    return total, slopes


@kernel()
def row_gradient(z, t, p, margin, slopes, factor, g):
    """factor times each slope, and at t minus their sum.  g may be z, so what t was is read first."""
    zero, two, right = z.dtype.type(0), z.dtype.type(2), z[t]
    if p == 1:
        for c in range(z.size):
            g[c] = factor if z[c] - right + margin > zero else zero
    else:
        for c in range(z.size):
            h = z[c] - right + margin
            g[c] = factor * (two * h) if h > zero else zero
    g[t] = -factor * z.dtype.type(slopes)


@kernel()
def multiclass_hinge_rows(z, t, q, w, ignore_index, options, scale, check_only, losses, g, first, last):
    if check_only:
        return -1, FINE, 0.0
    (p, margin), C, total = options, z.shape[1], 0.0
    margin = z.dtype.type(margin)
    for i in range(first, last):
        zi, dz = memory.piece(z, i * C, C), memory.piece(g, i * C, C if g.size else 0)
        loss, nothing = 0.0, t[i] == ignore_index
        if not nothing:
            share = (np.float64(w[t[i]]) if w.size else 1.0) / C
            total_h, slopes = row_loss(zi, t[i], margin) if p == 1 else row_squares(zi, t[i], margin)
            nothing = share == 0.0 and total_h == total_h  # also where the loss is infinite
            if not nothing:
                loss = share * total_h
                if g.size and loss == loss:
                    row_gradient(zi, t[i], p, margin, slopes, z.dtype.type(scale * share), dz)
                elif g.size:
                    for c in range(C):
                        dz[c] = loss  # NaN
        if nothing:
            for c in range(dz.size):
                dz[c] = 0
        total += loss
        if losses.size:
            losses[i] = loss
    return -1, FINE, total
