"""The backward pass of conv2d.py: dw, db and dx as products of matrices."""

import numba
import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.conv2d import PANEL, backward_tasks, copy_columns, offsets
from tinynet.kernels.matmul import THREADS_FROM, View, gathered, matmul
from tinynet.kernels.padded import channels_with_zeros_around, with_zeros_around
from tinynet.kernels.rectified import rectified
from tinynet.kernels.transpose import transpose

TERMS = 192  # positions at a time of dw: their pixels and so many rows of dz's panel stay in the L1 cache

# So many sums of dw are added in their own dtype, and those in float64, where they lose no digits, however large the
# batch or the image.
SUMS = 32


def conv2d_backward(x, w, dy, y, is_relu, stride, before, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx.  `is_relu`: y is a ReLU's output and dy its gradient, so dz = dy where y > 0."""
    threads = numba.get_num_threads() if dy.size * (w.size // w.shape[3]) >= THREADS_FROM else 1
    tasks = backward_tasks(len(x), dy.shape[1:3], w.shape, stride, threads)
    backward_kernel(x, w, dy, y, is_relu, stride, before, input_grad, tasks, dw, db, dx)


@kernel()
def backward_input(dz, first, rows, columns, e0, e1, w, stride, before, n0, n1, c0, c1, lies, panel, dx):
    """dx of the pixels with e0 <= e < e1 of images n0 to n1, and of the channels c0 to c1.

    dz, of `rows` and `columns` for each image, has zeros around; dz.flat[first] is what e0 and f = 0 meet where
    i' = j' = 0.
    """
    _, H, W, C = dx.shape
    I, J, _, K = w.shape
    (s, r), (top, left), line = stride, before, columns * K
    zeros, no_floor = np.zeros(c1 - c0, w.dtype), w.dtype.type(-np.inf)
    for a in range(s):
        for b in range(r):
            e, f = max(e0, (top - a + s - 1) // s), (left - b + r - 1) // r
            pixels = n1 - n0, min(e1, (H - 1 + top - a) // s + 1) - e, (W - 1 + left - b) // r + 1 - f
            if pixels[1] <= 0 or pixels[2] <= 0:
                continue
            window = max(0, (I - a + s - 1) // s), max(0, (J - b + r - 1) // r), K
            h, g = e * s + a - top, f * r + b - left
            if lies:
                run = window[1] * K
                for c in range(c0, c1, PANEL):
                    S = min(PANEL, c1 - c)
                    for i in range(window[0]):
                        for j in range(window[1]):
                            tap = (a + (window[0] - 1 - i) * s) * J + b + (window[1] - 1 - j) * r
                            transpose(w, (tap * C + c) * K, K, panel, (i * window[1] + j) * K * S, S, S, K)
                    for n in range(pixels[0]):
                        for m in range(pixels[1]):
                            at = first + (n * rows + e - e0 + m - window[0] + 1) * line + (f - window[1] + 1) * K
                            matmul(
                                (pixels[2], S, window[0], run),
                                View(dz, at, (K, line, 1)),
                                View(panel, 0, (run * S, S)),
                                start=View(zeros, 0, 0),
                                out=View(dx, (((n0 + n) * H + h + m * s) * W + g) * C + c, r * C),
                                floor=no_floor,
                            )
                continue
            # The sums of two offsets are never negative, as Numba's indices must not be.
            corners = offsets(first + (e - e0) * line + f * K, pixels, (rows * line, line, K))
            weights = offsets(((a * J + b) * C + c0) * K, window, (s * J * C * K, r * C * K, 1))
            to = offsets(((n0 * H + h) * W + g) * C + c0, pixels, (H * W * C, s * W * C, r * C))
            gathered(
                (pixels[0] * pixels[1] * pixels[2], c1 - c0, window[0] * window[1] * K),
                View(dz, 0, (corners, offsets(0, window, (-line, -K, 1)))),
                View(w, 0, (weights, K)),
                start=View(zeros, 0, 0),
                out=View(dx, 0, to),
                floor=no_floor,
            )


@kernel()
def add_rows(size, pixels, dz, panel, fresh, c0, dw):
    """dw (I, J, C, K) += the sums over some rows of positions, of the S channels from c0 on; = where it is `fresh`.

    size is (R, Q, S); View pixels has the steps of the window's rows, of rows and of columns of positions, dz of rows.
    """
    (R, Q, S), (row, down, right) = size, pixels.steps
    I, J, C, K = dw.shape
    zeros, no_floor = np.zeros(PANEL, dw.dtype), dw.dtype.type(-np.inf)
    runs = 1 if S == C else J  # of pixels that lie in a row, as do their weights
    M = J * S // runs
    for k in range(0, K, PANEL):
        columns = min(PANEL, K - k)
        for p in range(R):
            copy_columns(dz.array, dz.first + p * dz.steps + k, K, columns, Q, panel, p * Q * columns)
        terms = View(panel, 0, (Q * columns, columns))
        for i in range(I):
            for j in range(runs):
                windows = View(pixels.array, pixels.first + i * row + j * S, (1, down, right))
                out = View(dw, ((i * J + j) * C + c0) * K + k, K)
                if fresh:
                    no_start = View(zeros, 0, 0)
                    matmul((M, columns, R, Q), windows, terms, start=no_start, out=out, floor=no_floor)
                else:
                    matmul((M, columns, R, Q), windows, terms, start=out, out=out, floor=no_floor)


@kernel()
def add_channels(wide, dw, c0, c1):
    """wide += dw (I, J, C, K), of the channels c0 to c1."""
    I, J, C, K = dw.shape
    for ij in range(I * J):
        at, size = (ij * C + c0) * K, (c1 - c0) * K
        memory.add_to(memory.piece(wide, at, size), memory.piece(dw, at, size), False)


@kernel()
def round_channels(wide, dw, c0, c1):
    """dw = wide, of the channels c0 to c1."""
    I, J, C, K = dw.shape
    for ij in range(I * J):
        at, size = (ij * C + c0) * K, (c1 - c0) * K
        memory.rounded(memory.piece(wide, at, size), memory.piece(dw, at, size))


@sized_kernel(THREADS_FROM, of=lambda x, w, dy, *_: dy.size * (w.size // w.shape[3]), matmul=True)
def backward_kernel(x, w, dy, y, is_relu, stride, before, input_grad, tasks, dw, db, dx):
    """A thread owns the channels c0 to c1 of a chunk of images, or of bands of rows of one.

    The chunks are fixed by the shapes; each has sums of its own, added in order at the end, so the result has the same
    bits for any number of threads.
    """
    N, H, W, C = x.shape
    I, J, _, K = w.shape
    _, P, Q, _ = dy.shape
    (s, r), (top, left), (groups, bands, chunks, channels, lies) = stride, before, tasks
    images, slices = -(-N // groups), -(-C // channels)
    units = groups * bands
    # The pixels of an image have e < E and f < F, and so many rows and columns of dz before that reach them.
    above, aside = (I - 1) // s, (J - 1) // r
    E, F = max(P, (H - 1 + top) // s + 1), max(Q, (W - 1 + left) // r + 1)
    most = -(-P // bands) + E - P
    U, V, rows, columns = (most - 1) * s + I, (Q - 1) * r + J, above + most, aside + F
    pads = slices > 1 or top > 0 or left > 0 or (P - 1) * s + I > H or V > W
    pads_dz = is_relu or above > 0 or aside > 0 or E > P or F > Q
    if not pads:
        U, V = H, W
    if not pads_dz:
        rows = P
    parts = np.empty((chunks if chunks > 1 else 0, I, J, C, K), x.dtype)
    step = max(1, TERMS // Q)
    sums_of_chunk = -(-units // chunks) * (images * (P // bands // step + 2) if lies else 1)
    wide_of, db_of = np.zeros((chunks, w.size if sums_of_chunk > SUMS else 0)), np.zeros((chunks, K))
    size_of_panel = max(step * Q, (above + 1) * (aside + 1) * K) * PANEL if lies else 0
    one, zeros, no_floor = np.ones(1, x.dtype), np.zeros(Q * K, x.dtype), x.dtype.type(-np.inf)
    for task in prange(chunks * slices):
        chunk, c0 = task // slices, task % slices * channels
        c1 = min(C, c0 + channels)
        padded = memory.scratch((images if pads else 0, U, V, c1 - c0), x)
        padded_dz = memory.scratch((images if pads_dz else 0, rows, columns, K), x)
        source, dz = padded if pads else x, padded_dz if pads_dz else dy
        panel = memory.scratch((size_of_panel,), x)
        bias_sums, biases = memory.scratch((Q * K,), x), memory.piece(db_of, chunk * K, K)
        dw_here = parts[chunk] if chunks > 1 else dw
        wide = memory.piece(wide_of, chunk * wide_of.shape[1], wide_of.shape[1])
        weights, sums, last = offsets(0, (I, J, c1 - c0), (J * C * K, C * K, K)), 0, (chunk + 1) * units // chunks
        for unit in range(chunk * units // chunks, last):
            group, band = unit // bands, unit % bands
            n0, n1 = group * N // groups, (group + 1) * N // groups
            e0, p1 = band * P // bands, (band + 1) * P // bands
            e1 = p1 if p1 < P else E
            for n in range(n0, n1):
                if pads:
                    channels_with_zeros_around(x[n], e0 * s - top, left, c0, padded[n - n0])
                if pads_dz:
                    with_zeros_around(dy[n], e0 - above, aside, padded_dz[n - n0])
                for p in range(max(0, e0 - above), p1 if is_relu else 0):
                    at = (((n - n0) * rows + p - e0 + above) * columns + aside) * K
                    rectified(dy, y, (n * P + p) * Q * K, Q * K, memory.piece(padded_dz, at, Q * K))
            first = 0 if pads else (n0 * H + e0 * s) * W * C
            first_dz = (above * columns + aside) * K if pads_dz else (n0 * P + e0) * Q * K
            if p1 > e0:
                S, line = c1 - c0, columns * K
                positions = n1 - n0, p1 - e0, Q
                if lies:
                    for n in range(n1 - n0):
                        for p in range(0, p1 - e0, step):
                            at = first_dz + (n * rows + p) * line
                            some = min(step, p1 - e0 - p)
                            here = first + (n * U + p * s) * V * S
                            add_rows(
                                (some, Q, S),
                                View(source, here, (V * S, s * V * S, r * S)),
                                View(dz, at, line),
                                panel,
                                sums == 0,
                                c0,
                                dw_here,
                            )
                            sums += 1
                            if wide.size and sums == SUMS:
                                add_channels(wide, dw_here, c0, c1)
                                sums = 0
                else:
                    window, terms = (I, J, S), positions[0] * positions[1] * Q
                    a = View(
                        source,
                        first,
                        (offsets(0, window, (V * S, S, 1)), offsets(0, positions, (U * V * S, s * V * S, r * S))),
                    )
                    b = View(dz, first_dz, (offsets(0, positions, (rows * line, line, K)), 1))
                    out = View(dw_here, c0 * K, weights)
                    if sums == 0:
                        gathered((I * J * S, K, terms), a, b, start=View(zeros, 0, 0), out=out, floor=no_floor)
                    else:
                        gathered((I * J * S, K, terms), a, b, start=out, out=out, floor=no_floor)
                    sums += 1
                    if wide.size and sums == SUMS:
                        add_channels(wide, dw_here, c0, c1)
                        sums = 0
                # db: the bias is a weight whose input is always 1.  Rows are added to a row, and its positions at the
                # end: position after position, each sum would wait for the one before.
                size, rows_of_dz = (1, Q * K, positions[0], positions[1]), View(dz, first_dz, (rows * line, line))
                no_start, out = View(zeros, 0, 0), View(bias_sums, 0, 0)
                matmul(size, View(one, 0, (0, 0, 0)), rows_of_dz, start=no_start, out=out, floor=no_floor)
                for q in range(Q if c0 == 0 else 0):
                    for k in range(K):
                        biases[k] += bias_sums[q * K + k]
            if input_grad:
                backward_input(dz, first_dz, rows, columns, e0, e1, w, stride, before, n0, n1, c0, c1, lies, panel, dx)
        if wide.size:
            if sums > 0:
                add_channels(wide, dw_here, c0, c1)
            round_channels(wide, dw_here, c0, c1)
    size = dw.size
    for share in prange(16 if chunks > 1 else 0):
        memory.add_parts(parts, dw, share * size // 16, (share + 1) * size // 16)
    memory.sum_of_wide_chunks(db_of, db)
