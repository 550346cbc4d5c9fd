"""Dense as three products of matrices on matmul, each cut into tasks for threads.

    forward   y = x w + b      a task is a block of y, 48 rows by 64 columns
    backward  dw = x.T dz,     a task is some inputs: their rows of dw, summed over the samples in order, and their
              dx = dz w.T      columns of dx; one launch for both, since two cost a small layer more than the products
              db = sums of dz  by the task that has the first inputs

matmul wants the last axis of its second factor contiguous: w and dz are so as they stand; for dx, w is transposed, some
rows at a time.  A row of dw has a number for each output, and ten classes fill ten lanes of 16; so where outputs are
fewer than lanes, dw.T = dz.T x is computed, whose rows run along the inputs, and transposed.  The backward pass from
(64, 784) to 10 classes takes one thread 7.2 us so, instead of 10.3.

Of few samples reading w and writing dw take the time, not the multiplications: few_rows.py reads w in order, and
one_row.py writes dw so.

The backward pass of many samples and few weights is in dense_tall.py, which reads dz once for both products.

ReLU is done before the sums leave the registers, and its backward pass is a pass over dy of its own.
"""

import numba
import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import with_and_without_threads
from tinynet.kernels.dense_tall import backward_of_chunks, block, fits, sums_of_rows
from tinynet.kernels.few_rows import L1, L2, TRANSPOSED, few_rows_pay
from tinynet.kernels.matmul import SMALL, THREADS_FROM, View, gathered, matmul
from tinynet.kernels.one_row import outer_products
from tinynet.kernels.packed import AS_THEY_LIE, IN_PANELS, PACKED, best_way, block_shape
from tinynet.kernels.rectified import rectified
from tinynet.kernels.transpose import transpose
from tinynet.kernels.vectors import width as lanes

# A task is a block of the result.  48 rows are four tiles high on AVX-512 and eight on AVX2, and 64 columns of w stay
# in the L2 cache while they run over it.
ROWS, COLUMNS = 48, 64
# Of few samples the time is what reading w and writing dw take: there a thread has as many inputs as another.  A large
# dw is written TALL rows at a time, each from end to end: of (32, 4096, 4096) that takes two threads of an Intel Xeon
# (Emerald Rapids) 5.0 ms, and in blocks 8.7.
FEW_SAMPLES, TALL = 8, 12
TASKS, WORTH = 16, 2**16  # tasks of the backward pass; fewer, where each would have fewer multiplications than WORTH
# Samples whose sum is made at once; and so many of these sums are added in their own dtype.  More of those are added in
# float64, where they lose no digits, however large the batch.
SAMPLES, TOGETHER = 512, 8
PIECE = 16384  # numbers of dz from which two threads beat one


@with_and_without_threads(matmul=True)
def forward_blocks(x, w, b, floor, threads, y):
    """What dense_forward does, in a block of y for each thread where it is packed."""
    N, I = x.shape
    O = w.shape[1]
    tall, broad = block_shape(N, O, threads, IN_PANELS, x.itemsize)
    in_place = best_way(tall, broad, I, 1, O, 1, x.itemsize) == AS_THEY_LIE
    share = (O + COLUMNS * threads - 1) // (COLUMNS * threads) * COLUMNS  # of the columns, a thread's
    if few_rows_pay(N, share, I, True, O, x.itemsize):
        tall, broad = N, share
    elif in_place:
        tall, broad = ROWS, COLUMNS
    down, across = (N + tall - 1) // tall, (O + broad - 1) // broad
    for task in prange(down * across):
        n, n_end = task % down * tall, min(N, (task % down + 1) * tall)
        if in_place:
            n, n_end = block(task % down, down, N)
        o, o_end = task // down * broad, min(O, (task // down + 1) * broad)
        rows, columns = View(x, n * I, (I, 1)), View(w, o, O)
        size, out = (n_end - n, o_end - o, I), View(y, n * O + o, O)
        matmul(size, rows, columns, start=View(b, o, 0), out=out, floor=floor)


