"""Panels: a matrix that many products have as their second factor, copied into the order in which they read it.

Some columns, as many as the tile in registers has, lie together.  A row of them, 128 bytes, follows the one before in
memory, where rows of a matrix whose distance is a power of two would fall into the same few sets of the caches.  For
few products the matrix stays as it is: as one panel, which has all columns.  There is an axis of matrices in front.

    in_panels(w, first, end, rows)         some columns of w (D, K, N), for products that have so many rows together
    transposed_in_panels(w, first, end)    the same columns as rows: those of w.T
    product((M, N), a, panels, d, start, out)      out = start + a times the panels of number d; View's as for matmul
"""

import numpy as np
from numba import prange

from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.llvm import LANES
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.packed_tile import VECTORS
from tinynet.kernels.transpose import transpose
from tinynet.kernels.vectors import load_some, store, width

COPIED_FROM = 32  # rows of all products together, from which copying pays
THREADS_FROM = 2**18  # numbers from which two threads beat one


def panel_columns(dtype):
    return VECTORS * LANES[dtype]


@sized_kernel(THREADS_FROM)
def copy_to_panels(w, first, columns, panels):
    """panels[d,p,k,c] = w[d,k,first + p C + c], of so many columns."""
    D, P, K, C = panels.shape
    N = w.shape[2]
    for task in prange(D * P):
        n = task % P * C
        for k in range(K):
            of, to = (task // P * K + k) * N + first + n, (task * K + k) * C
            for c in range(0, C, width(w)):
                store(load_some(w, of + c, columns - n - c, 0), panels, to + c)


@sized_kernel(THREADS_FROM)
def transpose_to_panels(w, first, panels):
    """panels[d,p,k,c] = w[d,p C + c,first + k]: those of w.T."""
    D, P, K, C = panels.shape
    rows, N = w.shape[1:]
    for task in prange(D * P):
        n = task % P * C
        transpose(w, (task // P * rows + n) * N + first, N, panels, task * K * C, C, min(C, rows - n), K)


def in_panels(w, first, end, rows):
    """The columns `first` to `end` of w (D, K, N) in panels (D, P, K, C), for products of so many rows."""
    D, K, N = w.shape
    if rows < COPIED_FROM:
        columns = w[:, :, first:end]
        return np.require(columns, requirements=("C", "A", "W")).reshape(D, 1 if end > first else 0, K, end - first)
    C = panel_columns(w.dtype)
    panels = np.empty((D, (end - first + C - 1) // C, K, C), w.dtype)
    copy_to_panels(w, first, end - first, panels)
    return panels


def transposed_in_panels(w, first, end):
    """The same of those columns of w as rows: of w.T."""
    D, K, N = w.shape
    C = panel_columns(w.dtype)
    panels = np.empty((D, (K + C - 1) // C if end > first else 0, end - first, C), w.dtype)
    transpose_to_panels(w, first, panels)
    return panels


@kernel()
def product(size, a, panels, d, start, out):
    """out = start + a times the panels of direction d: `size` is (rows, columns)."""
    M, N = size
    _, P, K, C = panels.shape
    no_floor = out.array.dtype.type(-np.inf)
    for p in range(P):
        b = View(panels, (d * P + p) * K * C, C)
        given, to = View(start.array, start.first + p * C, start.steps), View(out.array, out.first + p * C, out.steps)
        matmul((M, min(C, N - p * C), K), a, b, start=given, out=to, floor=no_floor)
