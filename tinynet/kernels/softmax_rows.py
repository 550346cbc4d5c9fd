"""Rows of logits, their losses and their gradients: the kernels of softmax cross-entropy (softmax_cross_entropy.py).

    m = max_k z[n,k]    r = sum of exp(z[n,k] - m) but for the maximum's own    L[n] = a (m - z[n,t]) + a log1p(r)

How a row is passed over.  Its logits come from memory once, in blocks that stay in the L1 cache: the maximum of the
block, then its exponentials against the highest maximum so far (Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax").  They are written where the gradient goes, but for the last block's, which stay in the L1
cache, and while all are still in the L2 cache, each block is multiplied by exp(its maximum - m) / s.  Rows of labels
that are a single block have a loop of their own, and those of few classes are done in softmax_few_classes.py.
"""

import numpy as np

from tinynet.kernels import floats, memory
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.softmax_few_classes import FEW, few_classes, few_soft_classes
from tinynet.kernels.vectors import (
    SEVERAL,
    greatest,
    load,
    load4,
    load_several,
    load_some,
    maximum,
    select,
    splat,
    splat4,
    splat_several,
    store,
    store_some,
    sum_of,
    width,
    will_read,
    will_write,
)

LINE = 64  # bytes of a cache line
BLOCK = 1024  # logits of a row at a time; 256 and 4096 were 5 and 3 % slower on rows of 50,257
AHEAD = 1024  # numbers: how far ahead memory is fetched to be written; to be read, twice as far


@kernel()
def weighted(a, x):
    """a x, where a term of factor 0 is 0 even if x is infinite."""
    return 0.0 if a == 0.0 and x == np.inf else a * x


# --- one row, block by block --------------------------------------------------------------------------------


@kernel()
def row_maximum(z):
    """The maximum of z (C,), NaN aside: that shows in the sum anyway."""
    W, four = width(z), 4 * width(z)
    whole = z.size - z.size % four
    m0 = m1 = m2 = m3 = splat(z, -np.inf)
    for c in range(0, whole, four):  # four independent chains, to hide the latency of one
        m0, m1 = maximum(load(z, c), m0), maximum(load(z, c + W), m1)
        m2, m3 = maximum(load(z, c + 2 * W), m2), maximum(load(z, c + 3 * W), m3)
    for c in range(whole, z.size, W):
        m0 = maximum(load_some(z, c, z.size - c, -np.inf), m0)
    return greatest(maximum(maximum(m0, m1), maximum(m2, m3)))


@kernel()
def exponentials(z, m, e, g):
    """e = exp(z - m), which may be z itself; returns their sum in two parts, of which the second is a whole number.

    The first is the sum of those below 1 where all sum to less than 2; else no digit is lost by subtracting 1.
    g is where the gradient will go: its memory is fetched ahead, and the logits behind z.  A row may be a page, where
    the hardware's own prefetching stops: (4096, 1000) takes 430 microseconds so, and 720 otherwise.
    """
    C, W = z.size, width(z)
    whole = C - C % (4 * W)
    four, sums = splat4(z, 0), splat(z, 0)
    for c in range(0, whole, 4 * W):
        for ahead in range(c, c + 4 * W, W):
            will_read(z, ahead + 2 * AHEAD)
            will_write(g, ahead + AHEAD)
        x = floats.exp(load4(z, c) - m)
        store(x, e, c)
        four = four + x
    for c in range(whole, C - C % W, W):
        x = floats.exp(load(z, c) - m)
        store(x, e, c)
        sums = sums + x
    for c in range(C - C % W, C, W):
        x = floats.exp(load_some(z, c, C - c, -np.inf) - m)
        store_some(x, e, c, C - c)
        sums = sums + x
    return below_and_ties(sum_of(four) + sum_of(sums), e)


@kernel()
def below_and_ties(s, e):
    """A sum s of exponentials e, in the two parts that `exponentials` returns."""
    one = e.dtype.type(1)
    if not s < e.dtype.type(2):
        return s - one, one
    sums = splat(e, 0)
    for c in range(0, e.size, width(e)):
        x = load_some(e, c, e.size - c, 0)
        sums = sums + select(x < one, x, e.dtype.type(0))
    below = sum_of(sums)
    return below, one if s - below > e.dtype.type(0.5) else e.dtype.type(0)


