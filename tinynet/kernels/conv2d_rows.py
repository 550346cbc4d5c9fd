"""Convolution, a row of positions at a time: where the kernel is small and rows are long.

On an image with its zeros around it, (U, V, C), row i of a window is one contiguous run of J C numbers:

    z of a row p     Q positions x K filters, summed over I rows of J C numbers    a step to the right is r C numbers
    dw of a row i    J C numbers x K filters, summed over P x Q positions          a step to the right is r C numbers
    dx of a row h    its pixels g = q r + j - left for one j at a time, x C channels, summed over i and k; no zeros
                     are needed around dz.  Few channels would not fill a vector: then all j at once, which
                     sum_windows adds up

One image's zeros, dz and sums stay in a core's L2 cache from one product to the next, and so does the whole kernel:
nothing is copied or packed.  A layer of 6 channels and 16 filters takes 0.4 of conv2d.py's time backward, one of 16
filters over 8 channels 0.7 (2-core Xeon, Emerald Rapids).
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import band_count, kernel, sized_kernel
from tinynet.kernels.matmul import THREADS_FROM, View, matmul
from tinynet.kernels.padded import with_zeros_around
from tinynet.kernels.rectified import rectified
from tinynet.kernels.transpose import transpose
from tinynet.kernels.vectors import load, store, store_some, width

SMALL, TINY = cache_size(2) // 4, cache_size(1) // 2  # bytes of a kernel that stays in the L2, or L1, cache

# So many sums, of the rows of dz that fit into the L1 cache for dw, of bands for db, are added in their own dtype, and
# those in float64, where they lose no digits, however large the batch or the image.
SUMS = 32
CHUNKS = 16  # at most, of images or bands of one, with sums of their own
POSITIONS = 512  # of a band at least: then to add up its dw takes little of the time
# Where bands of rows are few, as of a sequence, which is an image of one row, they are cut into pieces for up to so
# many tasks, of so many positions of a row at least.
TASKS, PIECE = 8, 48


def fits(kernel_shape, size, itemsize):
    """Whether the kernel (I, J, C, K) is small enough for rows of positions of this length."""
    I, J, C, K = kernel_shape
    return I * J * C * K * itemsize <= (SMALL if size[1] >= 8 else TINY)


@sized_kernel(THREADS_FROM, of=lambda x, w, *rest: rest[-1].size * (w.size // w.shape[3]), matmul=True)
def conv2d_forward(x, w, b, stride, before, floor, y):
    """y = max(floor, conv(x, w) + b); `before` is (top, left).  A thread owns a piece of the rows of a band of y."""
    N, H, W, C = x.shape
    I, J, _, K = w.shape
    _, P, Q, _ = y.shape
    (s, r), (top, left) = stride, before
    V = (Q - 1) * r + J
    pads = top > 0 or left > 0 or (P - 1) * s + I > H or V > W
    bands = band_count(N, P, P * s * V * C)
    pieces = max(1, min(TASKS // max(N * bands, 1), Q // PIECE))
    for task in prange(N * bands * pieces):
        n, band, piece = task // pieces // bands, task // pieces % bands, task % pieces
        p0, p1 = band * P // bands, (band + 1) * P // bands
        q0, q1 = piece * Q // pieces, (piece + 1) * Q // pieces
        if pads:
            source, first = memory.scratch(((p1 - p0 - 1) * s + I, (q1 - q0 - 1) * r + J, C), x), 0
            with_zeros_around(x[n], p0 * s - top, left - q0 * r, source)
        else:
            source, first = x[n, p0 * s :], q0 * r * C
        row = source.shape[1] * C
        for p in range(p0, p1):
            matmul(
                (q1 - q0, K, I, J * C),
                View(source, first + (p - p0) * s * row, (r * C, row, 1)),
                View(w, 0, (J * C * K, K)),
                start=View(b, 0, 0),
                out=View(y, ((n * P + p) * Q + q0) * K, K),
                floor=floor,
            )


@kernel()
def rows_at_once(Q, K):
    """How many rows of dz (P, Q, K) stay in the L1 cache (24 KB) while all products for dw pass over them."""
    return max(1, 6144 // (Q * K))


@kernel()
def backward_weights_of_rows(source, dz, stride, count, zeros, dw, wide):
    """dw += the sum over some rows of positions of an image; `source` is what they see of x, with its zeros around.

    `count` is how many sums are in dw so far; where it is 0, dw is written over.  Returns the new one.  SUMS of them go
    into wide, in float64, unless that is empty.
    """
    P, Q, K = dz.shape
    I, J, C, _ = dw.shape
    s, r = stride
    row = source.shape[1] * C
    no_floor = dz.dtype.type(-np.inf)
    step = rows_at_once(Q, K)
    for p in range(0, P, step):
        for i in range(I):
            size = (J * C, K, min(step, P - p), Q)
            pixels, dzs = View(source, (p * s + i) * row, (1, s * row, r * C)), View(dz, p * Q * K, (Q * K, K))
            out = View(dw, i * J * C * K, K)
            if count == 0:
                matmul(size, pixels, dzs, start=View(zeros, 0, 0), out=out, floor=no_floor)
            else:
                matmul(size, pixels, dzs, start=out, out=out, floor=no_floor)
        count += 1
        if wide.size and count == SUMS:
            memory.add_to(wide, memory.piece(dw, 0, dw.size), False)
            count = 0
    return count


@kernel()
def sum_windows(sums, J, left, row, end, dx):
    """Row `row` of dx (H, W, C), stride 1, from sums (Q + 2 J - 2, J C): what each place gives to the columns under it.

    Place q's line is the (q + J - 1)-th, between zeros, and with room for a vector behind them: vectors read on into
    the next line, and write on into the next pixel, which is written over next.  Before row `end` they are masked.
    """
    _, W, C = dx.shape
    masked, run = (row + 1) * W * C + width(dx) > end * W * C, J * C
    to = memory.piece(dx, row * W * C, W * C if masked else W * C + width(dx))
    for g in range(W):
        at = (g + left + J - 1) * run
        total = load(sums, at)
        for j in range(1, J):
            total = total + load(sums, at - j * (run - C))
        if masked:
            store_some(total, to, g * C, (W - g) * C)
        else:
            store(total, to, g * C)


@kernel()
def backward_input_of_rows(dz, first_p, P, wt, narrow, stride, before, zeros, sums, h0, h1, dx):
    """Rows h0 to h1 of an image's dx, from dz and the kernel with its axes swapped, wt (I, J, K, C).

    dz has those of the P rows of positions that reach them, from first_p on.
    `narrow`: C channels would not fill a vector, so wt is (I, K, J, C), and one product has all j.
    (64, 14, 14, 6) under 5 x 5 x 16 takes 180 microseconds so, instead of 450.
    """
    _, Q, K = dz.shape
    _, W, C = dx.shape
    I, J = wt.shape[0], wt.size // (wt.shape[0] * K * C)
    (s, r), (top, left) = stride, before
    no_floor, nothing, flat = dz.dtype.type(-np.inf), dz.dtype.type(0), memory.piece(dx, 0, h1 * W * C)
    run = J * C
    for m in range(h0 * W * C, h0 * W * C if narrow else h1 * W * C):
        flat[m] = nothing
    for h in range(h0, h1):
        # The rows i, i + s, ... of the window that reach row h, from row p of dz upwards.
        p = min(P - 1, (h + top) // s)
        i = h + top - p * s
        rows = min(p + 1, (I - 1 - i) // s + 1)
        if rows <= 0:
            for m in range(h * W * C, (h + 1) * W * C):
                flat[m] = nothing
            continue
        if narrow:
            matmul(
                (Q, run, rows, K),
                View(dz, (p - first_p) * Q * K, (K, -Q * K, 1)),
                View(wt, i * K * run, (s * K * run, run)),
                start=View(zeros, 0, 0),
                out=View(sums, (J - 1) * run, run),
                floor=no_floor,
            )
            sum_windows(sums, J, left, h, h1, dx)
            continue
        for j in range(J):
            q0 = max(0, -((j - left) // r))  # the first and last place whose column j is within the image
            q1 = min(Q - 1, (W - 1 + left - j) // r)
            if q1 < q0:
                continue
            out = View(dx, (h * W + q0 * r + j - left) * C, r * C)
            matmul(
                (q1 - q0 + 1, C, rows, K),
                View(dz, ((p - first_p) * Q + q0) * K, (K, -Q * K, 1)),
                View(wt, (i * J + j) * K * C, (s * J * K * C, C)),
                start=out,
                out=out,
                floor=no_floor,
            )


@sized_kernel(THREADS_FROM, of=lambda x, w, dy, *_: dy.size * (w.size // w.shape[3]), matmul=True)
def conv2d_backward(x, w, dy, y, is_relu, stride, before, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx.  `is_relu`: y is a ReLU's output and dy its gradient, so dz = dy where y > 0.

    The images, or bands of rows of few large ones, are shared out in chunks fixed by the shapes; a chunk has sums of
    its own, added in order at the end, so the result has the same bits for any number of threads.
    """
    N, H, W, C = x.shape
    I, J, _, K = w.shape
    _, P, Q, _ = dy.shape
    (s, r), (top, left) = stride, before
    bands = max(1, min(P, CHUNKS // max(N, 1), P * Q // POSITIONS))
    most = (P + bands - 1) // bands
    U, V = (most - 1) * s + I, (Q - 1) * r + J
    pads = top > 0 or left > 0 or (P - 1) * s + I > H or V > W
    chunks = min(N * bands, CHUNKS, max(4, 2**23 // w.size))  # at most 32 MB of sums, or four times the kernel
    dw_of = np.empty((chunks, I, J, C, K), x.dtype)
    db_of = np.empty((chunks, K))
    sums_of_chunk = -(-N * bands // max(chunks, 1)) * -(-most // rows_at_once(Q, K))
    wide_of = np.zeros((chunks, w.size if sums_of_chunk > SUMS else 0))
    no_floor = x.dtype.type(-np.inf)
    one, zeros = np.empty(1, x.dtype), np.empty(max(Q * K, J * C), x.dtype)
    one[0] = 1
    for k in range(zeros.size):
        zeros[k] = 0
    narrow = r == 1 and J > 1 and width(x) > C and width(x) // 2 != C
    wt = np.empty((I, K, J, C) if narrow else (I, J, K, C), x.dtype)
    if input_grad:
        for i in range(I):
            for j in range(J):
                if narrow:
                    transpose(w, (i * J + j) * C * K, K, wt, i * K * J * C + j * C, J * C, C, K)
                else:
                    transpose(w, (i * J + j) * C * K, K, wt, (i * J + j) * C * K, C, C, K)
    above = (I - 1) // s if input_grad else 0  # rows of positions before a band's that reach its pixels
    for chunk in prange(chunks):
        first, last = chunk * N * bands // chunks, (chunk + 1) * N * bands // chunks
        padded = memory.scratch((U if pads else 0, V, C), x)
        rectified_dy = memory.scratch((most + above if is_relu else 0, Q, K), x)
        sums = memory.scratch(((Q + 2 * J - 2) * J * C + width(x) if narrow else 0,), x)
        for m in range(sums.size):
            sums[m] = 0
        bias_sums, biases = memory.scratch((Q * K,), x), memory.piece(db_of, chunk * K, K)
        for k in range(K):
            biases[k] = 0
        count, dw_here = 0, dw_of[chunk]
        wide = memory.piece(wide_of, chunk * wide_of.shape[1], wide_of.shape[1])
        for unit in range(first, last):
            n, band = unit // bands, unit % bands
            p0, p1 = band * P // bands, (band + 1) * P // bands
            p = max(0, p0 - above)
            dz, source = dy[n, p:p1], x[n, p0 * s :]
            if is_relu:
                dz = rectified_dy[: p1 - p]
                rectified(dy, y, (n * P + p) * Q * K, dz.size, memory.piece(dz, 0, dz.size))
            if pads:
                source = padded[: (p1 - p0 - 1) * s + I]
                with_zeros_around(x[n], p0 * s - top, left, source)
            count = backward_weights_of_rows(source, dz[p0 - p :], stride, count, zeros, dw_here, wide)
            # The bias is a weight whose input is always 1.  Rows are added to a row, and its positions only after SUMS
            # bands: position after position, each sum would wait for the one before.
            ones, start = View(one, 0, (0, 0)), View(zeros if (unit - first) % SUMS == 0 else bias_sums, 0, 0)
            slopes, out = View(dz, (p0 - p) * Q * K, Q * K), View(bias_sums, 0, 0)
            matmul((1, Q * K, p1 - p0), ones, slopes, start=start, out=out, floor=no_floor)
            if (unit + 1 - first) % SUMS == 0 or unit + 1 == last:
                for q in range(Q):
                    place = memory.piece(bias_sums, q * K, K)
                    for k in range(K):
                        biases[k] += place[k]
            if input_grad:
                h0 = max(0, min(H, p0 * s - top)) if band > 0 else 0
                h1 = max(0, min(H, p1 * s - top)) if p1 < P else H
                backward_input_of_rows(dz, p, P, wt, narrow, stride, before, zeros, sums, h0, h1, dx[n])
        part = memory.piece(dw_here, 0, dw_here.size)
        if count > 0:
            memory.add_to(wide, part, False)
        memory.rounded(wide, part)
    memory.sum_of_chunks(dw_of, dw)
    memory.sum_of_wide_chunks(db_of, db)
