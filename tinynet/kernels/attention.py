"""Attention's fast kernels: a task is a head of a sample, and its logits are a few products of matrices.

q, k and v are read where they lie, as columns of z (N, S, 3 C), the product that made them; dz is written there, too.
The logits of some queries at a time are kept transposed, a row for each key,

    st[j,t] = sum_c k[j,c] q[t,c]        (keys, W), with W queries as columns, whole vectors of them

so that a row is W queries side by side: their maxima and their sums run down the rows, lane by lane, and none is made
across a vector.  Of the five products of the backward pass only two then want a factor transposed, q.T and do.T (d, W),
which are small.  W is such that st stays in the cache; where each query sees only the keys before it, W is smaller,
since keys behind the last of the W queries are left out.

Rows of z lie 3 C numbers apart.  Where a head's keys thus span more than the L2 cache, and are read more than once,
its k and v are copied to lie side by side first, and dk and dv are summed in such arrays before they go to dz: with
C = 256, 1,024 keys of 64 numbers take 0.92 of the time, with AVX2 0.90 (one thread of an AMD EPYC, Zen 5).

Of the shares p only two numbers a query are kept, the greatest logit and the sum of the exponentials; the backward
pass makes the same p of them.  (One number, their logarithm, would have too few digits where logits are large: at 10^4
its last one in float32 is 0.001.)

A head's sums run over its own sequence alone, cut by its own length: so its bits depend neither on the other samples
nor on the number of threads.
"""

import math

import numpy as np
from numba import prange

from tinynet.kernels import floats, memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import helper, kernel, sized_kernel
from tinynet.kernels.dropout import scramble, scramble_plain
from tinynet.kernels.matmul import THREADS_FROM, View, matmul
from tinynet.kernels.transpose import transpose
from tinynet.kernels.vectors import load, maximum, splat, store
from tinynet.kernels.vectors import width as lanes

L2 = cache_size(2)
TOGETHER = 64  # exponentials that are added one by one; then come the sums of so many


# --- dropout of the weights -----------------------------------------------------------------------------------------


NO_DROPS = 0, 0, 0, 0, 1.0  # what the kernels take as `drops` where there is no dropout


def keys_within_plain(i, key0, key1):
    """The pair of keys of part number i, a head or a query, of what has this pair (see dropout.py)."""
    return scramble_plain(i ^ key0, key1), scramble_plain(i ^ key1, key0)


@helper
def keys_within(i, key0, key1):
    return scramble(i ^ key0, key1), scramble(i ^ key1, key0)


def dropout_factors(shape, positions, drops):
    """keep (N, heads, T, S) for the plain loops: 0 where a weight is dropped, else 1 / (1 - rate).

    positions (N,): where in its sequence a sample's first query stands; its random numbers follow from that.
    """
    (key0, key1, first, limit, factor), (N, heads, T, S) = drops, shape
    n, h, t, j = np.ogrid[:N, :heads, :T, :S]
    of_head = keys_within_plain((first + n) * heads + h, key0, key1)
    of_query = keys_within_plain(positions[:, None, None, None] + t, *of_head)
    return np.where(scramble_plain(j ^ of_query[0], of_query[1]) < limit, 0, factor)


@kernel()
def drop(weights, keys, rows, W, pairs, limit, factor):
    """Set to 0 what is dropped of weights (keys, W), multiply the others; a query's pair of keys is pairs[:,t]."""
    zero = weights.dtype.type(0)
    key0, key1 = memory.piece(pairs, 0, rows), memory.piece(pairs, W, rows)
    for j in range(keys):
        row = memory.piece(weights, j * W, rows)
        for t in range(rows):
            row[t] = zero if scramble(j ^ key0[t], key1[t]) < limit else row[t] * factor


# --- some queries and their keys ------------------------------------------------------------------------------------


