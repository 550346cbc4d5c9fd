"""Embedding: rows of a table looked up, and their gradients added where they came from."""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel, sized_kernel

THREADS_FROM = 16384  # numbers in y from which two threads beat one
COLUMNS = 16  # of dw, for a thread at a time: a cache line of float32
OFTEN = 64  # places of a word that are added in their own dtype


@sized_kernel(THREADS_FROM)
def embedding_forward(x, w, padding, y):  # x (P,), the places of all samples; y (P, D); padding -1: there is none
    zero = w.dtype.type(0)
    for p in prange(x.size):
        v = x[p]
        for d in range(w.shape[1]):
            y[p, d] = w[v, d] if v != padding else zero


@kernel()
def frequent_words(x, padding, V):
    """The words that occur more than OFTEN, and for each word (V,) where it is among them, or -1.

    Both are empty where there are no more than OFTEN places.
    """
    index, words = np.zeros(V if x.size > OFTEN else 0, np.int32), np.empty(x.size // OFTEN, np.int64)
    count = 0
    if index.size:
        for p in range(x.size):
            if x[p] != padding:
                index[x[p]] += 1
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
    for p in range(x.size):
        if x[p] != padding:
            given, i = memory.piece(dy, p * D + first, width), index[x[p]] if words.size else -1
            if i < 0:
                total = memory.piece(dw, x[p] * D + first, width)
                for d in range(width):
                    total[d] += given[d]
            else:
                sums = memory.piece(wide, i * D + first, width)
                for d in range(width):
                    sums[d] += given[d]
    for i in range(words.size):
        sums, total = memory.piece(wide, i * D + first, width), memory.piece(dw, words[i] * D + first, width)
        for d in range(width):
            total[d] = sums[d]


@sized_kernel(THREADS_FROM, of=0)
def embedding_backward(dy, x, padding, dw):
    """Add every dy to its word's row of dw, which must be 0 before."""
    V, D = dw.shape
    words, index = frequent_words(x, padding, V)
    wide = np.empty((words.size, D))
    for chunk in prange((D + COLUMNS - 1) // COLUMNS):
        first = chunk * COLUMNS
        add_columns(dy, x, padding, words, index, first, min(COLUMNS, D - first), wide, dw)