@kernel()
def exponentials_and_terms(z, w, q, m, e, g):
    """As `exponentials`, and sum_c a and sum_c a (m - z), for a = w q, or a = w where q is empty.

    The last is not finite where a class is masked: then the caller asks target_terms or smoothing_terms.
    """
    C, W = z.size, width(z)
    whole = C - C % (SEVERAL * W)
    many_sums = many_ones = many_losses = splat_several(z, 0)
    sums = ones = losses = splat(z, 0)
    for c in range(0, whole, SEVERAL * W):
        for ahead in range(c, c + SEVERAL * W, LINE // z.itemsize):
            will_read(z, ahead + 2 * AHEAD)
            will_write(g, ahead + AHEAD)
        below, a = load_several(z, c) - m, load_several(w, c)
        if q.size:
            a = a * load_several(q, c)
        x = floats.exp(below)
        store(x, e, c)
        many_sums, many_ones, many_losses = many_sums + x, many_ones + a, many_losses - a * below
    for c in range(whole, C, W):
        below, a = load_some(z, c, C - c, m) - m, load_some(w, c, C - c, 0)
        if q.size:
            a = a * load_some(q, c, C - c, 0)
        x = floats.exp(load_some(z, c, C - c, -np.inf) - m)
        store_some(x, e, c, C - c)
        sums, ones, losses = sums + x, ones + a, losses - a * below
    more_below, more_ties = below_and_ties(sum_of(many_sums) + sum_of(sums), e)
    return more_below, more_ties, sum_of(many_ones) + sum_of(ones), sum_of(many_losses) + sum_of(losses)


@kernel()
def target_terms(z, q, w, m):
    """sum_c a and sum_c a (m - z), for a = w q; where a is 0 the term is, even at z = -inf."""
    C, W = z.size, width(z)
    whole = C - C % (SEVERAL * W)
    many_ones, many_losses, ones, losses = splat_several(z, 0), splat_several(z, 0), splat(z, 0), splat(z, 0)
    for c in range(0, whole, SEVERAL * W):
        a = load_several(w, c) * load_several(q, c)
        many_ones, many_losses = many_ones + a, many_losses + select(a == 0, 0, a * (m - load_several(z, c)))
    for c in range(whole, C, W):
        a = load_some(w, c, C - c, 0) * load_some(q, c, C - c, 0)
        ones, losses = ones + a, losses + select(a == 0, 0, a * (m - load_some(z, c, C - c, 0)))
    return sum_of(many_ones) + sum_of(ones), sum_of(many_losses) + sum_of(losses)


@kernel()
def smoothing_terms(z, w, m, e):
    """How many classes are not masked, and over those sum_c w and sum_c w (m - z).  Masked ones get e = -1."""
    C, W, masked = z.size, width(z), z.dtype.type(-np.inf)
    many_ones = many_totals = many_losses = splat_several(z, 0)
    ones = totals = losses = splat(z, 0)
    whole = C - C % (SEVERAL * W)
    for c in range(0, whole, SEVERAL * W):
        x = load_several(z, c)
        closed, a = x == masked, load_several(w, c)
        store(select(closed, -1, load_several(e, c)), e, c)
        many_ones, many_totals = many_ones + select(closed, 0, splat_several(z, 1)), many_totals + select(closed, 0, a)
        many_losses = many_losses + select(closed, 0, a * (m - x))
    for c in range(whole, C, W):
        x = load_some(z, c, C - c, masked)
        closed, a = x == masked, load_some(w, c, C - c, 0)
        store_some(select(closed, -1, load_some(e, c, C - c, 0)), e, c, C - c)
        ones, totals = ones + select(closed, 0, splat(z, 1)), totals + select(closed, 0, a)
        losses = losses + select(closed, 0, a * (m - x))
    return sum_of(many_ones) + sum_of(ones), sum_of(many_totals) + sum_of(totals), sum_of(many_losses) + sum_of(losses)


@helper
def pass_over_row(z, q, w, smooth, e, block, tail, highest):
    """One pass over a row z (C,) with soft targets q (C,), or none; returns m, r and the sums of the two `_terms`.

    The exponentials of all blocks but the last go into e, unless e is empty, and of the last into `tail`.
    highest[k] is the maximum that block k was held against.  Sums are in float64 across blocks.  A helper, as is
    row_gradient, since passing a dozen arrays through calls took a third of the time at 33 classes.
    """
    C, zero, masked = z.size, z.dtype.type(0), z.dtype.type(-np.inf)
    top = masked
    below = ties = count = spread = spread_loss = share = share_loss = 0.0
    for k in range((C + BLOCK - 1) // BLOCK):
        start, size = k * BLOCK, min(BLOCK, C - k * BLOCK)
        logits = memory.piece(z, start, size)
        new = row_maximum(logits)
        if new > top:
            rise = np.float64(new) - (np.float64(top) if top != masked else 0.0)
            spread_loss += rise * spread
            share_loss += rise * share
            below, ties = (below + ties) * np.float64(floats.exp(top - new)), 0.0
            top = new
        highest[k] = top
        m = top if top != masked else zero  # -inf - -inf is NaN
        in_tail = start + size == C or e.size == 0
        target = memory.piece(tail, 0, size) if in_tail else memory.piece(e, start, size)
        ahead = memory.piece(e, start, 0) if e.size else memory.piece(tail, 0, 0)
        if smooth or q.size:
            weights, qs = memory.piece(w, start, size), memory.piece(q, start, size if q.size else 0)
            for c in range(0 if in_tail else size):  # the exponentials may go where the logits are
                block[c] = logits[c]
            given = logits if in_tail else memory.piece(block, 0, size)
            of = memory.piece(q, start, 0) if smooth else qs
            more_below, more_ties, total, loss = exponentials_and_terms(logits, weights, of, m, target, ahead)
            if smooth:
                n = size
                if not loss < np.inf:
                    n, total, loss = smoothing_terms(given, weights, m, target)
                count += n
                spread += total
                spread_loss += loss
            if q.size:
                if smooth or not loss < np.inf:
                    total, loss = target_terms(given, qs, weights, m)
                share += total
                share_loss += loss
        else:
            more_below, more_ties = exponentials(logits, m, target, ahead)
        below += more_below
        ties += more_ties
    return top, below + (ties - 1.0), share, share_loss, count, spread, spread_loss


@kernel()
def multiply(e, factor, g):
    """g = factor e, which may be e itself."""
    C, W = e.size, width(e)
    whole = C - C % W
    for c in range(0, whole, W):
        store(load(e, c) * factor, g, c)
    for c in range(whole, C, W):
        store_some(load_some(e, c, C - c, 0) * factor, g, c, C - c)


@kernel()
def multiply_less_smoothing(e, factor, b, w, g):
    """g = factor e - b w, and 0 where e = -1 marks a masked class; e may be g itself."""
    C, W = e.size, width(e)
    whole = C - C % W
    for c in range(0, whole, W):
        x = load(e, c)
        store(select(x < 0, 0, x * factor - load(w, c) * b), g, c)
    for c in range(whole, C, W):
        x = load_some(e, c, C - c, 0)
        store_some(select(x < 0, 0, x * factor - load_some(w, c, C - c, 0) * b), g, c, C - c)


@kernel()
def multiply_less_targets(e, factor, b, w, q, g):
    """g = factor e - b w q; e may be g itself."""
    C, W = e.size, width(e)
    whole = C - C % W
    for c in range(0, whole, W):
        store(load(e, c) * factor - load(w, c) * load(q, c) * b, g, c)
    for c in range(whole, C, W):
        some, a = load_some(e, c, C - c, 0), load_some(w, c, C - c, 0) * load_some(q, c, C - c, 0)
        store_some(some * factor - a * b, g, c, C - c)


@helper
def row_gradient(m, factor, q, w, smooth, keep, soft, tail, highest, g):
    """dz = factor exp(z - m) - keep w q - soft w, from the exponentials that pass_over_row left in g and `tail`."""
    C = g.size
    for k in range((C + BLOCK - 1) // BLOCK):
        start, size = k * BLOCK, min(BLOCK, C - k * BLOCK)
        scaled = g.dtype.type(factor)
        if highest[k] != m:
            scaled = g.dtype.type(factor * np.float64(floats.exp(highest[k] - m)))
        dz, wk = memory.piece(g, start, size), memory.piece(w, start, size if w.size else 0)
        e = memory.piece(tail, 0, size) if start + size == C else dz
        if smooth:
            multiply_less_smoothing(e, scaled, g.dtype.type(soft), wk, dz)
            e, scaled = dz, g.dtype.type(1)
        if q.size:
            multiply_less_targets(e, scaled, g.dtype.type(keep), wk, memory.piece(q, start, size), dz)
        elif not smooth:
            multiply(e, scaled, dz)


# --- rows of a batch ------------------------------------------------------------------------------------------


@kernel()
def labelled_rows(z, t, w, ignore_index, scale, losses, g, first, last):
    """softmax_rows for labels, where a row is a single block.

    The next row's maximum is sought meanwhile, which hides the latency of this row's sum, logarithm and division:
    (4096, 1000) takes 430 microseconds so, and 490 otherwise.
    """
    C = z.shape[1]
    e, zero = memory.scratch((C,), z), z.dtype.type(0)
    total, following = 0.0, zero
    if first < last:
        following = row_maximum(memory.piece(z, first * C, C))
    for i in range(first, last):
        zi, dz = memory.piece(z, i * C, C), memory.piece(g, i * C, C if g.size else 0)
        counts, m = t[i] != ignore_index, following
        below = ties = zt = zero
        if counts:
            zt = zi[t[i]]
            below, ties = exponentials(zi, m if m > -np.inf else zero, e, dz if g.size else e)  # -inf - -inf is NaN
        if i + 1 < last:
            following = row_maximum(memory.piece(z, (i + 1) * C, C))
        loss = 0.0
        if counts:
            share, r = np.float64(w[t[i]]) if w.size else 1.0, np.float64(below) + (np.float64(ties) - 1.0)
            loss = weighted(share, np.float64(m) - np.float64(zt)) + share * np.float64(floats.log1p(z.dtype.type(r)))
            if dz.size:
                multiply(e, z.dtype.type(share * scale / (1.0 + r)), dz)
                own = np.float64(floats.exp(zt - m))
                dz[t[i]] = share * scale * (((own - 1.0) - r) / (1.0 + r))
                if m == -np.inf or r != r:  # no distribution to take a gradient of: all are masked, or one is NaN
                    for c in range(C):
                        dz[c] = np.nan
        else:
            for c in range(dz.size):
                dz[c] = 0
        total += loss
        if losses.size:
            losses[i] = loss
    return total


@kernel()
def softmax_rows(z, t, q, w, ignore_index, epsilon, scale, losses, g, first, last):
    """Rows `first` to `last` of logits z (N, C), with labels t (N,) or else soft targets q (N, C): their losses' sum.

    Each row's loss goes into losses (N,) and the gradient of scale times the sum into g (N, C), which may be z; either
    may be empty.  w (C,) may be empty for labels where epsilon is 0.  To be called from other losses' kernels.
    """
    if z.shape[1] > FEW:
        return many_classes(z, t, q, w, ignore_index, epsilon, scale, losses, g, first, last)
    if q.size == 0 and epsilon == 0.0:
        return few_classes(z, t, w, ignore_index, scale, losses, g, first, last)
    _, total = few_soft_classes(z, t, q, w, ignore_index, epsilon, False, scale, False, losses, g, first, last)
    return total


@kernel()
def rows_of_labels(z, t, w, ignore_index, scale, losses, g, first, last):
    """softmax_rows for labels alone, where the kernel for few soft targets need not be compiled."""
    if z.shape[1] > FEW:
        return many_classes(z, t, z[:0], w, ignore_index, 0.0, scale, losses, g, first, last)
    return few_classes(z, t, w, ignore_index, scale, losses, g, first, last)


@kernel()
def many_classes(z, t, q, w, ignore_index, epsilon, scale, losses, g, first, last):
    """softmax_rows for more classes than FEW, one row after the other."""
    C = z.shape[1]
    if C <= BLOCK and q.size == 0 and epsilon == 0.0:
        return labelled_rows(z, t, w, ignore_index, scale, losses, g, first, last)
    block, tail, highest = (
        memory.scratch((BLOCK,), z),
        memory.scratch((BLOCK,), z),
        memory.scratch((-(-C // BLOCK),), z),
    )
    labels, smooth, keep = q.size == 0, epsilon > 0.0, 1.0 - epsilon
    total = 0.0
    for i in range(first, last):
        zi, qi = memory.piece(z, i * C, C), memory.piece(q, i * C, 0 if labels else C)
        dz = memory.piece(g, i * C, C if g.size else 0)
        loss = 0.0
        if labels and t[i] == ignore_index:
            for c in range(dz.size):
                dz[c] = 0
        else:
            zt = zi[t[i]] if labels else zi[0]
            m, r, share, share_loss, count, spread, spread_loss = pass_over_row(
                zi, qi, w, smooth, dz, block, tail, highest
            )
            s, soft = 1.0 + r, epsilon / count if smooth else 0.0
            log_s = np.float64(floats.log1p(z.dtype.type(r)))
            if labels:
                share = np.float64(w[t[i]]) if w.size else 1.0
                share_loss = weighted(share, np.float64(m) - np.float64(zt))
            loss = weighted(keep, share_loss + share * log_s) + soft * (spread_loss + spread * log_s)
            if g.size:
                A = (keep * share + soft * spread) * scale
                row_gradient(m, A / s, qi, w, smooth, keep * scale, soft * scale, tail, highest, dz)
                if labels:
                    e = np.float64(floats.exp(zt - m))
                    own = soft * (spread * e / s - (share if zt > -np.inf else 0.0))
                    dz[t[i]] = scale * (keep * share * (((e - 1.0) - r) / s) + own)
                if C == 1:  # p = 1: 0, however the target is rounded, or NaN
                    dz[0] = r
                if m == -np.inf or r != r:  # no distribution to take a gradient of: all are masked, or one is NaN
                    for c in range(C):
                        dz[c] = np.nan
        total += loss
        if losses.size:
            losses[i] = loss
    return total