@helper
def queries_at_once(queries, keys, causal, lanes, itemsize):
    """W: nearly equal parts of the queries, in whole vectors, whose logits take at most an eighth of the L2 cache.

    At most eight vectors.  Where they see only what is before them, two: fewer logits are made for nothing, and
    matmul's sum over the keys, which is cut every so many terms, is cut alike for a query in a longer sequence.
    """
    vectors = (queries + lanes - 1) // lanes
    most = max(1, min(2 if causal else 8, L2 // 8 // (keys * lanes * itemsize)))
    parts = (vectors + most - 1) // most
    return (vectors + parts - 1) // parts * lanes


@kernel()
def transposed_rows(source, first, step, rows, columns, W, result):
    """result (columns, W) = the transpose of `rows` rows of source, with zeros behind them."""
    transpose(source, first, step, result, 0, W, rows, columns)
    for c in range(columns):
        for t in range(rows, W):
            result[c * W + t] = 0


@kernel()
def copy_rows(source, first, step, rows, columns, result, to, result_step):
    """`rows` rows of so many columns of source into result, from flat index `to` on."""
    for i in range(rows):
        given = memory.piece(source, first + i * step, columns)
        row = memory.piece(result, to + i * result_step, columns)
        for c in range(columns):
            row[c] = given[c]


@helper
def keys_and_values(z, k, v, step, keys, d, again):
    """(ks, vs, apart): arrays that begin with a head's keys and values, and the step between their rows.

    They are copies where those of z are far apart and will be read again.
    """
    if not again or keys * step * z.itemsize <= L2:
        return memory.piece(z, k, z.size - k), memory.piece(z, v, z.size - v), step
    ks, vs = memory.scratch((keys * d,), z), memory.scratch((keys * d,), z)
    copy_rows(z, k, step, keys, d, ks, 0, d)
    copy_rows(z, v, step, keys, d, vs, 0, d)
    return ks, vs, d


@kernel()
def rows_times(source, first, step, rows, right, columns, W, zeros, result):
    """result (rows, W) = `rows` rows of source times right (columns, W)."""
    no_floor, start = right.dtype.type(-np.inf), View(zeros, 0, 0)
    a, b = View(source, first, (step, 1)), View(right, 0, W)
    matmul((rows, W, columns), a, b, start=start, out=View(result, 0, W), floor=no_floor)


@kernel()
def hide_later(st, first, keys, W):
    """Logits of -inf where the key stands behind the query; that of column 0 is at position `first`."""
    closed = st.dtype.type(-np.inf)
    for j in range(first + 1, keys):
        row = memory.piece(st, j * W, min(W, j - first))
        for t in range(row.size):
            row[t] = closed


@kernel()
def exponentials(st, keys, W, scale, top, total):
    """st = exp(scale (st - top)), where top (W,) are the greatest of each column, and total (W,) the sums."""
    LANES = lanes(st)
    for t in range(0, W, LANES):
        m0 = m1 = m2 = m3 = splat(st, -np.inf)
        for at in range(t, t + (keys - 3) * W, 4 * W):  # four independent chains, to hide the latency of one
            m0, m1 = maximum(load(st, at), m0), maximum(load(st, at + W), m1)
            m2, m3 = maximum(load(st, at + 2 * W), m2), maximum(load(st, at + 3 * W), m3)
        for j in range(keys - keys % 4, keys):
            m0 = maximum(load(st, j * W + t), m0)
        m = maximum(maximum(m0, m1), maximum(m2, m3))
        sums = splat(st, 0)
        for j0 in range(0, keys, TOGETHER):
            some = splat(st, 0)
            for j in range(j0, min(j0 + TOGETHER, keys)):
                e = floats.exp((load(st, j * W + t) - m) * scale)
                store(e, st, j * W + t)
                some = some + e
            sums = sums + some
        store(m, top, t)
        store(sums, total, t)


@kernel()
def weights_and_gradients(st, dpt, keys, W, scale, top, share, dots):
    """st = p of the logits in st, and dpt = scale p (dp - dots), the logits' gradients, of the dp in dpt."""
    LANES = lanes(st)
    for t in range(0, W, LANES):
        m, r, D = load(top, t), load(share, t), load(dots, t)
        for at in range(t, t + keys * W, W):
            p = floats.exp((load(st, at) - m) * scale) * r
            store(p, st, at)
            store(p * (load(dpt, at) - D) * scale, dpt, at)


@kernel(fast=True)
def dot(a, b):
    s = a.dtype.type(0)
    for c in range(a.size):
        s += a[c] * b[c]
    return s


@kernel()
def fill(a, first, step, rows, columns):
    """Zeros in `rows` rows of so many columns."""
    for i in range(rows):
        row = memory.piece(a, first + i * step, columns)
        for c in range(columns):
            row[c] = 0


@kernel()
def all_finite(a, first, step, rows, columns):
    """Whether `rows` rows of so many columns hold neither NaN nor infinities."""
    for i in range(rows):
        row = memory.piece(a, first + i * step, columns)
        for c in range(columns):
            if not math.isfinite(row[c]):
                return False
    return True


# --- a head ---------------------------------------------------------------------------------------------------------


@kernel()
def draw_keys(first, rows, head, drops, keys):
    """The pairs of keys of the queries at positions `first` on, of a head, into keys (2, W)."""
    key0, key1 = keys_within(head, drops[0], drops[1])
    for t in range(rows):
        keys[0, t], keys[1, t] = keys_within(first + t, key0, key1)


@kernel()
def head_forward(z, n, h, causal, first, count, drops, o, top, total):
    """o, and top and total, of `count` queries from position `first` on: of head h of sample n."""
    S, (_, T, heads, d) = z.shape[1], o.shape
    C, step, keys, one = heads * d, 3 * heads * d, first + count, z.dtype.type(1)
    scale, no_floor = z.dtype.type(1 / math.sqrt(d)), z.dtype.type(-np.inf)
    k, to = n * S * step + C + h * d, n * T * C + h * d
    q, v = k - C + first * step, k + C
    fill(o, to + count * C, C, T - count, d)
    if count == 0:
        return
    W = queries_at_once(count, keys, causal, lanes(z), z.itemsize)
    qt, st, zeros = memory.scratch((d * W,), z), memory.scratch((keys * W,), z), memory.scratch((max(W, d),), z)
    tops, totals = memory.scratch((W,), z), memory.scratch((W,), z)
    pairs = np.empty((2, W if drops[3] else 0), np.int64)
    fill(zeros, 0, 0, 1, zeros.size)
    ks, vs, apart = keys_and_values(z, k, v, step, keys, d, count > W)
    t = 0
    while t < count:
        rows = min(W - (first + t) % W, count - t)  # positions between two multiples of W
        seen = first + t + rows if causal else keys
        transposed_rows(z, q + t * step, step, rows, d, W, qt)
        rows_times(ks, 0, apart, seen, qt, d, W, zeros, st)
        if causal:
            hide_later(st, first + t, seen, W)
        exponentials(st, seen, W, scale, tops, totals)
        if drops[3]:
            draw_keys(first + t, rows, (drops[2] + n) * heads + h, drops, pairs)
            drop(st, seen, rows, W, pairs, drops[3], z.dtype.type(drops[4]))
        weights, values, start = View(st, 0, (1, W)), View(vs, 0, apart), View(zeros, 0, 0)
        matmul((rows, d, seen), weights, values, start=start, out=View(o, to + t * C, C), floor=no_floor)
        if causal and not all_finite(vs, (first + t) * apart, apart, rows, d):
            for i in range(rows):  # a weight of 0 times NaN is NaN: so what is later is left out
                size, weights = (1, d, first + t + i + 1), View(st, i, (1, W))
                matmul(size, weights, values, start=start, out=View(o, to + (t + i) * C, C), floor=no_floor)
        for i in range(rows):
            row, share = memory.piece(o, to + (t + i) * C, d), one / totals[i]
            for c in range(d):
                row[c] *= share
            top[n, h, t + i], total[n, h, t + i] = tops[i], totals[i]
        t += rows


@kernel()
def head_backward(do, z, n, h, causal, first, count, drops, o, top, total, dz):
    """The columns of head h in dz, of sample n.  The last queries come first, which in any case see every key."""
    S, (_, T, heads, d) = z.shape[1], o.shape
    C, step, keys, zero, one = heads * d, 3 * heads * d, first + count, z.dtype.type(0), z.dtype.type(1)
    scale, no_floor = z.dtype.type(1 / math.sqrt(d)), z.dtype.type(-np.inf)
    k, to = n * S * step + C + h * d, n * T * C + h * d
    q, v = k - C + first * step, k + C
    fill(dz, k - C, step, first, d)
    for columns in range(k - C, k + 2 * C, C):
        fill(dz, columns + keys * step, step, S - keys, d)
    if count == 0:
        fill(dz, k, step, keys, d)
        fill(dz, v, step, keys, d)
        return
    W = queries_at_once(count, keys, causal, lanes(z), 2 * z.itemsize)
    qt, dot_t, zeros = memory.scratch((d * W,), z), memory.scratch((d * W,), z), memory.scratch((max(W, d),), z)
    st, dpt = memory.scratch((keys * W,), z), memory.scratch((keys * W,), z)
    tops, shares, dots = memory.scratch((W,), z), memory.scratch((W,), z), memory.scratch((W,), z)
    pairs, flat = np.empty((2, W if drops[3] else 0), np.int64), memory.piece(dz, 0, dz.size)
    fill(zeros, 0, 0, 1, zeros.size)
    ks, vs, apart = keys_and_values(z, k, v, step, keys, d, count > W)
    dk, dv = memory.piece(dz, k, dz.size - k), memory.piece(dz, v, dz.size - v)
    if apart < step:
        dk, dv = memory.scratch((keys * d,), z), memory.scratch((keys * d,), z)
    for t in range((count - 1) // W * W, -1, -W):
        rows = min(W, count - t)
        seen = first + t + rows if causal else keys
        for i in range(W):
            tops[i], shares[i], dots[i] = zero, zero, zero
        for i in range(rows):
            tops[i], shares[i] = top[n, h, t + i], one / total[n, h, t + i]
            at = to + (t + i) * C
            dots[i] = dot(memory.piece(do, at, d), memory.piece(o, at, d))
        transposed_rows(z, q + t * step, step, rows, d, W, qt)
        transposed_rows(do, to + t * C, C, rows, d, W, dot_t)
        rows_times(ks, 0, apart, seen, qt, d, W, zeros, st)
        rows_times(vs, 0, apart, seen, dot_t, d, W, zeros, dpt)
        if causal:
            hide_later(st, first + t, seen, W)
        if drops[3]:
            draw_keys(first + t, rows, (drops[2] + n) * heads + h, drops, pairs)
            drop(dpt, seen, rows, W, pairs, drops[3], z.dtype.type(drops[4]))
        weights_and_gradients(st, dpt, seen, W, scale, tops, shares, dots)
        if drops[3]:
            drop(st, seen, rows, W, pairs, drops[3], z.dtype.type(drops[4]))
        last, size, dq, no_start = t + W >= count, (seen, d, rows), View(flat, q + t * step, step), View(zeros, 0, 0)
        start = no_start if last else View(dv, 0, apart)
        matmul(size, View(st, 0, (W, 1)), View(do, to + t * C, C), start=start, out=View(dv, 0, apart), floor=no_floor)
        start = no_start if last else View(dk, 0, apart)
        queries, weights = View(z, q + t * step, step), View(dpt, 0, (1, W))
        matmul(size, View(dpt, 0, (W, 1)), queries, start=start, out=View(dk, 0, apart), floor=no_floor)
        matmul((rows, d, seen), weights, View(ks, 0, apart), start=no_start, out=dq, floor=no_floor)
    if apart < step:
        copy_rows(dk, 0, d, keys, d, flat, k, step)
        copy_rows(dv, 0, d, keys, d, flat, v, step)


# --- all heads ------------------------------------------------------------------------------------------------------


@sized_kernel(THREADS_FROM, of=lambda z, *_: z.shape[1] * z.size, matmul=True)
def attention_forward(z, T, causal, first, lengths, drops, o, top, total):
    """o (N, T, heads, d) of z (N, S, 3, heads, d); top and total (N, heads, T) are m and s.

    first, lengths   (N,): a sample's queries are in rows first to first + length of z, its keys before that end
    drops            (key0, key1, number of the first sample in its batch, limit, factor); limit 0: no dropout

    A thread owns a head of a sample: its columns.
    """
    heads = z.shape[3]
    for task in prange(z.shape[0] * heads):
        n, h = task // heads, task % heads
        head_forward(z, n, h, causal, first[n], lengths[n], drops, o, top, total)


@sized_kernel(THREADS_FROM, of=lambda do, z, *_: z.shape[1] * z.size, matmul=True)
def attention_backward(do, z, causal, first, lengths, drops, o, top, total, dz):
    """dz like z, of do like o and of what forward returned."""
    heads = z.shape[3]
    for task in prange(z.shape[0] * heads):
        n, h = task // heads, task % heads
        head_backward(do, z, n, h, causal, first[n], lengths[n], drops, o, top, total, dz)
