"""TiedDense as products of matrices: Dense's, of weights that lie the other way around.

forward    z = h E.T + b        like Dense's dx = dz w.T: E's rows are the columns of the product
backward   dE = dz.T h          Dense's dw, of an input dz and a gradient h
           dh = dz E            Dense's y, of an input dz and weights E
"""

import numpy as np
from numba import prange

from tinynet.kernels.compile import with_and_without_threads
from tinynet.kernels.dense import dense_backward, dense_forward, for_work
from tinynet.kernels.dense_tall import sums_of_rows
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.packed import IN_PANELS, block_shape


@with_and_without_threads(matmul=True)
def scores(h, E, b, threads, z):
    """z (N, V) = h (N, D) E.T + b, in a block of z for each thread."""
    (N, D), V = h.shape, len(E)
    no_floor = h.dtype.type(-np.inf)
    tall, broad = block_shape(N, V, threads, IN_PANELS, h.itemsize)
    down, across = (N + tall - 1) // tall, (V + broad - 1) // broad
    for task in prange(down * across):
        n, v = task % down * tall, task // down * broad
        size, out = (min(tall, N - n), min(broad, V - v), D), View(z, n * V + v, V)
        matmul(size, View(h, n * D, (D, 1)), View(E, v * D, (1, D)), start=View(b, v, 0), out=out, floor=no_floor)


def tied_dense_forward(h, E, b, z):
    """z = h E.T + b."""
    run, threads = for_work(scores, len(h) * E.size)
    run(h, E, b, threads, z)


def tied_dense_backward(h, E, dz, input_grad, dE, db, dh):
    """dE = dz.T h, db = column sums of dz and, if asked for, dh = dz E; an empty dE or db is not asked for."""
    V, D = E.shape
    no_db, no_dx = np.empty(D, h.dtype), np.empty((0, 0), h.dtype)
    if dE.size:
        dense_backward(dz, E, h, h, False, False, dE, no_db, no_dx)
    if db.size:
        sums_of_rows(dz, db)
    if input_grad:
        dense_forward(dz, E, np.zeros(D, h.dtype), h.dtype.type(-np.inf), dh)
