"""Embedding: rows of a table looked up, and their gradients scattered to where they came from.

Two positions may hold the same word, so threads can't share out the positions: a thread owns columns of dw, and goes
through all positions in order.  So the sums have the same bits for any number of threads, and a word that is
everywhere, as "the" is, slows none of them more than the others.  The sums of such words are in float64: of 2 million
equal numbers added one by one in float32, 1.8 % are lost.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel, sized_kernel

THREADS_FROM = 16384  # numbers in y from which two threads beat one
COLUMNS = 16  # of dw, for a thread at a time: a cache line of float32
OFTEN = 64  # so many gradients of a word are added in their own dtype


def embedding_forward(x, w, padding, y):
    """y (N, ..., D) = rows of w (V, D), of the words x (N, ...); 0 where x is the padding.  -1: there is none."""
    look_up(x.reshape(-1), w, padding, y.reshape(-1, w.shape[1]))


def embedding_backward(dy, x, padding, start, dw):
    """dw (V, D): for each word, `start`, which may be dw itself, and the sum of dy where the word stands."""
    if start is not dw:
        dw[...] = start
    scatter(dy.reshape(-1, dw.shape[1]), x.reshape(-1), padding, dw)


@sized_kernel(THREADS_FROM)
def look_up(x, w, padding, y):  # x (M,), the words of all samples; y (M, D)
    zero = w.dtype.type(0)
    for m in prange(x.size):
        v = x[m]
        for d in range(w.shape[1]):
            y[m, d] = w[v, d] if v != padding else zero


@kernel()
def frequent_words(x, padding, V):
    """The words that occur more than OFTEN, and for each word (V,) where it is among them, or -1.

    Both are empty where there are no more than OFTEN positions.
    """
    index, words = np.zeros(V if x.size > OFTEN else 0, np.int32), np.empty(x.size // OFTEN, np.int64)
    count = 0
    if index.size:
        for m in range(x.size):
            if x[m] != padding:
                index[x[m]] += 1
        for v in range(V):
            frequent = index[v] > OFTEN
            index[v] = count if frequent else -1
            if frequent:
                words[count] = v
                count += 1
    return words[:count], index


@kernel()
def add_columns(dy, x, padding, words, index, first, width, wide, dw):
    D = dw.shape[1]
    for i in range(words.size):
        sums = memory.piece(wide, i * D + first, width)
        for d in range(width):
            sums[d] = 0
    for m in range(x.size):
        if x[m] != padding:
            gradient, i = memory.piece(dy, m * D + first, width), index[x[m]] if words.size else -1
            if i < 0:
                total = memory.piece(dw, x[m] * D + first, width)
                for d in range(width):
                    total[d] += gradient[d]
            else:
                sums = memory.piece(wide, i * D + first, width)
                for d in range(width):
                    sums[d] += gradient[d]
    for i in range(words.size):
        sums, total = memory.piece(wide, i * D + first, width), memory.piece(dw, words[i] * D + first, width)
        for d in range(width):
            total[d] += sums[d]


@sized_kernel(THREADS_FROM, of=0)
def scatter(dy, x, padding, dw):
    """Add every dy to its word's row of dw."""
    V, D = dw.shape
    words, index = frequent_words(x, padding, V)
    wide = np.empty((words.size, D))
    for chunk in prange((D + COLUMNS - 1) // COLUMNS):
        first = chunk * COLUMNS
        add_columns(dy, x, padding, words, index, first, min(COLUMNS, D - first), wide, dw)
