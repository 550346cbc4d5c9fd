"""Softmax over rows of any length.

The maximum is taken over order keys, integers, and so vectorises.  The sum has a loop that writes nothing: a row has
the same bits in any batch, on one thread or on several.  In a loop that also writes, LLVM first asks whether x and y
overlap, takes numbers one by one if it can't tell, and adds in that order; on one row, that depended on whether y lay
right behind x.
"""

from numba import prange

from tinynet.kernels import floats
from tinynet.kernels.compile import kernel, sized_kernel

THREADS_FROM = 4096  # elements from which two threads beat one


@kernel(fast=True)
def softmax_row(x, y):
    highest = floats.lowest_key(x[0])
    for c in range(x.size):
        highest = max(highest, floats.order_key(x[c]))
    m = floats.from_order_key(highest)
    s = 0.0  # in float64: a float32 sum of 100,000 probabilities would lose three digits
    for c in range(x.size):
        y[c] = floats.exp(x[c] - m)  # a NaN comes through here, though the maximum may have missed it
    for c in range(x.size):
        s += y[c]
    scale = x.dtype.type(1.0 / s)
    for c in range(x.size):
        y[c] *= scale


@kernel(fast=True)
def softmax_row_backward(dy, y, dx):
    dot = 0.0
    for c in range(y.size):
        dot += y[c] * dy[c]
    dot = y.dtype.type(dot)
    for c in range(y.size):
        dx[c] = y[c] * (dy[c] - dot)


@sized_kernel(THREADS_FROM)
def softmax_forward(x, y):
    """y (N, C) of x (N, C)."""
    for n in prange(x.shape[0]):
        softmax_row(x[n], y[n])


@sized_kernel(THREADS_FROM)
def softmax_backward(dy, y, dx):
    """dx (N, C).  A thread owns its rows."""
    for n in prange(y.shape[0]):
        softmax_row_backward(dy[n], y[n], dx[n])
