"""What nt_xent does beside the two matrix products and the softmax: see losses/nt_xent.py for the formulas."""

import math

import numpy as np
from numba import prange

from tinynet.kernels.compile import sized_kernel

SQUARE = 32  # a square of S and its mirror image fit into the L1 cache together
HEAVY = 16384  # numbers from which two threads beat one


@sized_kernel(HEAVY)
def normalize(x, tau, norms, scaled, u):
    """u = x / |x| by rows, scaled = u / tau, norms = |x| in float64.

    Squares are taken of x / max |x|, so that they neither overflow nor vanish.  A NaN reaches the norm through them.
    """
    D = x.shape[1]
    for i in prange(x.shape[0]):
        largest = x.dtype.type(0)
        for d in range(D):
            largest = abs(x[i, d]) if abs(x[i, d]) > largest else largest
        unit, squares = np.float64(largest) if largest > 0 else 1.0, 0.0
        for d in range(D):
            part = x[i, d] / unit
            squares += part * part
        norms[i] = unit * math.sqrt(squares)
        for d in range(D):
            u[i, d] = x[i, d] / norms[i]
            scaled[i, d] = u[i, d] / tau


@sized_kernel(HEAVY)
def add_transpose(S):
    """S += S.T.  A thread owns the squares from the diagonal to the right in its rows, and their mirror images.

    A mirror image is read and written by rows, through an array of its own: going down its columns took 1.7 times
    as long at 2N = 2048, where all numbers of a column fall into the same few sets of the cache.
    """
    M = S.shape[0]
    for k in prange((M + SQUARE - 1) // SQUARE):
        mirror, i0 = np.empty((SQUARE, SQUARE), S.dtype), k * SQUARE
        height = min(SQUARE, M - i0)
        for j0 in range(i0, M, SQUARE):
            width = min(SQUARE, M - j0)
            for j in range(width):
                for i in range(height):
                    mirror[j, i] = S[j0 + j, i0 + i]
            for i in range(height):
                for j in range(width):
                    S[i0 + i, j0 + j] += mirror[j, i]
                    mirror[j, i] = S[i0 + i, j0 + j]
            if j0 > i0:
                for j in range(width):
                    for i in range(height):
                        S[j0 + j, i0 + i] = mirror[j, i]


@sized_kernel(HEAVY)
def normalize_backward(du, u, norms, tau, dx):
    """dx = (du - (u . du) u) / (tau |x|), where du is still to be divided by tau."""
    for i in prange(u.shape[0]):
        along = 0.0
        for d in range(u.shape[1]):
            along += np.float64(u[i, d]) * du[i, d]
        for d in range(u.shape[1]):
            dx[i, d] = (du[i, d] - along * u[i, d]) / (tau * norms[i])
