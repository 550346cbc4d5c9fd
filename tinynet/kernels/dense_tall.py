"""The backward pass of Dense for many samples and few weights, as a 1 x 1 convolution has for the pixels of images.

    dw = x.T dz        db = sums of dz        dx = dz w.T

dense.py computes dw and dx apart, and both read dz.  Of so few weights, memory is then what takes the time.  So here
a task goes over its chunk of the samples so many rows at a time as stay in the L2 cache for both products, and for
ReLU's pass over dy: x, dy and y are read once, and dx is written once.  Each chunk has a dw of its own, and they are
added in order, so that the bits are the same for any number of threads.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import kernel
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.one_row import add_rows
from tinynet.kernels.rectified import rectified
from tinynet.kernels.tile import terms_at_once
from tinynet.kernels.transpose import transpose

L2 = cache_size(2)
CHUNKS = 16
# Sums of so many blocks of rows are added in their own dtype, and those in float64, where they lose no digits, however
# many samples there are.
BLOCKS = 32
SUMMED = 64  # rows that are added up in their own dtype for the biases
NARROW = 16  # inputs or outputs at least: fewer leave lanes empty


@kernel()
def sums_of_rows(dz, db):
    """db (O,), the sum of the rows of dz (N, O): the bias is a weight whose input is always 1.

    SUMMED rows at a time make a sum, and these are added in float64.  dz is read in order.
    """
    N, O = dz.shape
    one, sums = np.ones(1, dz.dtype), memory.scratch((O,), dz)
    flat, wide = memory.piece(dz, 0, dz.size), np.empty(O if N > SUMMED else 0)
    for n in range(0, max(N, 1), SUMMED):
        for o in range(O):
            sums[o] = 0
        add_rows(min(SUMMED, N - n), one, 0, 0, flat, n * O, O, O, sums, 0, False)
        memory.add_to(wide, sums, n == 0)
    for o in range(O):
        db[o] = wide[o] if wide.size else sums[o]


@kernel()
def block(i, blocks, size):
    """Where the i-th of `blocks` nearly equal pieces of range(size) begins and ends."""
    return i * size // blocks, (i + 1) * size // blocks


def rows_at_once(I, O, itemsize):
    """Rows of x, dz and dx that fill about half of the L2 cache."""
    return max(1, terms_at_once(L2 // 2 // ((2 * I + O) * itemsize)))


def fits(N, I, O, itemsize):
    """Whether w, its transpose and dw stay in the L2 cache, beside rows enough of samples that do not."""
    return min(I, O) >= NARROW and I * O * itemsize <= L2 // 8 and N * (I + O) * itemsize > 4 * L2


@kernel(parallel=True, matmul=True)
def backward_kernel(x, w, dy, y, is_relu, input_grad, chunks, rows, dw, db, dx):
    """dw, db and, if asked for, dx, of so many chunks, and `rows` of a chunk at a time."""
    N, I = x.shape
    O = dy.shape[1]
    no_floor, zeros = x.dtype.type(-np.inf), np.zeros(max(I, O), x.dtype)
    parts, db_of = np.empty((chunks, I * O), x.dtype), np.zeros((chunks, O))
    wide_of = np.zeros((chunks, I * O if chunks * rows * BLOCKS < N else 0))
    wt = np.empty(I * O if input_grad else 0, x.dtype)
    if input_grad:
        transpose(w, 0, O, wt, 0, I, I, O)
    for chunk in prange(chunks):
        first, last = block(chunk, chunks, N)
        part, biases = memory.piece(parts, chunk * I * O, I * O), memory.piece(db_of, chunk * O, O)
        wide = memory.piece(wide_of, chunk * wide_of.shape[1], wide_of.shape[1])
        room, sums, count = memory.scratch((rows if is_relu else 0, O), x), memory.scratch((O,), x), 0
        for n in range(first, max(last, first + 1), rows):
            size = min(rows, last - n)
            dz = dy[n : n + size]
            if is_relu:
                dz = room[:size]
                rectified(dy, y, n * O, size * O, memory.piece(dz, 0, size * O))
            samples, slopes, out = View(x, n * I, (1, I)), View(dz, 0, (O, 1)), View(part, 0, O)
            if count == 0:
                matmul((I, O, size), samples, slopes, start=View(zeros, 0, 0), out=out, floor=no_floor)
            else:
                matmul((I, O, size), samples, slopes, start=out, out=out, floor=no_floor)
            count += 1
            if wide.size and (count == BLOCKS or n + size == last):
                memory.add_to(wide, part, False)
                count = 0
            sums_of_rows(dz, sums)
            for o in range(O):
                biases[o] += sums[o]
            if input_grad:
                slopes, weights, out = View(dz, 0, (O, 1)), View(wt, 0, (I, 1)), View(dx, n * I, I)
                matmul((size, I, O), slopes, weights, start=View(zeros, 0, 0), out=out, floor=no_floor)
        memory.rounded(wide, part)
    for share in prange(16):
        memory.add_parts(parts, dw, share * I * O // 16, (share + 1) * I * O // 16)
    memory.sum_of_wide_chunks(db_of, db)


def backward_of_chunks(x, w, dy, y, is_relu, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx, as dense_backward."""
    rows = rows_at_once(*w.shape, x.itemsize)
    backward_kernel(x, w, dy, y, is_relu, input_grad, CHUNKS, rows, dw, db, dx)
