"""Winograd's convolution: a 3 x 3 window with 4 times fewer multiplications than its definition asks for.

A product of polynomials can be had from its values at enough points, and a convolution is a product of polynomials.
Four neighbouring outputs y of a window w of three, over six pixels d,

    y[p] = sum_i d[p + i] w[i]        p = 0..3, i = 0..2        12 multiplications by definition

need six (Winograd 1980; Lavin and Gray 2016), at five points and infinity:

    y = A'( (G w) . (B' d) )          G (6,3)   B' (6,6)   A' (4,6), constants; "." by elements

In two dimensions each matrix is applied to rows and to columns: a patch d (6,6) and a window w (3,3) give y (4,4) by
36 multiplications instead of 144.  With C channels and K filters, the products at each of the 36 points e are those
of matrices, and run on the tile; the transforms' cost is shared by all filters and channels:

    u[e,c,k] = G w[:,:,c,k] G'        v[e,t,c] = B' d[t,:,:,c] B        of every patch t, four pixels apart
    m[e,t,k] = sum_c v[e,t,c] u[e,c,k]                  y[t,:,:,k] = A' m[:,t,k] A + b[k]

Backward.  Every step is linear, so each one's backward pass is its transpose, in reverse order:

    dm[e,t,k] = A dz[t,:,:,k] A'      as y was made of m by A'
    du[e,c,k] = sum_t v[e,t,c] dm[e,t,k]                dw[:,:,c,k] = G' du[:,c,k] G
    dv[e,t,c] = sum_k dm[e,t,k] u[e,c,k]                dd[t,:,:,c] = B dv[:,t,c] B'

and dx is the sum of the patches dd, which overlap by two pixels.

The price is rounding: the largest error is some 3 times that of the plain sum.
"""

from fractions import Fraction
from math import prod

import numpy as np
from numba import prange

from tinynet import simd
from tinynet.layers.padding import with_zeros_around
from tinynet.tile import linear_map, tile


def matrices(points, outputs=4, window=3):
    """A (6,4), B (6,6) and G (6,3) of these five points and infinity, in exact fractions until the end.

    Row p of G has the window's value at p, as a polynomial, over the product of p's distances to the other points;
    column p of B has the coefficients of the polynomial that is 0 at the other points; row p of A has p's powers.
    At infinity a polynomial's value is its leading coefficient.
    """

    def vanishing_at(roots):
        coefficients = [Fraction(1)]
        for root in roots:
            shifted, scaled = [Fraction(0), *coefficients], [root * c for c in coefficients] + [Fraction(0)]
            coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
        return coefficients

    others = [[q for q in points if q != p] for p in points]
    distances = [prod(p - q for q in rest) for p, rest in zip(points, others, strict=True)]
    powers = [[p**k for k in range(outputs)] for p in points] + [[0] * (outputs - 1) + [1]]
    values = [[p**k / d for k in range(window)] for p, d in zip(points, distances, strict=True)] + [
        [0] * (window - 1) + [1]
    ]
    lifts = [[*vanishing_at(rest), 0] for rest in others] + [vanishing_at(points)]
    return (np.array(rows, float) for rows in (powers, np.transpose(lifts), values))


# The usual points are 0, 1, -1, 2, -2: small numbers, but unlike in size.  With pairs x and 1/x the largest error
# against float64 falls from 5.5e-6 to 1.3e-6 of the largest output (64 channels of normal numbers).
A, B, G = matrices([Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2)])

rows_to_points = linear_map(B.T)  # of a patch: 6 -> 6
points_to_rows = linear_map(B)  # and back, as its transpose
add_points_to_rows = linear_map(B, start="add")
points_to_sums = linear_map(A.T)  # of the products: 6 -> 4
points_to_outputs = linear_map(A.T, start="bias")
outputs_to_points = linear_map(A)  # and back: 4 -> 6
window_to_points = linear_map(G)  # of the window: 3 -> 6
points_to_window = linear_map(G.T)  # and back

# As many patches at once as keep v and m of a task in the L2 cache, and make the products' rows whole tiles.
PATCHES = 48