@with_and_without_threads(matmul=True)
def backward_blocks(x, w, dy, y, is_relu, input_grad, threads, dw, db, dx):
    """dw = x.T dz, db = column sums of dz and, if asked for, dx = dz w.T.

    `is_relu`: y is a ReLU's output and dy its gradient, so dz = dy where y > 0; else dz = dy.  A thread owns some
    inputs: their rows of dw, for which it sums over the samples in order, and their columns of dx.
    """
    N, I = x.shape
    O = dy.shape[1]
    no_floor = x.dtype.type(-np.inf)
    few = lanes(x) > O
    zeros = np.empty(max(I, O), x.dtype)
    for o in range(zeros.size):
        zeros[o] = 0
    dz = dy
    if is_relu:
        dz = np.empty((N, O), x.dtype)
        if dz.size <= PIECE:
            rectified(dy, y, 0, dz.size, memory.piece(dz, 0, dz.size))
        else:
            for piece in prange((dz.size + PIECE - 1) // PIECE):
                size = min(PIECE, dz.size - piece * PIECE)
                rectified(dy, y, piece * PIECE, size, memory.piece(dz, piece * PIECE, size))
    few_samples = not few and 0 < N <= FEW_SAMPLES and w.size * x.itemsize > (L1 if N == 1 else L2 // 2)
    weighed = N * w.size > SMALL and not few and not few_samples
    # Decided by the sizes alone: in place, the samples are cut otherwise, and dw has other bits.
    packed = weighed and best_way(I, O, N, I, O, 1, x.itemsize) == PACKED
    if packed:
        dw_block = block_shape(I, O, threads, PACKED, x.itemsize)
        dx_block = block_shape(N, I, threads, IN_PANELS, x.itemsize)
        down, dx_down = (I + dw_block[0] - 1) // dw_block[0], (N + dx_block[0] - 1) // dx_block[0]
        dw_tasks = down * ((O + dw_block[1] - 1) // dw_block[1])
        dx_tasks = dx_down * ((I + dx_block[1] - 1) // dx_block[1]) if input_grad else 0
        # dx's are in the middle: threads take tasks from both ends, so that each has some of dw and some of dx.
        for task in prange(dw_tasks + dx_tasks):
            place, before = np.int64(task), dw_tasks // 2
            if place < before or place >= before + dx_tasks:
                k = place if place < before else place - dx_tasks
                i, o = k % down * dw_block[0], k // down * dw_block[1]
                size = min(dw_block[0], I - i), min(dw_block[1], O - o), N
                out = View(dw, i * O + o, O)
                gathered(size, View(x, i, (1, I)), View(dz, o, (O, 1)), View(zeros, 0, 0), out, no_floor)
                if k == 0:
                    sums_of_rows(dz, db)
            else:
                n, i = (place - before) % dx_down * dx_block[0], (place - before) // dx_down * dx_block[1]
                size = min(dx_block[0], N - n), min(dx_block[1], I - i), O
                rows, wt, out = View(dz, n * O, (O, 1)), View(w, i * O, (1, O)), View(dx, n * I + i, I)
                matmul(size, rows, wt, start=View(zeros, 0, 0), out=out, floor=no_floor)
        return
    tall = not few and not few_samples and 1 < N <= SAMPLES and w.size * x.itemsize > L2 // 2
    wide = np.empty(I * O if N > TOGETHER * SAMPLES else 0)
    # Inputs: a tile of dw.T is two vectors wide; and of dx, where each thread gets one so wide, or else one or two.
    two = 2 * lanes(x)
    unit = 32 if few else max(16, two) if two * threads <= I else 16
    units = (I + unit - 1) // unit
    tasks = max(1, min(units, max(min(TASKS, N * w.size // WORTH // 2 * 2), units // 8 * 2)))
    if few_samples:
        tasks = max(1, min(units, threads))
    for task in prange(tasks):
        i = task * units // tasks * unit
        width = min(I, (task + 1) * units // tasks * unit) - i
        dwt = memory.scratch((O * width if few else 0,), x)  # (O, width), the task's part of dw.T
        part = dwt if few else memory.piece(dw, i * O, width * O)
        total = memory.piece(wide, i * O, width * O if wide.size else 0)
        # SAMPLES at a time, so that their columns of dz stay in the L2 cache; no samples have the sum 0.
        for n in range(0, max(N, 1), SAMPLES):
            K, new = min(SAMPLES, N - n), n % (TOGETHER * SAMPLES) == 0
            if few:
                start = View(zeros, 0, 0) if new else View(dwt, 0, width)
                dzt, xs = View(dz, n * O, (1, O)), View(x, n * I + i, I)
                matmul((O, width, K), dzt, xs, start=start, out=View(dwt, 0, width), floor=no_floor)
            if few_samples:
                outer_products(x, i, width, dz, dw)
            parts = (width + TALL - 1) // TALL if tall else 0
            for p in range(parts):
                r, end = block(p, parts, width)
                size, xt, out = (end - r, O, N), View(x, i + r, (1, I)), View(dw, (i + r) * O, O)
                matmul(size, xt, View(dz, 0, O), start=View(zeros, 0, 0), out=out, floor=no_floor)
            for o in range(0, 0 if few or few_samples or tall else O, COLUMNS):
                size, at = (width, min(COLUMNS, O - o), K), i * O + o
                start = View(zeros, 0, 0) if new else View(memory.piece(dw, 0, I * O), at, O)
                xt, dzs = View(x, n * I + i, (1, I)), View(dz, n * O + o, O)
                matmul(size, xt, dzs, start=start, out=View(dw, at, O), floor=no_floor)
            if n + SAMPLES >= N or (n + SAMPLES) % (TOGETHER * SAMPLES) == 0:
                memory.add_to(total, part, n < TOGETHER * SAMPLES)
        memory.rounded(total, part)
        if i == 0:  # whoever has the first inputs also has the biases
            sums_of_rows(dz, db)
        if few:
            transpose(dwt, 0, width, dw, i * O, O, O, width)
        if input_grad:
            size, rows, wt = (N, width, O), View(dz, 0, (O, 1)), View(w, i * O, (1, O))
            if few_samples and N <= TRANSPOSED:  # read in order, though w may be in the L2 cache
                gathered(size, rows, wt, View(zeros, 0, 0), View(dx, i, I), no_floor)
            else:
                matmul(size, rows, wt, start=View(zeros, 0, 0), out=View(dx, i, I), floor=no_floor)


def for_work(kernels, work):
    """The one of two kernels for so many multiplications, and the number of threads that it may take.

    (A kernel that asks for their number itself can't be kept on disk.)
    """
    return (kernels[0], 1) if work < THREADS_FROM else (kernels[1], numba.get_num_threads())


def dense_forward(x, w, b, floor, y):
    """y = max(floor, x w + b); a floor of 0 is ReLU, -inf is none."""
    run, threads = for_work(forward_blocks, len(x) * w.size)
    run(x, w, b, floor, threads, y)


def dense_backward(x, w, dy, y, is_relu, input_grad, dw, db, dx):
    """dw = x.T dz, db = column sums of dz and, if asked for, dx = dz w.T; dz = dy where y > 0 if it is a ReLU's."""
    # The multiplications of dw, or as many as could be done while w is read and dw written, if those are more.
    if fits(len(x), *w.shape, x.itemsize):
        backward_of_chunks(x, w, dy, y, is_relu, input_grad, dw, db, dx)
        return
    run, threads = for_work(backward_blocks, max(len(x), 4) * w.size)
    run(x, w, dy, y, is_relu, input_grad, threads, dw, db, dx)
