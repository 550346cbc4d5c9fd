"""Winograd's convolution: a 3 x 3 window with 4 times fewer multiplications than its definition asks for.

What it buys, in whole training steps without it (2-core Xeon, Emerald Rapids): a VGG-like network on 64 images of
32 x 32 takes 1.4 times as long on two threads and 1.6 on one; with AVX2 alone 1.8 and 1.9.

A product of polynomials can be had from its values at enough points, and a convolution is a product of polynomials.
Four neighbouring outputs y of a window w of three, over six pixels d,

    y[p] = sum_i d[p + i] w[i]        p = 0..3, i = 0..2        12 multiplications by definition

need six (Winograd 1980; Lavin and Gray 2016), at five points and infinity:

    y = A.T ( (G w) . (B.T d) )       G (6,3)   B.T (6,6)   A.T (4,6), constants; "." by elements

In two dimensions each matrix is applied to rows and to columns: a patch d (6,6) and a window w (3,3) give y (4,4) by
36 multiplications instead of 144.  With C channels and K filters, the products at each of the 36 points e are those
of matrices, and run on matmul; the transforms' cost is shared by all filters and channels:

    u[e,c,k] = G w[:,:,c,k] G.T       v[e,t,c] = B.T d[t,:,:,c] B       of every patch t, four pixels apart
    m[e,t,k] = sum_c v[e,t,c] u[e,c,k]                  y[t,:,:,k] = A.T m[:,t,k] A + b[k]

Backward.  Every step is linear, so each one's backward pass is its transpose, in reverse order:

    dm[e,t,k] = A dz[t,:,:,k] A.T     as y was made of m by A.T
    du[e,c,k] = sum_t v[e,t,c] dm[e,t,k]                dw[:,:,c,k] = G.T du[:,c,k] G

and dx is a convolution of its own: of dz by the kernel turned around, with C and K exchanged (layers/conv2d.py).

The patches of an image of P x Q outputs cover 4 ceil(P / 4) x 4 ceil(Q / 4) of them: zeros are around it, and what is
outside is thrown away.

u has four times the numbers of w, and v twice those of x.  So a thread takes a group of patches and a few filters at a
time: their u is made when it is needed and stays in the L2 cache.  It is made again for each group, which takes a
twentieth of the products' time, less than to fetch it from memory.  Of a patch or two (with a low tile, of one) it
would take twice their time, and to store it more: so there the products are done on the way, with what of u is in
registers.  And dw of up to four patches is made of windows, as conv2d.py does it.

The price is rounding: in float32 the largest error was 1.5 to 1.8 times that of the plain sum, for 32 to 128 channels.
"""

from fractions import Fraction
from functools import lru_cache
from math import prod

import numba
import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import kernel
from tinynet.kernels.conv2d_backward import conv2d_backward
from tinynet.kernels.correlation import linear_map, mapped_products
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.packed import HIGH
from tinynet.kernels.padded import channels_with_zeros_around, with_zeros_around
from tinynet.kernels.rectified import rectified
from tinynet.kernels.tile import BLOCK, GROUP, WHOLE
from tinynet.kernels.transpose import transpose
from tinynet.kernels.vectors import width, will_read


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
points_to_sums = linear_map(A.T)  # of the products: 6 -> 4
points_to_outputs = linear_map(A.T, finish=True)  # and then the bias and the floor
outputs_to_points = linear_map(A)  # and back: 4 -> 6
window_to_points = linear_map(G)  # of the window: 3 -> 6
products_of_points = mapped_products(G)  # and times the patch's, in both dimensions at once
points_to_window = linear_map(G.T)  # and back
add_points_to_window = linear_map(G.T, add=True)

PANEL = 32  # filters whose products are made at a time
AHEAD = 32  # channels ahead whose weights are fetched: a few bytes of each row, which the hardware does not foresee
L2 = cache_size(2) // 4  # numbers


