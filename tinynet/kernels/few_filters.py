"""Convolution with few filters: a vector holds neighbouring positions of a row, on planes of one channel each.

What it buys, in whole training steps of 64 images without it (2-core Xeon, Emerald Rapids): a LeNet-like network takes
1.17 times as long, the CNN of PyTorch's CIFAR-10 tutorial 1.31; of these, the cross-correlation for dw alone accounts
for 1.09 and 1.15.  On AVX2's 8 lanes it is never chosen for these networks: see fits.

    z[n,p,q,k] = b[k] + sum_i sum_j sum_c x[n, p + i - top, q + j - left, c] w[i,j,c,k]        as in conv2d.py, stride 1

In conv2d.py a vector holds the filters of one position, and six of them fill 6 of 16 lanes.  Here it holds 16
positions, and fills all of them: a weight is broadcast where there a pixel was.  What lies side by side in a row must
then be pixels of one channel, so each row of the image with its zeros is taken apart into C planes (planes.py): U rows,
(U, C, V), and

    z of a row p:    K filters x Q positions, summed over the I C planes from p C on and over J shifts of each

is one small product on matmul; its K rows of positions then become Q positions of K filters.

Backward.  dz (P, Q, K) is taken apart alike, into (P, K, Q), and both factors of dw are then rows of positions:

    dw[i,j,c,k] = sum_p sum_q x[p + i, c, q + j] dz[p,k,q]        a cross-correlation of planes (matmul.py)
    db[k]       = sum_p sum_q dz[p,k,q]

x[n,h,g,c] touched z[n, h + top - i, g + left - j, k] for all i and j, times w[i,j,c,k]: that is a convolution too, of
dz with I-1-top rows and J-1-left columns of zeros above and to the left, by the kernel turned around with C and K
swapped:

    dx[n,h,g,c] = sum_i sum_j sum_k dz[n, h + i - (I-1-top), g + j - (J-1-left), k] w[I-1-i, J-1-j, c, k]

Columns beyond Q, up to a whole number of vectors, are worked on and thrown away.  In dw they meet a dz of 0, and 0
times inf is NaN: an inf or NaN pixel near the right edge also spoils weights that it meets at no output.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import band_count, helper, kernel, sized_kernel
from tinynet.kernels.correlation import correlate
from tinynet.kernels.matmul import THREADS_FROM, View, matmul
from tinynet.kernels.planes import deinterleave, interleave
from tinynet.kernels.rectified import rectified
from tinynet.kernels.transpose import square_to_vectors
from tinynet.kernels.vectors import lanes_of, load, splat, store_some, sum_of, width

STEPS = 64  # numbers that a lane adds up in their own dtype


def fits(kernel_shape, stride, before, Q, dtype):
    """Whether the layer is done here: where vectors of outputs need fewer steps than vectors of filters.

    Making the planes costs as much as three filters more, by measurement; so on 4 lanes it never pays.  The zeros for
    dx must not be fewer than none, and the sums of dw for each lane must stay in the cache.
    """
    (I, J, C, K), (top, left), lanes = kernel_shape, before, lanes_of(dtype)
    pays = -(-Q // lanes) * (K + 3) <= 0.9 * Q * -(-K // lanes)
    return pays and stride == (1, 1) and J > 1 and top < I and left < J and I * J * C * K <= 4096


@kernel()
def planes_of_image(x, n, first, left, planes):
    """planes (U, C, V) = image n of x (N, H, W, C) from row `first` on, with zeros around it."""
    _, H, W, C = x.shape
    U, _, V = planes.shape
    to, zero = memory.piece(planes, 0, U * C * V), splat(x, 0)
    for u in range(U):
        h, at = first + u, u * C * V
        if h < 0 or h >= H:
            for v in range(0, C * V, width(x)):
                store_some(zero, to, at + v, C * V - v)
            continue
        for c in range(C if left else 0):
            for v in range(0, left, width(x)):
                store_some(zero, to, at + c * V + v, left - v)
        deinterleave(x, (n * H + h) * W * C, C, W, to, at + left, V, V - left)


@helper
def row_lengths(x, J, left, Q):
    """Q rounded up to whole vectors, and V, the length of a plane's row.

    V has room for J shifts of so many outputs, and for a row of the image in whole vectors from column `left` on.
    """
    LANES = width(x)
    padded_Q = (Q + LANES - 1) // LANES * LANES
    return padded_Q, max(padded_Q + J - 1, left + (x.shape[2] + LANES - 1) // LANES * LANES)


@sized_kernel(THREADS_FROM, of=lambda x, w, *rest: rest[-1].size * (w.size // w.shape[3]), matmul=True)
def few_filters_forward(x, w, b, before, floor, y):
    """y = max(floor, conv(x, w) + b); `before` is (top, left).  A thread owns the rows of y of its band of an image."""
    N, _, _, C = x.shape
    I, J, _, K = w.shape
    _, P, Q, _ = y.shape
    top, left = before
    padded_Q, V = row_lengths(x, J, left, Q)
    weights, biases = np.empty((I, C, J, K), x.dtype), np.empty((K, padded_Q), x.dtype)
    for i in range(I):
        for c in range(C):
            for j in range(J):
                for k in range(K):
                    weights[i, c, j, k] = w[i, j, c, k]
    for k in range(K):
        for q in range(padded_Q):
            biases[k, q] = b[k]
    bands = band_count(N, P, P * V * C)
    for task in prange(N * bands):
        n, band = task // bands, task % bands
        p0, p1 = band * P // bands, (band + 1) * P // bands
        planes, sums = memory.scratch((p1 - p0 + I - 1, C, V), x), memory.scratch((K, padded_Q), x)
        planes_of_image(x, n, p0 - top, left, planes)
        for p in range(p0, p1):
            matmul(
                (K, padded_Q, I * C, J),
                View(weights, 0, (1, J * K, K)),
                View(planes, (p - p0) * C * V, (V, 1)),
                start=View(biases, 0, padded_Q),
                out=View(sums, 0, padded_Q),
                floor=floor,
            )
            interleave(sums, 0, padded_Q, y, (n * P + p) * Q * K, K, Q, (n * P + p1) * Q * K)


@kernel()
def sum_lanes(lane_sums, count, result, first):
    """result.flat[first + i] = the sum of the lanes of vector i of lane_sums, i < count."""
    LANES = width(lane_sums)
    square, to = np.empty(LANES * LANES, lane_sums.dtype), memory.piece(result, 0, result.size)
    for i in range(0, count, LANES):
        square_to_vectors(lane_sums, i * LANES, LANES, square, 0, LANES, count - i, LANES)
        total = load(square, 0)
        for l in range(1, LANES):
            total = total + load(square, l * LANES)
        store_some(total, to, first + i, count - i)


@kernel()
def add_lanes(lane_sums, part, sums):
    """sums, in float64, += the sum of each number's lanes."""
    sum_lanes(lane_sums, part.size, part, 0)
    memory.add_to(sums, part, False)


