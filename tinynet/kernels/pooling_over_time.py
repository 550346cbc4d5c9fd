"""Pooling over time: the innermost loops run over the channels, which lie side by side; a thread owns a sequence.

    x (N, T, C)   lengths (N,)   y, argmax (N, C)

Nothing behind a length is read.  The sums of a mean are in float64, whatever the dtype: float32 would lose digits of
long sequences (kernels/pooling.py).
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.pooling_2x2 import THREADS_FROM, beats


@kernel()
def add_row(x, sums):
    for c in range(sums.size):
        sums[c] += x[c]


@sized_kernel(THREADS_FROM, of=0)
def mean_over_time_forward(x, lengths, y):
    """y, 0 for a length of 0."""
    N, T, C = x.shape
    sums = np.zeros(N * C)
    for n in prange(N):
        total, out = memory.piece(sums, n * C, C), memory.piece(y, n * C, C)
        for t in range(lengths[n]):
            add_row(memory.piece(x, (n * T + t) * C, C), total)
        for c in range(C):
            out[c] = total[c] / max(lengths[n], 1)


@sized_kernel(THREADS_FROM)
def mean_over_time_backward(dy, lengths, T, dx):
    N, C = dy.shape
    for n in prange(N):
        gradient, length = memory.piece(dy, n * C, C), dy.dtype.type(lengths[n])
        for t in range(T):
            row = memory.piece(dx, (n * T + t) * C, C)
            for c in range(C):
                row[c] = gradient[c] / length if t < lengths[n] else dy.dtype.type(0)


@kernel()
def larger(x, t, best, argmax):
    """Put x (C,) of position t where it beats the best so far."""
    for c in range(best.size):
        greater = beats(x[c], best[c])
        best[c] = x[c] if greater else best[c]
        argmax[c] = t if greater else argmax[c]


@sized_kernel(THREADS_FROM, of=0)
def max_over_time_forward(x, lengths, y, argmax):
    """y, and argmax, where it is; both 0 for a length of 0."""
    N, T, C = x.shape
    for n in prange(N):
        best, where = memory.piece(y, n * C, C), memory.piece(argmax, n * C, C)
        first = memory.piece(x, n * T * C, C)
        for c in range(C):
            best[c] = first[c] if lengths[n] > 0 else x.dtype.type(0)
            where[c] = 0
        for t in range(1, lengths[n]):
            larger(memory.piece(x, (n * T + t) * C, C), np.int32(t), best, where)


@sized_kernel(THREADS_FROM)
def max_over_time_backward(dy, argmax, lengths, T, dx):
    N, C = dy.shape
    for n in prange(N):
        sequence = memory.piece(dx, n * T * C, T * C)
        for i in range(T * C):
            sequence[i] = 0
        if lengths[n] > 0:
            for c in range(C):
                sequence[argmax[n, c] * C + c] = dy[n, c]