def fits(kernel_size, stride, before, output_shape, channels):
    """Whether the convolution is one of 3 x 3 with stride 1 and wide enough, and the patches are not mostly outside."""
    P, Q, K = output_shape
    inside = P * Q / (16 * -(-P // 4) * -(-Q // 4))
    return (
        kernel_size == (3, 3)
        and stride == (1, 1)
        and max(before) <= 2
        and min(channels, K) >= 32
        and P * Q >= 16
        and inside > 0.5
    )


# Of a kernel whose u stays in half of the L2 cache, groups of patches are small, so that v and m stay there too.  Of a
# larger one u is made again for each group, and the group is so large that this takes 3 % of the products' time.
PATCHES = 144
EVEN = 16  # groups for each thread from which it hardly matters that one has another
FEW = 2 if HIGH else 1  # patches of which each does its products while the kernel is transformed: u is not stored
# Patches up to which dw is faster as conv2d.py does it: the 36 numbers of du of each channel and filter take longer to
# bring back than 16 products each.  (1, 4, 4, 512) to 512: 1.3 ms and 3.4, one thread of an AMD EPYC (Zen 4) with AVX2;
# not measured with a high tile, whose products take half as long.
FEW_FOR_DW = 4


@lru_cache(1024)
def forward_tasks(N, size, C, K, threads):
    """(groups, shares, blocks) of rows of patches: groups, shares of them, and blocks of filters: for tasks.

    The bits of y don't depend on it.
    """
    P, Q = size
    across, rows = -(-Q // 4), N * -(-P // 4)
    patches = min(PATCHES, L2 // (72 * (C + PANEL))) if 36 * C * K <= L2 // 2 else PATCHES
    groups, blocks = max(1, min(rows, -(-rows * across // patches))), 1
    if groups % threads and groups < EVEN * threads:
        tasks = -(-groups // threads) * threads
        if rows >= tasks and tasks * K <= threads * rows * across + groups * K:
            groups = tasks
        elif groups < 4 * threads:
            blocks = min(threads, -(-K // PANEL))
    return groups, min(groups, 4 * threads), blocks


@lru_cache(1024)
def backward_tasks(N, size, C, K, threads):
    """(groups, chunks, slices, channels): groups of rows of patches, in chunks with sums of their own; slices of the
    channels for tasks, and how many at a time.

    Only the slices depend on the threads, and the bits of dw not on them.
    """
    P, Q = size
    across, rows = -(-Q // 4), N * -(-P // 4)
    patches = min(PATCHES, L2 // (72 * (C + K))) if 36 * C * K <= L2 // 2 else PATCHES
    groups = max(1, min(rows, -(-rows * across // patches)))
    if 1 < groups < rows:
        groups += groups % 2  # so that two threads, or four, have as many each
    chunks = min(groups, 16)
    slices = min(threads, -(-C // 16)) if chunks % threads and chunks < 4 * threads else 1
    return groups, chunks, slices, max(16, L2 // (36 * K) // 16 * 16)


@kernel()
def part_of_kernel(w, flipped, c0, channels, k0, panel, part):
    """part (3, 3, channels, panel) of a kernel (3, 3, C, K), from channel c0 and filter k0 on.

    `flipped`: w is (3, 3, K, C), and turned by 180 degrees.
    """
    lines, length, size = w.shape[2], w.shape[3], channels * panel
    for ij in range(9):
        if flipped:
            transpose(w, ((8 - ij) * lines + k0) * length + c0, length, part, ij * size, panel, panel, channels)
            continue
        for c in range(channels):
            at = (ij * lines + c0 + c) * length + k0
            for k in range(0, panel, width(w)):
                will_read(w, at + AHEAD * length + k)
            given = memory.piece(w, at, panel)
            to = memory.piece(part, ij * size + c * panel, panel)
            for k in range(panel):
                to[k] = given[k]


@kernel()
def transformed_kernel(w, flipped, c1, some, k0, panel, part, half, u, first):
    """u (6, 6, some, panel), from flat index `first` on, = G w G.T of so many channels from c1 on, filters from k0."""
    for c0 in range(c1, c1 + some, width(w)):
        channels = min(width(w), c1 + some - c0)
        size = channels * panel
        part_of_kernel(w, flipped, c0, channels, k0, panel, part)
        window_to_points(View(part, 0, 3 * size), View(half, 0, 3 * size), 3 * size)
        for i in range(6):
            to = View(u, first + (i * 6 * some + c0 - c1) * panel, some * panel)
            window_to_points(View(half, i * 3 * size, size), to, size)


@kernel()
def products_of_patch(w, flipped, c1, some, k0, panel, part, v, sums):
    """sums (6, 6, panel) = the products' sums over so many channels, of one patch v: u is used up at once."""
    for n in range(36 * panel):
        sums[n] = 0
    for c0 in range(c1, c1 + some, width(w)):
        channels = min(width(w), c1 + some - c0)
        part_of_kernel(w, flipped, c0, channels, k0, panel, part)
        windows, of_patch = View(part, 0, channels * panel), View(v.array, v.first + c0, v.steps)
        products_of_points(windows, of_patch, View(sums, 0, panel), channels, panel)


@kernel()
def transformed_patches(padded, t, T, line, half, v):
    """v[:, t...] (6, 6, T, line) = B.T d B of a row of patches d, from padded (6, V, C)."""
    _, V, C = padded.shape
    rows_to_points(View(padded, 0, V * C), View(half, 0, V * C), V * C)
    for i in range(6):
        for q in range((V - 2) // 4):
            rows_to_points(View(half, (i * V + 4 * q) * C, C), View(v, (i * 6 * T + t + q) * line, T * line), C)


@kernel()
def rectify_rows(x, y, first, left, padded):
    """0 in padded, which is x from row `first` on with `left` columns of zeros, where y <= 0."""
    H, W, C = y.shape
    U, V, _ = padded.shape
    for u in range(max(0, -first), min(U, H - first)):
        at, columns = (first + u) * W * C, min(W, V - left) * C
        row = memory.piece(padded, (u * V + left) * C, columns)
        rectified(x, y, at, columns, row)


@kernel(parallel=True, matmul=True)
def forward_kernel(x, y_of_x, is_relu, w, flipped, b, before, floor, tasks, y):
    """y = max(floor, conv(x, w) + b).  A thread owns its rows of patches of y, of its block of filters.

    `flipped`: w is turned by 180 degrees, with C and K exchanged; `is_relu`: where y_of_x <= 0, x is 0.  Both are for
    dx, where x is dy.
    """
    N, H, W, C = x.shape
    _, P, Q, K = y.shape
    top, left = before
    groups, shares, blocks = tasks
    down, across = -(-P // 4), -(-Q // 4)
    rows, V = N * down, 4 * across + 2
    most = -(-rows // groups) * across
    line = C + width(x)  # rows of v whose distance is no power of two lie in different sets of the L1 cache
    panels = -(-K // PANEL)
    no_floor, zeros = x.dtype.type(-np.inf), np.zeros(PANEL, x.dtype)
    for task in prange(shares * blocks):
        share, block = task // blocks, task % blocks
        first_panel, last_panel = block * panels // blocks, (block + 1) * panels // blocks
        keeps = 36 * C * (last_panel - first_panel) * PANEL <= L2 // 2
        # A kernel of many channels is transformed, and multiplied, so many channels at a time as matmul sums at once:
        # then their u stays in the L2 cache.
        together = BLOCK if not keeps and WHOLE < C < BLOCK * GROUP else C
        size_of_u, few = 36 * together * PANEL, most <= FEW and together <= WHOLE
        padded, half = memory.scratch((6, V, C), x), memory.scratch((6 * V * C,), x)
        v, m = memory.scratch((36 * most * line,), x), memory.scratch((36 * most * PANEL,), x)
        sums, outside = memory.scratch((36 * most * PANEL,), x), memory.scratch((4 * PANEL,), x)
        part, half_u = memory.scratch((9 * width(x) * PANEL,), x), memory.scratch((18 * width(x) * PANEL,), x)
        u = memory.scratch((size_of_u * (last_panel - first_panel if keeps else 1),), x)
        first_group = share * groups // shares
        for group in range(first_group, (share + 1) * groups // shares):
            r0, r1 = group * rows // groups, (group + 1) * rows // groups
            T = (r1 - r0) * across
            for r in range(r0, r1):
                first = r % down * 4 - top
                with_zeros_around(x[r // down], first, left, padded)
                if is_relu:
                    rectify_rows(x[r // down], y_of_x[r // down], first, left, padded)
                transformed_patches(padded, (r - r0) * across, T, line, half, v)
            for number in range(first_panel, last_panel):
                k = number * PANEL
                S = min(PANEL, K - k)
                at = (number - first_panel) * size_of_u if keeps else 0
                for c in range(0, C, together):
                    some = min(together, C - c)
                    if few:
                        for t in range(T):
                            products_of_patch(w, flipped, c, some, k, S, part, View(v, t * line, T * line), sums)
                            for e in range(36):
                                for n in range((e * T + t) * S, (e * T + t + 1) * S):
                                    m[n] = (m[n] if c > 0 else zeros[0]) + sums[n - (e * T - e + t) * S]
                        continue
                    if group == first_group or not keeps:
                        transformed_kernel(w, flipped, c, some, k, S, part, half_u, u, at)
                    for e in range(36):
                        patches, weights = View(v, e * T * line + c, (line, 0, 1)), View(u, at + e * some * S, (0, S))
                        out, size = View(m, e * T * S, S), (T, S, 1, some)
                        start = out if c > 0 else View(zeros, 0, 0)
                        matmul(size, patches, weights, start=start, out=out, floor=no_floor)
                for j in range(6):
                    points_to_sums(View(m, j * T * S, 6 * T * S), View(sums, j * T * S, 6 * T * S), T * S)
                for r in range(r0, r1):
                    p0 = r % down * 4
                    for i in range(min(4, P - p0)):
                        row = (r // down * P + p0 + i) * Q
                        for q in range(across):
                            source = View(sums, (i * 6 * T + (r - r0) * across + q) * S, T * S)
                            if 4 * q + 4 <= Q:
                                points_to_outputs(source, View(y, (row + 4 * q) * K + k, K), S, View(b, k, 0), floor)
                                continue
                            points_to_outputs(source, View(outside, 0, S), S, View(b, k, 0), floor)
                            for j in range(Q - 4 * q):
                                to, given = (
                                    memory.piece(y, (row + 4 * q + j) * K + k, S),
                                    memory.piece(outside, j * S, S),
                                )
                                for l in range(S):
                                    to[l] = given[l]


@kernel(parallel=True, matmul=True)
def backward_kernel(x, dy, y, is_relu, before, tasks, dw, db):
    """dw and db, as conv2d_backward: a chunk of images has sums of its own, added in order.

    A thread owns a slice of the channels of a chunk.
    """
    N, H, W, C = x.shape
    _, P, Q, K = dy.shape
    top, left = before
    groups, chunks, slices, channels = tasks
    down, across = -(-P // 4), -(-Q // 4)
    rows, V, R = N * down, 4 * across + 2, 4 * across
    most = -(-rows // groups) * across
    no_floor, one, zeros = x.dtype.type(-np.inf), np.ones(1, x.dtype), np.zeros(max(K, R * K), x.dtype)
    parts, db_of = np.empty((chunks if chunks > 1 else 0, 9 * C * K), x.dtype), np.zeros((chunks, K))
    for task in prange(chunks * slices):
        chunk, piece = task // slices, task % slices
        c0, c1 = piece * C // slices, (piece + 1) * C // slices
        line, line_dz, together = c1 - c0 + width(x), K + width(x), min(channels, c1 - c0)
        padded, half = memory.scratch((6, V, c1 - c0), x), memory.scratch((6 * V * (c1 - c0),), x)
        dz, half_dz = memory.scratch((4, R, K), x), memory.scratch((6 * R * K,), x)
        v, m = memory.scratch((36 * most * line,), x), memory.scratch((36 * most * line_dz,), x)
        du, half_dw = memory.scratch((36 * together * K,), x), memory.scratch((18 * together * K,), x)
        some_sums, biases = memory.scratch((R * K,), x), memory.piece(db_of, chunk * K, K)
        dw_here = memory.piece(parts, chunk * dw.size, dw.size) if chunks > 1 else memory.piece(dw, 0, dw.size)
        first_group = chunk * groups // chunks
        for group in range(first_group, (chunk + 1) * groups // chunks):
            r0, r1 = group * rows // groups, (group + 1) * rows // groups
            T = (r1 - r0) * across
            for r in range(r0, r1):
                n, p, t = r // down, r % down * 4, (r - r0) * across
                channels_with_zeros_around(x[n], p - top, left, c0, padded)
                transformed_patches(padded, t, T, line, half, v)
                with_zeros_around(dy[n], p, 0, dz)
                if is_relu:
                    rectify_rows(dy[n], y[n], p, 0, dz)
                # The bias is a weight whose input is always 1.
                size, ones, start = (1, R * K, 4), View(one, 0, (0, 0)), View(zeros if r == r0 else some_sums, 0, 0)
                matmul(size, ones, View(dz, 0, R * K), start=start, out=View(some_sums, 0, 0), floor=no_floor)
                outputs_to_points(View(dz, 0, R * K), View(half_dz, 0, R * K), R * K)
                for i in range(6):
                    for q in range(across):
                        to = View(m, (i * 6 * T + t + q) * line_dz, T * line_dz)
                        outputs_to_points(View(half_dz, (i * R + 4 * q) * K, K), to, K)
            for q in range(R if piece == 0 and r1 > r0 else 0):
                for k in range(K):
                    biases[k] += some_sums[q * K + k]
            for c in range(c0, c1, together):
                S = min(together, c1 - c)
                size = S * K
                for e in range(36):
                    vt, dm = View(v, e * T * line + c - c0, (1, 0, line)), View(m, e * T * line_dz, (0, line_dz))
                    matmul((S, K, 1, T), vt, dm, start=View(zeros, 0, 0), out=View(du, e * size, K), floor=no_floor)
                points_to_window(View(du, 0, 6 * size), View(half_dw, 0, 6 * size), 6 * size)
                for i in range(3):
                    source, to = View(half_dw, i * 6 * size, size), View(dw_here, (i * 3 * C + c) * K, C * K)
                    if group == first_group:
                        points_to_window(source, to, size)
                    else:
                        add_points_to_window(source, to, size)
    size = dw.size
    for share in prange(16 if chunks > 1 else 0):
        memory.add_parts(parts, dw, share * size // 16, (share + 1) * size // 16)
    memory.sum_of_wide_chunks(db_of, db)


def winograd_forward(x, w, b, before, floor, y):
    """y = max(floor, conv(x, w) + b)."""
    tasks = forward_tasks(len(x), y.shape[1:3], *w.shape[2:], numba.get_num_threads())
    forward_kernel(x, x, False, w, False, b, before, floor, tasks, y)


def winograd_backward(x, w, dy, y, is_relu, before, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx, as conv2d_backward."""
    (N, P, Q, _), (C, K), threads = y.shape, w.shape[2:], numba.get_num_threads()
    if N * -(-P // 4) * -(-Q // 4) <= FEW_FOR_DW:
        conv2d_backward(x, w, dy, y, is_relu, (1, 1), before, False, dw, db, dx)
    else:
        backward_kernel(x, dy, y, is_relu, before, backward_tasks(N, (P, Q), C, K, threads), dw, db)
    if input_grad:
        before, zeros, no_floor = (2 - before[0], 2 - before[1]), np.zeros(C, w.dtype), w.dtype.type(-np.inf)
        tasks = forward_tasks(len(x), x.shape[1:3], K, C, threads)
        forward_kernel(dy, y, is_relu, w, True, zeros, before, no_floor, tasks, dx)