@sized_kernel(THREADS_FROM, of=lambda x, dy, *rest: rest[-2].size * (dy.size // dy.shape[3]))
def few_filters_backward(x, dy, y, is_relu, before, dw, db):
    """dw and db.  `is_relu`: y is a ReLU's output and dy its gradient, so dz = dy where y > 0.

    The images are shared out in chunks fixed by the shapes; a chunk has sums of its own, added in order at the end, so
    the result has the same bits for any number of threads.
    """
    N, _, _, C = x.shape
    I, J, _, K = dw.shape
    _, P, Q, _ = dy.shape
    top, left = before
    LANES = width(x)
    padded_Q, V = row_lengths(x, J, left, Q)
    chunks, size = min(N, 16), P * Q * K
    size_of_sums = dw.size + K
    sums_of = np.zeros((chunks, size_of_sums))
    # A few rows of dz at a time, so that they stay in the L1 cache (24 KB) while all of dw passes over them.
    rows = max(1, STEPS * LANES // padded_Q)
    step = max(1, min(6144 // (K * padded_Q), rows))
    for chunk in prange(chunks):
        planes, dz_planes = memory.scratch((P + I - 1, C, V), x), memory.scratch((P, K, padded_Q), x)
        rectified_dy = memory.scratch((size if is_relu else 0,), x)
        # Each lane adds up STEPS products, and STEPS such sums.  Those are added in float64, where they lose no digits,
        # however large the batch or the image.
        at = chunk * size_of_sums
        totals, biases = memory.piece(sums_of, at, dw.size), memory.piece(sums_of, at + dw.size, K)
        lane_sums, part, steps = memory.scratch((dw.size * LANES,), x), np.empty(dw.size, x.dtype), 0
        for n in range(chunk * N // chunks, (chunk + 1) * N // chunks):
            dz = memory.piece(dy, n * size, size)
            if is_relu:
                rectified(dy, y, n * size, size, rectified_dy)
                dz = memory.piece(rectified_dy, 0, size)
            for p in range(P):
                deinterleave(dz, p * Q * K, K, Q, dz_planes, p * K * padded_Q, padded_Q, padded_Q)
            planes_of_image(x, n, -top, left, planes)
            for p in range(0, P, step):
                for m in range(lane_sums.size if steps == 0 else 0):
                    lane_sums[m] = 0
                for i in range(I):
                    for c in range(C):
                        correlate(
                            (J, K, min(step, P - p), padded_Q // LANES),
                            View(planes, ((p + i) * C + c) * V, C * V),
                            View(dz_planes, p * K * padded_Q, (K * padded_Q, padded_Q)),
                            out=View(lane_sums, (i * C + c) * J * K * LANES, (K * LANES, LANES)),
                        )
                steps += 1
                if steps == STEPS:
                    add_lanes(lane_sums, part, totals)
                    steps = 0
            for k in range(K):
                for p in range(0, P, rows):
                    total = splat(dz_planes, 0)
                    for q in range(p, min(p + rows, P)):
                        for l in range((q * K + k) * padded_Q, (q * K + k + 1) * padded_Q, LANES):
                            total = total + load(dz_planes, l)
                    biases[k] += sum_of(total)
        if steps > 0:
            add_lanes(lane_sums, part, totals)
    sums = np.empty(size_of_sums)
    memory.sum_of_chunks(sums_of, sums)
    for i in range(I):
        for c in range(C):
            for j in range(J):
                for k in range(K):
                    dw[i, j, c, k] = sums[((i * C + c) * J + j) * K + k]
    for k in range(K):
        db[k] = sums[dw.size + k]
