"""packed: a large product of matrices, on copies of its factors that lie in the order in which they are read.

    out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n])

The product of tile.py reads both factors where they are.  That is fast while everything lies well in the L1 cache.  But
each row of a large b is another page of memory, and rows whose distance is a power of two fall into the same few sets
of the cache: 1024 x 1024 x 1024 ran at a third of the speed.  So here (Goto and van de Geijn 2008)

    a block of a     is copied into slivers, of as many rows as the tile in registers has; all stay in the L2 cache
    a panel of b     is copied, as many columns as the tile has, and multiplied with each sliver of the block; or, where
                     `out` is far away, each sliver with some panels, so that rows of `out` are written in order
    a tile           reads one number of each row of its sliver and one row of its panel, then the next: all in order

Slivers and panels are whole also at the edges; what is not in `out` is not stored.  packed_tile.py has the tile, and
says how the first one that needs a sliver or a panel also copies it.  Where tiles are low (AVX2), packed_blocks.py
copies more at a time.

Where the rows of a lie as the tile reads them, number after number, copying a buys nothing: then panels of b alone are
copied, and tile.py's product reads a where it is.  The forward pass of 768 samples, 128 inputs and 512 outputs goes at
172 GFLOP/s so, instead of 146 packed (one thread of an Intel Xeon, Emerald Rapids, with a peak of 195).

A factor is given by the places of its lines (a's rows, b's columns) and of its terms:

    a[m,k] = a.flat[rows[m] + terms[k]]

Those of a matrix have steps.  Those of an image's windows have none, yet are such sums too: with the corners of the
windows as rows and the numbers of a window as terms, a convolution is a product, without a matrix of windows (im2col).

Sums are cut as tile.LongSums cuts them, by K alone: the bits are those of the other product, for any block or panel.
"""

import numpy as np

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.packed_tile import (
    BYTES,
    PITCH,
    ROWS,
    SHORT,
    VECTORS,
    multiply,
    multiply_copying_a,
    multiply_copying_b,
    tiles,
)
from tinynet.kernels.tile import BLOCK, GROUP, HIGHEST, TALLEST, WHOLE
from tinynet.kernels.vectors import (
    load,
    load2,
    load_rows_at,
    load_some,
    select,
    store,
    store_rows,
    store_some,
    transposed,
    width,
    will_read,
    will_write,
)

L1, L2 = cache_size(1), cache_size(2)
LINE, SETS = 64, 64  # a cache line's bytes, and into how many sets the L1 cache is divided
WAYS = L1 // (LINE * SETS)  # lines in a set
# Terms ahead of the one that is copied for which memory is asked: the way from the L3 cache takes as long as some 16.
AHEAD = 16
PIECE = 512  # columns of b at a time where the product is turned: their sums stay in the L2 cache beside a panel
COLUMNS = 512  # of b at a time: a block's unfinished sums then take a third of the L2 cache, as its slivers do


# --- copies ---------------------------------------------------------------------------------------------------


@helper
def in_a_row(places, first, count):
    """Whether `count` places from number `first` on are neighbours."""
    apart = 0
    for n in range(1, count):
        apart |= places[first + n] - places[first] - n
    return apart == 0


