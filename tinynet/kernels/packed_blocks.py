"""packed_blocks: packed.py's product where whole blocks of both factors are copied before they are multiplied.

On AVX-512 the first tile that needs a sliver or a panel copies it on the way.  With 16 registers (AVX2) that gains
little, and where memory is far it loses much: such a tile reads a few numbers of each row, and rows of a large matrix
are pages of memory.  Here a block's part of a row is read at once, and what is read is used for longer:

    panels     of up to 512 columns of b are kept for all terms, if there are several blocks of rows and they fit into
               8 L2 caches and 4 MB; else for some terms
    slivers    of so many rows of a are copied that they fill half of the L2 cache, or their unfinished sums three
               quarters; or, where each block must copy long panels again, so many that sums fill two L2 caches
    near       are some slivers, in an eighth of the L2 cache, over which all panels go before the next ones come: two
               programs on one core share that cache

One thread of a busy AMD EPYC (Zen 3: L2 512 KB, main memory 190 ns away), of OpenBLAS's speed, before and here: forward
of (1024, 1024, 1024) 0.70 and 0.92, dw of (2048, 768, 3072) 0.68 and 0.87.
"""

import numpy as np

from tinynet.kernels import memory
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.packed import COLUMNS, L2, LINE, ahead, copy_panels, depth, finish, in_a_row, pack, widen
from tinynet.kernels.packed_tile import PITCH, ROWS, SHORT, VECTORS, multiply, tiles
from tinynet.kernels.tile import BLOCK, GROUP, WHOLE
from tinynet.kernels.vectors import load, load_some, store, width, will_read, will_write

KEPT = min(8 * L2, 2**22)  # bytes of panels at most


