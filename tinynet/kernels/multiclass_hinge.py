"""The rows of multiclass_hinge, whose formulas stand in losses/multiclass_hinge.py: loops that vectorise."""

import numpy as np

from tinynet.checks.losses import FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import kernel


@kernel(fast=True)
def row_loss(z, t):
    """sum_c h[c], in float64, and how many of them are above 0; a NaN in z makes the sum one."""
    zero, one, right = z.dtype.type(0), z.dtype.type(1), z[t]
    total, violations = np.nan if right != right else 0.0, 0  # which shows also where there is no other class
    for c in range(z.size):
        h = z[c] - right + one
        h = zero if h <= zero or c == t else h
        total += h
        violations += h > zero
    return total, violations


@kernel()
def row_gradient(z, t, violations, factor, g):
    """factor [h[c] > 0], and at t minus their sum.  g may be z, so what t was is read first."""
    zero, one, right = z.dtype.type(0), z.dtype.type(1), z[t]
    for c in range(z.size):
        g[c] = factor if z[c] - right + one > zero else zero
    g[t] = -factor * z.dtype.type(violations)


@kernel()
def multiclass_hinge_rows(z, t, q, w, ignore_index, _, scale, check_only, losses, g, first, last):
    if check_only:
        return -1, FINE, 0.0
    C, total = z.shape[1], 0.0
    factor = z.dtype.type(scale / C)
    for i in range(first, last):
        zi, dz = memory.piece(z, i * C, C), memory.piece(g, i * C, C if g.size else 0)
        loss = 0.0
        if t[i] == ignore_index:
            for c in range(dz.size):
                dz[c] = 0
        else:
            total_h, violations = row_loss(zi, t[i])
            loss = total_h / C
            if g.size and loss == loss:
                row_gradient(zi, t[i], violations, factor, dz)
            elif g.size:
                for c in range(C):
                    dz[c] = loss  # NaN
        total += loss
        if losses.size:
            losses[i] = loss
    return -1, FINE, total