@helper
def together(C):
    """How many panels of C columns are copied side by side: some cache lines of each row of source."""
    return max(1, min(8, 128 // C))


@kernel()
def copy_panels(source, column, count, terms, term, K, C, packed, p, step):
    """packed[p + s step + k C + c] = source[column + s C + c + terms[term + k]]: neighbours, in panels of C columns.

    All panels for one term before the next, so that each cache line and each page is read once.  Behind the last
    column are other numbers or zeros.
    """
    LANES = width(source)
    whole = count // C if C == 2 * LANES else 0
    for k in range(K):
        first, to = column + terms[term + k], p + k * C
        for _ in range(whole):
            store(load2(source, first), packed, to)
            first += C
            to += step
        for n in range(whole * C, count, C):
            for v in range(0, C, LANES):
                store(load_some(source, first + v, count - n - v, 0), packed, to + v)
            first += C
            to += step


@kernel()
def pack(source, lines, line, count, terms, term, K, pitch, packed, p, following):
    """packed[p + k pitch + n] = source[lines[line + n] + terms[term + k]] of so many lines, and zeros up to the pitch.

    What is in one row of source is read as vectors: either a term of all lines, or some terms of a line, and then
    transposed.  Of so many following lines the same terms are asked for meanwhile, if they are read so, too.
    """
    LANES = width(source)
    if in_a_row(lines, line, count):
        copy_panels(source, lines[line], count, terms, term, K, pitch, packed, p, 0)
        return
    for k in range(0, K, LANES):
        some, to = min(LANES, K - k), p + k * pitch
        if in_a_row(terms, term + k, some):
            if k % (LINE // source.itemsize) == 0:
                for n in range(following):
                    will_read(source, lines[line + count + n] + terms[term + k])
            for n in range(0, pitch, LANES):
                rows = load_rows_at(source, terms[term + k], lines, line + n, count - n, some)
                store_rows(transposed(rows), packed, to + n, pitch, some)
        else:
            for j in range(some):
                for n in range(pitch):
                    packed[to + j * pitch + n] = source[lines[line + n] + terms[term + k + j]] if n < count else 0


@kernel()
def finish(sums, l, rows, columns, start, s_rows, m, n, out, o_rows, floor):
    """Store a tile that lies partly outside of `out`: max(floor, start + sums)."""
    LANES = width(sums)
    for t in range(rows):
        given, to, total = s_rows[m + t] + n, o_rows[m + t] + n, l + t * VECTORS * LANES
        for v in range(0, columns, LANES):
            if v + LANES <= columns:
                x = load(start, given + v) + load(sums, total + v)
                store(select(x < floor, floor, x), out, to + v)  # NaN is not less, and stays
            else:
                x = load_some(start, given + v, columns - v, 0) + load(sums, total + v)
                store_some(select(x < floor, floor, x), out, to + v, columns - v)


# --- the product ----------------------------------------------------------------------------------------------


@helper
def depth(K, itemsize):
    """How many terms at a time: a panel and a sliver leave a quarter of the L1 cache free, but 256 at least.

    Up to half as many more are taken at once.  Of others each part is made of whole blocks (LongSums); where there are
    GROUP blocks or more, parts divide a group, and are never all terms, since all tiles then need memory.  With AVX2,
    where 512 terms filled an L1 cache of 48 KB, products of 1,024 and more took 1.05 times as long.
    """
    most, row = 4 * BLOCK, VECTORS * BYTES + PITCH * itemsize
    while 2 * most * row <= L1 // 4 * 3:
        most *= 2
    if K // BLOCK < GROUP:
        parts = (K + 3 * most // 2 - 1) // (3 * most // 2)
        return K if parts <= 1 else ((K + parts - 1) // parts + BLOCK - 1) // BLOCK * BLOCK
    return min(most, BLOCK * GROUP // 2)


@helper
def ahead(terms, k, count):
    """How much further in memory the term is that is needed soon, where terms have steps."""
    return AHEAD * (terms[k + 1] - terms[k]) if count > 1 else 0


@helper
def block_height(M, deep, itemsize):
    """Rows of a at a time: blocks of nearly the same height, whose slivers fill about a third of the L2 cache.

    The rest is for what passes through it: panels, and sums that are unfinished.
    """
    most = max(ROWS, L2 // 3 // (PITCH * itemsize * max(deep, 1)) * ROWS)
    blocks = max(1, (M + 3 * most // 4) // most)
    return max(1, ((M + blocks - 1) // blocks + ROWS - 1) // ROWS) * ROWS


@kernel()
def widen(sums, totals, first, last):
    """totals += sums, or = where they are the first; then sums = 0, or = totals, rounded, where they are the last."""
    for i in range(totals.size):
        totals[i] = sums[i] if first else totals[i] + sums[i]
        sums[i] = totals[i] if last else 0


@kernel()
def packed_product(shape, arrays, lines, floor):
    """out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n]), by one thread; arrays are (a, b, start, out).

    `lines` has the places of a's rows and terms, b's columns and terms, start's rows and out's rows.
    """
    (M, N, K), (a, b, start, out) = shape, arrays
    a_rows, a_terms, b_columns, b_terms, s_rows, o_rows = lines
    LANES, itemsize = width(a), a.itemsize
    C = VECTORS * LANES
    wide, block = K // BLOCK >= GROUP, K if K <= WHOLE else BLOCK
    # In float64, what is less than a block at the end is added to the rounded total of all blocks.
    blocks_end = K // BLOCK * BLOCK if wide else K
    deep = depth(K, itemsize)
    high = block_height(M, deep, itemsize)
    # Where all terms fit and `out` is far away, tiles go along its rows, since memory is fastest in order: all panels
    # are kept for that, in a quarter of the L2 cache.
    along = deep == K and M * N * itemsize > L2
    across = min(COLUMNS, max(1, L2 // 4 // (max(1, deep) * itemsize * C)) * C) if along else COLUMNS
    across = min(max(1, (N + C - 1) // C) * C, across)
    slivers = memory.scratch(((high // ROWS + ROWS) * deep * PITCH,), a)
    panels = memory.scratch((deep * (across if along else C),), a)
    sums = memory.scratch((high * across if deep < K else ROWS * C,), a)
    scratch, totals = (slivers, panels, sums), np.empty(sums.size if wide else 0)
    for n0 in range(0, N, across):
        for m0 in range(0, M, high):
            n1, m1, k, last = min(N, n0 + across), min(M, m0 + high), 0, False
            whole, short = tiles(m1 - m0)
            down, broad = whole + short, (n1 - n0 + C - 1) // C
            while not last:
                some = min(deep, (blocks_end if k < blocks_end else K) - k)
                last = k + some == K and (k == blocks_end or not wide)
                for outer in range(down if along else broad):
                    for inner in range(broad if along else down):
                        s, j = (outer, inner) if along else (inner, outer)
                        n, p = n0 + j * C, j * deep * C if along else 0
                        columns = min(C, n1 - n)
                        # The first tile that reads what lies in rows copies it, but no tile copies both factors.
                        copies_b = s == 0 and columns == C and in_a_row(b_columns, n, C)
                        if s == 0 and not copies_b:
                            pack(b, b_columns, n, columns, b_terms, k, some, C, panels, p, 0)
                        height, i = ROWS if s < whole else SHORT, s * some * PITCH
                        m = m0 + min(s, whole) * ROWS + max(0, s - whole) * SHORT
                        rows, l = min(height, m1 - m), j * C * high + (m - m0) * C if deep < K else 0
                        copies_a = j == 0 and not copies_b and rows == height and in_a_row(a_rows, m, rows)
                        if j == 0 and not copies_a:
                            pack(a, a_rows, m, rows, a_terms, k, some, PITCH, slivers, i, 0)
                        if deep < K:
                            for v in range(l + ROWS * C, l + 2 * ROWS * C, LINE // itemsize):
                                will_write(sums, v)  # of the next tile
                        size, at = (height, some, block), (i, p, l)
                        ends = (last and rows == height and columns == C), m, n
                        if copies_b:
                            of = b_columns[n], k, ahead(b_terms, k, some)
                            multiply_copying_b(size, scratch, at, k == 0, ends, arrays, lines, floor, of)
                        elif copies_a:
                            of = a_rows[m], k, ahead(a_terms, k, some)
                            multiply_copying_a(size, scratch, at, k == 0, ends, arrays, lines, floor, of)
                        else:
                            multiply(size, scratch, at, k == 0, ends, arrays, lines, floor, (0, 0, 0))
                        if last and not ends[0]:
                            finish(sums, l, rows, columns, start, s_rows, m, n, out, o_rows, floor)
                k += some
                if wide and not last and (k % (BLOCK * GROUP) == 0 or k == blocks_end):
                    widen(sums, totals, k <= BLOCK * GROUP, k == blocks_end)


# --- which way -------------------------------------------------------------------------------------------------

# How a product goes: on its factors as they lie, on panels of b, packed, or turned (turned.py).
AS_THEY_LIE, IN_PANELS, PACKED, TURNED = range(4)

# What a product reaches of the multipliers' peak.  Measured on an Intel Xeon (Emerald Rapids) and, what is about sets
# of the L1 cache and about panels that are far, on an AMD EPYC (Zen 4), with AVX-512 and with AVX2 alone; what is about
# low tiles that are packed, on one that has AVX2 (Zen 3).
HIGH = ROWS > 8  # a high tile reads b less often, and so hardly minds where it lies
BY_ROWS, BY_COLUMNS = 0.87, 0.87  # as they lie: reading a's rows, or its columns, from the L2 cache
APART = 0.75  # where b's many rows, or those from which a's columns are read, lie on too many pages of memory
# Where too many lines share a set of the L1 cache: b's, by 96 rows with (512, 128) 82 GFLOP/s so and on panels 79 (one
# thread of a Zen 4 with AVX2, whose peak is 91); where a's columns are read; and where all of those do, a page apart.
B_CROWDED, A_CROWDED, A_PAGE_APART = (0.87, 0.87, 0.75) if HIGH else (0.83, 0.78, 0.4)
# Where so many of b's rows, or more, lie half a page apart, or a multiple of that: 48 rows by (100, 1024) go at 26 to
# 45 GFLOP/s as they lie, and on panels at 69 (one thread of a Zen 4 with AVX2, whose peak is 91).
HALF_A_PAGE_FROM, HALF_A_PAGE_APART = 64, 0.87 if HIGH else 0.5
FAR = 0.4  # where b does not fit into half of the L2 cache
ON_PANELS = 0.88  # of b
# Where a does not stay in the L2 cache while they go over it.  AVX2: between 0.81 on Zen 3 and 0.93 on Zen 5.
ON_FAR_PANELS = 0.81 if HIGH else 0.84
ON_COPIES = 0.9  # packed
ON_TURNED = 0.87  # on panels of a.T (turned.py); measured on an AMD EPYC (Zen 5), with both
# The multiplications that could be done in the time that it takes to copy an element of a or b on the way or, where it
# must be transposed, before; of a panel of b, where a is not copied; to begin; and to store an element of out.
COPY, TRANSPOSE_A, TRANSPOSE_B, COPY_PANEL, BEGIN = 6, 26, 19, 12, 80_000
STORE = 12 if HIGH else 8


@helper
def rows_at_a_time(M, K, itemsize):
    """Rows of a that all panels of b go over before the next: what stays in the L2 cache, but enough to copy b for."""
    return M if M * K * itemsize <= L2 else max(256, L2 // 2 // (K * itemsize))


@helper
def in_a_set(step, count):
    """Of lines that lie `step` bytes apart, how many share a set of the L1 cache; 0 where they are side by side."""
    lines = step // LINE
    every = 1 if step % LINE != 0 else lines & -lines if lines % SETS != 0 else SETS  # so many sets, one is used
    return count * every // SETS if step > LINE else 0


@helper
def half_a_page_apart(step, count):
    """Whether many lines, `step` bytes apart, lie in two sets of the L1 cache, or one."""
    return count >= HALF_A_PAGE_FROM and in_a_set(step, 2) > 0


@helper
def best_way(M, N, K, a_k, b_k, b_n, itemsize):
    """The way that takes least time: a's terms are a_k apart, b's b_k, and its columns b_n."""
    LANES, work = BYTES // itemsize, M * N * K
    C = VECTORS * LANES
    whole, short = tiles(M)
    tall, broad = whole * ROWS + short * SHORT, (N + C - 1) // C * C
    on_the_way = b_n == 1 and K * N * itemsize <= 4 * L2  # main memory is too far
    copies = (TRANSPOSE_A if a_k == 1 else COPY) * M * K + (COPY if on_the_way else TRANSPOSE_B) * K * N
    way, least = PACKED, tall * broad * K / ON_COPIES + copies + STORE * M * N + BEGIN
    # A panel is read once for each tile, from the L2 cache; or farther, where to pack a takes longer from main memory.
    most = 3 * L2 if M * K * itemsize > 8 * L2 else L2 // 4 * 3
    if a_k == 1 and (b_n == 1 or b_k == 1) and K * C * itemsize <= most:
        far = b_n == 1 and rows_at_a_time(M, K, itemsize) * K * itemsize > (L2 // 4 * 3 if HIGH else L2)
        time = work / (ON_FAR_PANELS if far else ON_PANELS) + COPY_PANEL * K * max(N, C)
        if time < least:
            way, least = IN_PANELS, time
    deep, lines = min(K, BLOCK * GROUP), HIGHEST if M > LANES else TALLEST  # of b that a tile reads side by side
    if a_k == 1 and b_k == 1 and deep * C * itemsize <= L2 // 2 and in_a_set(b_n * itemsize, lines) <= WAYS:
        high = (M + LANES - 1) // LANES * LANES
        again = (N + PIECE - 1) // PIECE if deep < K else 1  # how often a is transposed
        time = high * N * K / ON_TURNED + TRANSPOSE_A * M * (K * again + N) + BEGIN
        if time < least:
            way, least = TURNED, time
    if b_n == 1:
        if a_k == 1:
            share = BY_ROWS if K < 64 or b_k * itemsize < 1024 else APART
            if half_a_page_apart(b_k * itemsize, K):
                share = min(share, HALF_A_PAGE_APART)
            elif in_a_set(b_k * itemsize, K) > WAYS:
                share = min(share, B_CROWDED)
        else:
            share = BY_COLUMNS if (M + N) * K * itemsize < L2 // 4 else APART
            of_a, of_b = in_a_set(a_k * itemsize, K), in_a_set(b_k * itemsize, K)
            if K > WAYS and of_a + of_b > WAYS:
                share = min(share, A_PAGE_APART if max(of_a, of_b) == K else A_CROWDED)
        if work / (share if K * N * itemsize <= L2 // 2 else FAR) <= least:
            way = AS_THEY_LIE
    return way


@helper
def block_shape(M, N, count, way, itemsize):
    """(rows, columns) of the blocks, at least `count` of them, into which to cut the result for threads.

    Each copies its columns of b and, packed, its rows of a: that is least where they are nearly square.
    """
    C = VECTORS * (BYTES // itemsize)
    units_m, units_n = (M + ROWS - 1) // ROWS, (N + C - 1) // C
    rows, columns, least = M, N, np.inf
    for down in range(1, count + 1):
        across = (count + down - 1) // down
        tall, broad = (units_m + down - 1) // down * ROWS, (units_n + across - 1) // across * C
        if way == PACKED:
            cost = tall * broad / ON_COPIES + COPY * (tall + broad)
        else:
            cost = tall * broad / ON_PANELS + COPY_PANEL * broad
        if cost < least:
            rows, columns, least = tall, broad, cost
    return rows, columns
