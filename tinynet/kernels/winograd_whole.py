"""Winograd's convolution (winograd.py) with the whole transformed kernel at once: for images of whole patches.

While u stays in half of the L2 cache, no block of filters has to wait for its own transform, and dx can be the
transpose of the forward pass, step by step, which takes the transformed dz from dw: 32 to 64 channels and filters take
one thread 0.7 to 0.9 of the time of winograd.py (2-core Xeon, Emerald Rapids).

    dv[e,t,c] = sum_k dm[e,t,k] u[e,c,k]                dd[t,:,:,c] = B dv[:,t,c] B.T

and dx is the sum of the patches dd, which overlap by two pixels.  Kernels call dm m again, and dv v.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import kernel
from tinynet.kernels.correlation import linear_map
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.padded import with_zeros_around
from tinynet.kernels.transpose import transpose
from tinynet.kernels.winograd import (
    B,
    outputs_to_points,
    points_to_sums,
    points_to_window,
    rows_to_points,
    window_to_points,
)

L2 = cache_size(2)

points_to_rows = linear_map(B)  # the transpose of rows_to_points
add_points_to_rows = linear_map(B, add=True)

# As many patches at once as keep their v and m in the L2 cache, and make the products' rows whole tiles.
PATCHES = 48

# Each thread transforms the kernel for itself: what one writes and another reads must cross from core to core, and that
# takes longer.  One image takes a VGG-like network 125 us so instead of 145.
SHARED_ABOVE = 2**22  # numbers in all threads' u above which they share one: 16 MB in float32


def fits(output_shape, channels, itemsize):
    """Whether a convolution that winograd.fits has whole patches, and a transformed kernel that stays in the cache."""
    P, Q, K = output_shape
    return P % 4 == Q % 4 == 0 and 36 * channels * K * itemsize <= L2 // 2


@kernel()
def transformed_kernel(w, size, u):
    """u (6, 6, size) = G w G.T of a kernel (3, 3, size)."""
    half = np.empty(18 * size, w.dtype)
    window_to_points(View(w, 0, 3 * size), View(half, 0, 3 * size), 3 * size)
    for i in range(6):
        window_to_points(View(half, i * 3 * size, size), View(u, i * 6 * size, size), size)


@kernel()
def room_for_kernels(threads, w, size):
    """u for each thread to fill, (threads, 36 size); or a single one, filled, where that would be a lot of memory."""
    us = memory.scratch((1 if threads * 36 * size > SHARED_ABOVE else threads, 36 * size), w)
    if len(us) < threads:
        transformed_kernel(w, size, us[0])
    return us


@kernel()
def transformed_patches(image, first, left, t, T, padded, half, v):
    """v[:, t...] (6, 6, T, C) = B.T d B of the patches d of a row of them, which begins in row `first` of an image."""
    C, V = image.shape[2], padded.shape[1]
    with_zeros_around(image, first, left, padded)
    rows_to_points(View(padded, 0, V * C), View(half, 0, V * C), V * C)
    for i in range(6):
        for q in range((V - 2) // 4):
            rows_to_points(View(half, (i * V + 4 * q) * C, C), View(v, (i * 6 * T + t + q) * C, T * C), C)


@kernel(parallel=True, matmul=True)
def winograd_forward(x, w, b, before, floor, threads, y):
    """y = max(floor, conv(x, w) + b).  A thread owns its rows of patches of y.

    `threads` says how many there are: a kernel that asks Numba for that isn't kept on disk.
    """
    N, H, W, C = x.shape
    _, P, Q, K = y.shape
    top, left = before
    down, across = P // 4, Q // 4
    rows = N * down
    no_floor, zeros = x.dtype.type(-np.inf), np.empty(K, x.dtype)
    for k in range(K):
        zeros[k] = 0
    threads = max(1, min(rows, threads))
    us = room_for_kernels(threads, w, C * K)
    for thread in prange(threads):
        u = us[thread % len(us)]
        if len(us) == threads:
            transformed_kernel(w, C * K, u)
        begin, end = thread * rows // threads, (thread + 1) * rows // threads
        together = max(1, min(end - begin, PATCHES // across))
        most = together * across
        padded, half = memory.scratch((6, Q + 2, C), x), memory.scratch((6 * (Q + 2) * C,), x)
        v, m, sums = (
            memory.scratch((36 * most * C,), x),
            memory.scratch((36 * most * K,), x),
            memory.scratch((24 * most * K,), x),
        )
        for r0 in range(begin, end, together):
            r1 = min(end, r0 + together)
            T = (r1 - r0) * across
            for r in range(r0, r1):
                transformed_patches(x[r // down], r % down * 4 - top, left, (r - r0) * across, T, padded, half, v)
            for e in range(36):
                patches, weights = View(v, e * T * C, (C, 1)), View(u, e * C * K, K)
                out = View(m, e * T * K, K)
                matmul((T, K, C), patches, weights, start=View(zeros, 0, 0), out=out, floor=no_floor)
            for j in range(6):
                points_to_sums(View(m, j * T * K, 6 * T * K), View(sums, j * T * K, 6 * T * K), T * K)
            for r in range(r0, r1):
                for i in range(4):
                    row = memory.piece(y, (r // down * P + r % down * 4 + i) * Q * K, Q * K)
                    for q in range(across):
                        source = View(sums, (i * 6 * T + (r - r0) * across + q) * K, T * K)
                        points_to_sums(source, View(row, 4 * q * K, K), K)
                    for q in range(Q):
                        for k in range(K):
                            z = row[q * K + k] + b[k]
                            row[q * K + k] = floor if z < floor else z


@kernel()
def transformed_gradients(dz, Q, K, t, T, half, m):
    """m[:, t...] (6, 6, T, K) = A dz A.T of one row of patches, dz (4, Q, K)."""
    outputs_to_points(View(dz, 0, Q * K), View(half, 0, Q * K), Q * K)
    for i in range(6):
        for q in range(Q // 4):
            outputs_to_points(View(half, (i * Q + 4 * q) * K, K), View(m, (i * 6 * T + t + q) * K, T * K), K)


@kernel()
def add_patches(s, t, T, first, left, padded, dx):
    """Add one row of patches, B of s (6, 6, T, C), to an image's gradient dx (H, W, C), from row `first` on."""
    H, W, C = dx.shape
    V = padded.shape[1]
    flat = memory.piece(padded, 0, 6 * V * C)
    for a in range(6 * V * C):
        flat[a] = 0
    for i in range(6):
        for q in range((V - 2) // 4):
            add_points_to_rows(View(s, (i * 6 * T + t + q) * C, T * C), View(padded, (i * V + 4 * q) * C, C), C)
        if 0 <= first + i < H:
            row, inside = memory.piece(dx, (first + i) * W * C, W * C), memory.piece(padded, (i * V + left) * C, W * C)
            for a in range(W * C):
                row[a] += inside[a]


@kernel(parallel=True, matmul=True)
def winograd_backward(x, w, dy, y, rectified, before, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx, as conv2d_backward: a chunk of images has sums of its own, added in order."""
    N, H, W, C = x.shape
    _, P, Q, K = dy.shape
    top, left = before
    down, across = P // 4, Q // 4
    together = max(1, PATCHES // across)
    no_floor, nothing = x.dtype.type(-np.inf), x.dtype.type(0)
    one, zeros = np.empty(1, x.dtype), np.empty(K, x.dtype)
    one[0] = 1
    for k in range(K):
        zeros[k] = 0
    no_sums = np.empty(C, x.dtype)
    for c in range(C):
        no_sums[c] = 0
    chunks = min(N, max(2, min(8, 2**23 // (36 * C * K))))
    dw_of, db_of = np.empty((chunks, 9 * C * K), x.dtype), np.zeros((chunks, K))
    ut = np.empty(36 * C * K if input_grad else 0, x.dtype)
    if input_grad:
        wt = np.empty((3, 3, K, C), x.dtype)
        for i in range(3):
            for j in range(3):
                at = (i * 3 + j) * C * K
                transpose(w, at, K, wt, at, C, C, K)
        transformed_kernel(wt, K * C, ut)
    for chunk in prange(chunks):
        n0, n1 = chunk * N // chunks, (chunk + 1) * N // chunks
        padded, half = memory.scratch((6, Q + 2, C), x), memory.scratch((6 * (Q + 2) * C,), x)
        dz, half_dz = memory.scratch((4 * Q * K,), x), memory.scratch((6 * Q * K,), x)
        v, m = memory.scratch((36 * together * across * C,), x), memory.scratch((36 * together * across * K,), x)
        s = memory.scratch((v.size if input_grad else 0,), x)
        du, half_dw = memory.scratch((36 * C * K,), x), memory.scratch((18 * C * K,), x)
        some_sums, biases = memory.scratch((K,), x), memory.piece(db_of, chunk * K, K)
        for r0 in range(n0 * down, n1 * down, together):
            r1 = min(n1 * down, r0 + together)
            T, first = (r1 - r0) * across, r0 == n0 * down
            for r in range(r0, r1):
                n, h, t = r // down, r % down * 4, (r - r0) * across
                transformed_patches(x[n], h - top, left, t, T, padded, half, v)
                size = 4 * Q * K
                given, out = memory.piece(dy, r * size, size), memory.piece(y, r * size, size)
                for a in range(size):
                    dz[a] = nothing if rectified and out[a] <= nothing else given[a]
                for q in range(0, 4 * Q, 64):  # the bias is a weight whose input is always 1; 64 are summed in float32
                    size, ones, start = (1, K, min(64, 4 * Q - q)), View(one, 0, (0, 0)), View(zeros, 0, 0)
                    matmul(size, ones, View(dz, q * K, K), start=start, out=View(some_sums, 0, 0), floor=no_floor)
                    for k in range(K):
                        biases[k] += some_sums[k]
                transformed_gradients(dz, Q, K, t, T, half_dz, m)
            for e in range(36):
                vt, dm, out = View(v, e * T * C, (1, C)), View(m, e * T * K, K), View(du, e * C * K, K)
                start = View(zeros, 0, 0) if first else out
                matmul((C, K, T), vt, dm, start=start, out=out, floor=no_floor)
            if not input_grad:
                continue
            for e in range(36):  # dv takes v's place
                dm, weights, out = View(m, e * T * K, (K, 1)), View(ut, e * K * C, C), View(v, e * T * C, C)
                matmul((T, C, K), dm, weights, start=View(no_sums, 0, 0), out=out, floor=no_floor)
            for j in range(6):
                points_to_rows(View(v, j * T * C, 6 * T * C), View(s, j * T * C, 6 * T * C), T * C)
            for r in range(r0, r1):
                n, h = r // down, r % down * 4
                if h == 0:
                    image = memory.piece(dx, n * H * W * C, H * W * C)
                    for a in range(H * W * C):
                        image[a] = 0
                add_patches(s, (r - r0) * across, T, h - top, left, padded, dx[n])
        # dw is made of du here, chunk by chunk, and not of their sum: a quarter of the numbers then change cores.
        points_to_window(View(du, 0, 6 * C * K), View(half_dw, 0, 6 * C * K), 6 * C * K)
        for i in range(3):
            at = (chunk * 9 + 3 * i) * C * K
            points_to_window(View(half_dw, i * 6 * C * K, C * K), View(dw_of, at, C * K), C * K)
    memory.sum_of_chunks(dw_of, dw)
    memory.sum_of_wide_chunks(db_of, db)
