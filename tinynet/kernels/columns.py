"""Columns beside each other and sums of arrays, on all threads: what joins the branches of layers/blocks.py.

NumPy does either on one thread, and a dense network copies each array as often as there are layers behind it.
"""

from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel, sized_kernel

THREADS_FROM = 65536  # numbers from which two threads beat one
TOGETHER = 16384  # numbers of a task


@kernel()
def copy_row(source, first, out, to, width, adds):
    """out.flat[to + c] = source.flat[first + c], or += where it adds, for c < width."""
    given, taken = memory.piece(source, first, width), memory.piece(out, to, width)
    if adds:
        for c in range(width):
            taken[c] += given[c]
    else:
        for c in range(width):
            taken[c] = given[c]


@sized_kernel(THREADS_FROM, of=lambda source, first, out, to, width, adds: len(out) * width)
def copy_columns(source, first, out, to, width, adds):
    """out[:, to : to + width] = source[:, first : first + width], or +=; source (M, S), out (M, O)."""
    M, S = source.shape
    O = out.shape[1]
    rows = max(1, TOGETHER // width)
    for task in prange((M + rows - 1) // rows):
        for m in range(task * rows, min(M, (task + 1) * rows)):
            copy_row(source, m * S + first, out, m * O + to, width, adds)


@sized_kernel(THREADS_FROM, of=2)
def added(a, b, out):
    """out = a + b, all flat."""
    for i in prange(out.size):
        out[i] = a[i] + b[i]


@sized_kernel(THREADS_FROM, of=1)
def add_to(a, out):
    """out += a, flat.  Of an array that is read and written under two names, a loop takes number by number."""
    for i in prange(out.size):
        out[i] += a[i]