def fits(kernel_size, stride, output_shape, channels):
    """Whether the convolution is one of 3 x 3, stride 1, with whole patches, and wide enough for it to pay."""
    P, Q, K = output_shape
    return kernel_size == (3, 3) and stride == (1, 1) and P % 4 == Q % 4 == 0 and min(channels, K) >= 16


@simd.kernel()
def transformed_kernel(w, u):
    """u (36, C, K) = G w G'."""
    _, _, C, K = w.shape
    half = np.empty((6, 3, C, K), w.dtype)
    window_to_points(w, 0, 3 * C * K, half, 0, 3 * C * K, 3 * C * K)
    for i in range(6):
        window_to_points(half, i * 3 * C * K, C * K, u, i * 6 * C * K, C * K, C * K)


@simd.kernel()
def transformed_patches(image, first, left, t, padded, half, v):
    """v[:, t : t + T] = B' d B of the T patches of one row of them, whose first pixels are row `first` of the image."""
    C, V = image.shape[2], padded.shape[1]
    T, total = (V - 2) // 4, v.shape[1]
    with_zeros_around(image, first, left, padded)
    rows_to_points(padded, 0, V * C, half, 0, V * C, V * C)
    for i in range(6):
        for x in range(T):
            rows_to_points(half, (i * V + 4 * x) * C, C, v, (i * 6 * total + t + x) * C, total * C, C)