@helper
def spread(size, itemsize):
    """A step of at least so many numbers, from one sliver or panel to the next: an odd number of cache lines.

    Their lengths are often powers of two, and the same term of all would lie in one set of the L1 cache.  So a row of
    the source can be copied from end to end: slivers take 0.56 cycles a number, and took 0.85 in parts of 8 terms;
    panels 0.42 and, 8 of them at a time, 0.65 (one thread of an AMD EPYC, Zen 4, with AVX2).
    """
    return ((size * itemsize + LINE - 1) // LINE | 1) * (LINE // itemsize)


@helper
def first_row(s, whole):
    """The first row of sliver number s: so many whole ones come first, then short ones."""
    return min(s, whole) * ROWS + max(0, s - whole) * SHORT


@kernel()
def copy_slivers(source, lines, line, count, terms, term, K, packed, step):
    """packed[s step + k PITCH + t] = source[lines[line + m + t] + terms[term + k]], m the first row of sliver s."""
    LANES = width(source)
    whole, short = tiles(count)
    if in_a_row(lines, line, count):
        further = ahead(terms, term, K)
        inside = min(whole, max(0, (count - PITCH) // ROWS + 1))  # slivers behind which PITCH - ROWS numbers lie, too
        for k in range(K):
            place = lines[line] + terms[term + k]
            for m in range(0, count, LINE // source.itemsize):
                will_read(source, place + m + further)
            at, to = place, k * PITCH
            for _ in range(inside):
                for v in range(0, PITCH, LANES):
                    store(load(source, at + v), packed, to + v)
                at += ROWS
                to += step
            for s in range(inside, whole + short):
                m = first_row(s, whole)
                for v in range(0, PITCH, LANES):
                    store(load_some(source, place + m + v, count - m - v, 0), packed, to + v)
                to += step
        return
    for s in range(whole + short):
        m, following = first_row(s, whole), first_row(s + 1, whole)
        rows, more = min(following, count) - m, min(first_row(s + 2, whole), count) - min(following, count)
        pack(source, lines, line + m, rows, terms, term, K, PITCH, packed, s * step, more)


@kernel()
def copy_to_panels(source, lines, line, count, terms, term, K, packed, p, step):
    """packed[p + s step + k C + c] = source[lines[line + s C + c] + terms[term + k]], in panels of C; `count` lines."""
    C = VECTORS * width(source)
    if in_a_row(lines, line, count):
        copy_panels(source, lines[line], count, terms, term, K, C, packed, p, step)
        return
    for n in range(0, count, C):
        more = max(0, min(C, count - n - C))
        pack(source, lines, line + n, min(C, count - n), terms, term, K, C, packed, p + n // C * step, more)


@kernel()
def product_of_blocks(shape, arrays, lines, floor):
    """out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n]), by one thread; the arguments are packed_product's."""
    (M, N, K), (a, b, start, out) = shape, arrays
    a_rows, a_terms, b_columns, b_terms, s_rows, o_rows = lines
    LANES, itemsize = width(a), a.itemsize
    C = VECTORS * LANES
    wide, block = K // BLOCK >= GROUP, K if K <= WHOLE else BLOCK
    # In float64, what is less than a block at the end is added to the rounded total of all blocks.
    blocks_end = K // BLOCK * BLOCK if wide else K
    deep, across = depth(K, itemsize), min(COLUMNS, max(1, (N + C - 1) // C) * C)
    sliver, columns_size = PITCH * itemsize * max(deep, 1), K * across * itemsize
    high = min(L2 // 4 * 3 // (across * itemsize), max(1, L2 // 2 // sliver) * ROWS)
    keeps = high < M and columns_size <= KEPT
    if columns_size > KEPT:
        high = 2 * L2 // (across * itemsize)
    blocks = max(1, (M + high - 1) // high)
    high = max(1, ((M + blocks - 1) // blocks + ROWS - 1) // ROWS) * ROWS
    near = max(1, L2 // 8 // sliver)
    slivers = memory.scratch(((high // ROWS + ROWS) * spread(deep * PITCH, itemsize),), a)
    parts, line = K // max(1, deep) + 2 if keeps else 1, LINE // itemsize  # of a panel; each takes up to 2 lines more
    panels = memory.scratch((across // C * ((K if keeps else deep) * C + parts * 2 * line),), a)
    sums = memory.scratch(((high // ROWS + ROWS) * ROWS * across if deep < K else ROWS * C,), a)
    scratch, totals = (slivers, panels, sums), np.empty(sums.size if wide else 0)
    for n0 in range(0, N, across):
        for m0 in range(0, M, high):
            n1, m1, k, last = min(N, n0 + across), min(M, m0 + high), 0, False
            whole, short = tiles(m1 - m0)
            count, p = whole + short, 0
            while not last:
                some = min(deep, (blocks_end if k < blocks_end else K) - k)
                last = k + some == K and (k == blocks_end or not wide)
                sliver_step, panel_step = spread(some * PITCH, itemsize), spread(some * C, itemsize)
                copy_slivers(a, a_rows, m0, m1 - m0, a_terms, k, some, slivers, sliver_step)
                if m0 == 0 or not keeps:
                    copy_to_panels(b, b_columns, n0, n1 - n0, b_terms, k, some, panels, p, panel_step)
                for first in range(0, count, near):
                    for n in range(n0, n1, C):
                        columns, j = min(C, n1 - n), (n - n0) // C
                        for s in range(first, min(first + near, count)):
                            height, m = ROWS if s < whole else SHORT, m0 + first_row(s, whole)
                            rows, l = min(height, m1 - m), (j * count + s) * ROWS * C if deep < K else 0
                            if deep < K:
                                for v in range(l + ROWS * C, l + 2 * ROWS * C, LINE // itemsize):
                                    will_write(sums, v)  # of the next tile
                            size, at = (height, some, block), (s * sliver_step, p + j * panel_step, l)
                            ends = (last and rows == height and columns == C), m, n
                            multiply(size, scratch, at, k == 0, ends, arrays, lines, floor, (0, 0, 0))
                            if last and not ends[0]:
                                finish(sums, l, rows, columns, start, s_rows, m, n, out, o_rows, floor)
                k, p = k + some, p + across // C * panel_step if keeps else 0
                if wide and not last and (k % (BLOCK * GROUP) == 0 or k == blocks_end):
                    widen(sums, totals, k <= BLOCK * GROUP, k == blocks_end)