@simd.kernel(parallel=True, tiled=True)
def winograd_forward(x, w, b, before, floor, y):
    """y = max(floor, conv(x, w) + b).  A thread owns its rows of patches of y."""
    N, H, W, C = x.shape
    K = w.shape[3]
    _, P, Q, _ = y.shape
    top, left = before
    down, across = P // 4, Q // 4
    together = max(1, min(PATCHES // across, N * down // 8))  # and 8 tasks or more, for the threads
    zeros, none = np.zeros(K, x.dtype), x.dtype.type(-np.inf)
    u = np.empty((36, C, K), x.dtype)
    transformed_kernel(w, u)
    for task in prange((N * down + together - 1) // together):
        r0, r1 = task * together, min(N * down, (task + 1) * together)
        T = (r1 - r0) * across
        padded, half = np.empty((6, Q + 2, C), x.dtype), np.empty((6, Q + 2, C), x.dtype)
        v, m, sums = np.empty((36, T, C), x.dtype), np.empty((36, T, K), x.dtype), np.empty((4, 6, T, K), x.dtype)
        for r in range(r0, r1):
            n, h = r // down, r % down * 4
            transformed_patches(x[n], h - top, left, (r - r0) * across, padded, half, v)
        for e in range(36):
            tile((T, K, 1, C), v, e * T * C, (C, 0, 1), u, e * C * K, (0, K), zeros, 0, 0, m, e * T * K, K, none)
        for j in range(6):
            points_to_sums(m, j * T * K, 6 * T * K, sums, j * T * K, 6 * T * K, T * K)
        for r in range(r0, r1):
            n, h = r // down, r % down * 4
            for i in range(4):
                for q in range(across):
                    at, to = (i * 6 * T + (r - r0) * across + q) * K, ((n * P + h + i) * Q + 4 * q) * K
                    points_to_outputs(sums, at, T * K, y, to, K, K, b, 0, floor)


@simd.kernel(parallel=True, tiled=True)
def winograd_backward(x, w, dy, y, rectified, before, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx, as conv2d_backward: a chunk of images has sums of its own, added in order."""
    N, H, W, C = x.shape
    K = w.shape[3]
    _, P, Q, _ = dy.shape
    top, left = before
    down, across = P // 4, Q // 4
    together = max(1, PATCHES // across)
    one, none, nothing = np.ones(1, x.dtype), x.dtype.type(-np.inf), x.dtype.type(0)
    chunks = min(N, max(2, min(8, 2**23 // (36 * C * K))))
    du, db_of = np.empty((chunks, 36, C, K), x.dtype), np.empty((chunks, K), x.dtype)
    u, ut = np.empty((36, C, K), x.dtype), np.empty((36, K, C), x.dtype)
    if input_grad:
        transformed_kernel(w, u)
        for e in prange(36):
            for k in range(K):
                for c in range(C):
                    ut[e, k, c] = u[e, c, k]
    no_sums = np.zeros(max(C, K), x.dtype)
    for chunk in prange(chunks):
        n0, n1 = chunk * N // chunks, (chunk + 1) * N // chunks
        padded, half = np.empty((6, Q + 2, C), x.dtype), np.empty((6, Q + 2, C), x.dtype)
        dz, half_dz = np.empty((4, Q, K), x.dtype), np.empty((6, Q, K), x.dtype)
        all_v, all_m = np.empty(36 * together * across * C, x.dtype), np.empty(36 * together * across * K, x.dtype)
        all_s = np.empty(36 * together * across * C if input_grad else 0, x.dtype)
        db_of[chunk] = 0
        for r0 in range(n0 * down, n1 * down, together):
            r1 = min(n1 * down, r0 + together)
            T = (r1 - r0) * across
            v, m = all_v[: 36 * T * C].reshape((36, T, C)), all_m[: 36 * T * K].reshape((36, T, K))
            for r in range(r0, r1):
                n, h, t = r // down, r % down * 4, (r - r0) * across
                transformed_patches(x[n], h - top, left, t, padded, half, v)
                given, out, result = dy[n, h : h + 4].reshape(-1), y[n, h : h + 4].reshape(-1), dz.reshape(-1)
                if rectified:
                    for a in range(4 * Q * K):
                        result[a] = nothing if out[a] <= nothing else given[a]
                else:
                    result[:] = given
                # The bias is a weight whose input is always 1.
                tile((1, K, 1, 4 * Q), one, 0, (0, 0, 0), dz, 0, (0, K), db_of, chunk * K, 0, db_of, chunk * K, 0, none)
                outputs_to_points(dz, 0, Q * K, half_dz, 0, Q * K, Q * K)
                for i in range(6):
                    for q in range(across):
                        outputs_to_points(half_dz, (i * Q + 4 * q) * K, K, m, (i * 6 * T + t + q) * K, T * K, K)
            for e in range(36):
                size, at = (C, K, 1, T), (chunk * 36 + e) * C * K
                if r0 == n0 * down:
                    tile(size, v, e * T * C, (1, 0, C), m, e * T * K, (0, K), no_sums, 0, 0, du, at, K, none)
                else:
                    tile(size, v, e * T * C, (1, 0, C), m, e * T * K, (0, K), du, at, K, du, at, K, none)
            if not input_grad:
                continue
            for e in range(36):  # dv takes v's place
                tile((T, C, 1, K), m, e * T * K, (K, 0, 1), ut, e * K * C, (0, C), no_sums, 0, 0, v, e * T * C, C, none)
            s = all_s[: 36 * T * C].reshape((36, T, C))
            for j in range(6):
                points_to_rows(v, j * T * C, 6 * T * C, s, j * T * C, 6 * T * C, T * C)
            for r in range(r0, r1):
                n, h = r // down, r % down * 4
                padded[:] = 0
                for i in range(6):
                    for q in range(across):
                        at = (i * 6 * T + (r - r0) * across + q) * C
                        add_points_to_rows(s, at, T * C, padded, (i * (Q + 2) + 4 * q) * C, C, C)
                if h == 0:
                    dx[n] = 0
                for i in range(6):
                    if 0 <= h - top + i < H:
                        row = dx[n, h - top + i].reshape(-1)
                        inside = padded[i, left : left + W].reshape(-1)
                        for a in range(inside.size):
                            row[a] += inside[a]
    for e in prange(36):
        for chunk in range(1, chunks):
            du[0, e] += du[chunk, e]
    half_w = np.empty((3, 6, C, K), x.dtype)
    points_to_window(du, 0, 6 * C * K, half_w, 0, 6 * C * K, 6 * C * K)
    for i in range(3):
        points_to_window(half_w, i * 6 * C * K, C * K, dw, i * 3 * C * K, C * K, C * K)
    db[:] = 0
    for chunk in range(chunks):
        db += db_of[chunk]
