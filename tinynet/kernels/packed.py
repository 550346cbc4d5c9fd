"""packed: a large product of matrices, on copies of its factors that lie in the order in which they are read.

    out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n])

The product of tile.py reads both factors where they are.  That is fast while everything lies well in the L1 cache.  But
each row of a large b is another page of memory, and rows whose distance is a power of two fall into the same few sets
of the cache: 1024 x 1024 x 1024 ran at a third of the speed.  So here (Goto and van de Geijn 2008)

    a block of a     is copied into slivers, of as many rows as the tile in registers has; all stay in the L2 cache
    a panel of b     is copied, as many columns as the tile has, and multiplied with each sliver of the block
    a tile           reads one number of each row of its sliver and one row of its panel, then the next: all in order

Slivers and panels are whole also at the edges, so that there is one tile only; what is not in `out` is not stored.

Where the rows of a lie as the tile reads them, number after number, copying a buys nothing: then panels of b alone are
copied, and tile.py's product reads a where it is.  256 x 768 x 768 goes at 171 GFLOP/s so, instead of 158 packed, and
768 x 512 x 128 at 160 instead of 145 (one thread of an Intel Xeon, Emerald Rapids, with a peak of 195).

A factor is given by the places of its lines (a's rows, b's columns) and of its terms:

    a[m,k] = a.flat[rows[m] + terms[k]]

Those of a matrix have steps.  Those of an image's windows have none, yet are such sums too: with the corners of the
windows as rows and the numbers of a window as terms, a convolution is a product, without a matrix of windows (im2col).

Sums are cut as tile.LongSums cuts them, by K alone: the bits are those of the other product, for any block or panel.
"""

import numpy as np
from llvmlite import ir
from numba import types

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.llvm import FEATURES, I64, LANES, alignment, emit_splat, llvm_function, primitive
from tinynet.kernels.tile import BLOCK, GROUP, WHOLE, emit_if, emit_loop
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
    will_write,
)

L2 = cache_size(2)
COLUMNS = 1024  # of b at a time: of so many, times a block's rows, are there unfinished sums in memory


def _tile_shape(features):
    """(rows, vectors) of the tile: as many sums as leave registers for a row of b and a number of a."""
    return (
        (14, 2) if "avx512f" in features else (6, 2) if "avx2" in features else (8, 2) if "neon" in features else (4, 2)
    )


ROWS, VECTORS = _tile_shape(FEATURES)
PITCH = 1 << (ROWS - 1).bit_length()  # numbers from one term of a sliver to the next: whole registers
BYTES = LANES[np.dtype(np.float32)] * 4  # of a register


# --- the tile -------------------------------------------------------------------------------------------------


def _tile_types(K, block, sliver, i, panel, j, sums, l, first):
    return types.void(
        types.int64, types.int64, sliver, types.int64, panel, types.int64, sums, types.int64, types.boolean
    )


@primitive(_tile_types)
def multiply(builder, made, K, block, sliver, i, panel, j, sums, l, first):
    """sums[t,n] = or, unless first, += sum_k sliver[k,t] panel[k,n]: `block` terms in registers, then in memory."""
    function = _tile_function(builder.module, sliver.type.pointee)
    places = (builder.gep(a, [at]) for a, at in ((sliver, i), (panel, j), (sums, l)))
    builder.call(function, [K, block, *places, first])


def _tile_function(module, scalar):
    """A function of the module, which all that call it share."""
    name = f"tinynet_tile_{scalar}"
    if name in module.globals:
        return module.globals[name]
    flag, pointer = ir.IntType(1), scalar.as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, *[pointer] * 3, flag]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    K, block, sliver, panel, sums, first = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    lanes = LANES[np.dtype("float32" if scalar == ir.FloatType() else "float64")]
    vector = ir.VectorType(scalar, lanes)
    align, zeros = alignment(vector).constant, [ir.Constant(vector, [0.0] * lanes)] * (ROWS * VECTORS)
    fma = llvm_function(module, "fmuladd", vector)

    def at(p, v):
        return builder.bitcast(builder.gep(p, [I64(v * lanes)]), vector.as_pointer())

    def terms(count):
        """The body of a loop over k, so many at a time."""

        def body(todo, a, b, *totals):
            for k in range(count):
                row = [builder.load(at(b, k * VECTORS + v), align=align) for v in range(VECTORS)]
                sums = []
                for t in range(ROWS):
                    x = emit_splat(builder, builder.load(builder.gep(a, [I64(k * PITCH + t)])), lanes)
                    sums += [builder.call(fma, [x, row[v], totals[t * VECTORS + v]]) for v in range(VECTORS)]
                totals = sums
            todo = builder.sub(todo, I64(count))
            following = builder.gep(a, [I64(count * PITCH)]), builder.gep(b, [I64(count * VECTORS * lanes)])
            return (todo, *following, *totals), builder.icmp_signed(">=", todo, I64(count))

        return body

    def one_block(k):
        left = builder.sub(K, k)
        size = builder.select(builder.icmp_signed("<", left, block), left, block)
        a, b = (
            builder.gep(sliver, [builder.mul(k, I64(PITCH))]),
            builder.gep(panel, [builder.mul(k, I64(VECTORS * lanes))]),
        )
        values = [size, a, b, *zeros]
        for count, some in ((2, builder.icmp_signed(">", size, I64(1))), (1, None)):
            some = builder.icmp_signed(">", values[0], I64(0)) if some is None else some
            values = emit_if(builder, some, values, lambda *v, count=count: emit_loop(builder, v, terms(count)))
        totals = values[3:]
        fresh = builder.and_(first, builder.icmp_signed("==", k, I64(0)))
        with builder.if_else(fresh) as (at_first, later):
            with at_first:
                for v, total in enumerate(totals):
                    builder.store(total, at(sums, v), align=align)
            with later:
                for v, total in enumerate(totals):
                    builder.store(builder.fadd(builder.load(at(sums, v), align=align), total), at(sums, v), align=align)
        k = builder.add(k, size)
        return (k,), builder.icmp_signed("<", k, K)

    emit_loop(builder, (I64(0),), one_block)
    builder.ret_void()
    return function


# --- copies ---------------------------------------------------------------------------------------------------


@helper
def in_a_row(places, first, count):
    """Whether `count` places from number `first` on are neighbours."""
    apart = 0
    for n in range(1, count):
        apart |= places[first + n] - places[first] - n
    return apart == 0


@helper
def together(size):
    """How many slivers or panels of `size` lines are copied side by side: some cache lines of each row of source."""
    return max(1, min(8, 128 // size))


@kernel()
def copy_lines(source, line, count, terms, term, K, size, pitch, packed, p, step):
    """packed[p + s step + k pitch + n] = source[line + s size + n + terms[term + k]]: neighbours, `size` in a row.

    All of them for one term before the next, so that each cache line and each page is read once.  Behind them, up to
    the pitch, are other numbers or zeros.
    """
    LANES = width(source)
    registers = pitch // LANES
    # Parts that may be read whole, in one or two registers: what is behind them is a line too.
    plain = max(0, (count - pitch) // size + 1) if registers <= 2 else 0
    for k in range(K):
        first, to = line + terms[term + k], p + k * pitch
        if registers == 1:
            for _ in range(plain):
                store(load(source, first), packed, to)
                first += size
                to += step
        elif registers == 2:
            for _ in range(plain):
                store(load2(source, first), packed, to)
                first += size
                to += step
        for n in range(plain * size, count, size):
            for v in range(0, pitch, LANES):
                store(load_some(source, first + v, count - n - v, 0), packed, to + v)
            first += size
            to += step


@kernel()
def pack(source, lines, line, count, terms, term, K, size, pitch, packed, p, step):
    """packed[p + s step + k pitch + n] = source[lines[line + s size + n] + terms[term + k]] of so many lines.

    Behind them are other numbers or zeros, up to the pitch, which is some registers wide.  What is in one row of source
    is read as vectors: either a term of all lines, or some terms of a line, and then transposed.
    """
    LANES = width(source)
    if in_a_row(lines, line, count):
        copy_lines(source, lines[line], count, terms, term, K, size, pitch, packed, p, step)
        return
    for s in range((count + size - 1) // size):
        first, left = line + s * size, min(size, count - s * size)
        for k in range(0, K, LANES):
            some, to = min(LANES, K - k), p + s * step + k * pitch
            if in_a_row(terms, term + k, some):
                for n in range(0, pitch, LANES):
                    rows = load_rows_at(source, terms[term + k], lines, first + n, left - n, some)
                    store_rows(transposed(rows), packed, to + n, pitch, some)
            else:
                for j in range(some):
                    for n in range(pitch):
                        inside = n < left
                        packed[to + j * pitch + n] = source[lines[first + n] + terms[term + k + j]] if inside else 0


@helper
def fetch_to_write(out, o_rows, m, rows, n, columns):
    for t in range(m, m + rows):
        for v in range(n, n + columns, width(out)):
            will_write(out, o_rows[t] + v)


@kernel()
def finish(sums, l, rows, columns, start, s_rows, m, n, out, o_rows, floor):
    """The tile's part of out: max(floor, start + sums)."""
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
    """How many terms at a time: a block of a, about as high as deep, fills half of the L2 cache.

    All, or else whole groups of sums (LongSums), so that of more than GROUP BLOCK terms whole multiples divide a group.
    """
    most = BLOCK
    while most < 4 * BLOCK or (2 * most) ** 2 * itemsize * 2 <= L2:
        most *= 2
    if K // BLOCK < GROUP:
        parts = (K + 3 * most // 2 - 1) // (3 * most // 2)
        return K if parts <= 1 else ((K + parts - 1) // parts + BLOCK - 1) // BLOCK * BLOCK
    return min(most, BLOCK * GROUP)


@kernel()
def widen(sums, totals, first, last):
    """totals += sums, or = where they are the first; then sums = 0, or = totals, rounded, where they are the last."""
    for i in range(totals.size):
        totals[i] = sums[i] if first else totals[i] + sums[i]
        sums[i] = totals[i] if last else 0


@kernel()
def packed_product(size, arrays, lines, floor):
    """out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n]), by one thread; arrays are (a, b, start, out).

    `lines` has the places of a's rows and terms, b's columns and terms, start's rows and out's rows.
    """
    (M, N, K), (a, b, start, out) = size, arrays
    a_rows, a_terms, b_columns, b_terms, s_rows, o_rows = lines
    LANES, itemsize = width(a), a.itemsize
    C = VECTORS * LANES
    wide, block = K // BLOCK >= GROUP, K if K <= WHOLE else BLOCK
    # In float64, what is less than a block at the end is added to the rounded total of all blocks.
    blocks_end = K // BLOCK * BLOCK if wide else K
    deep = depth(K, itemsize)
    high = max(ROWS, min(M + ROWS - 1, L2 // 2 // itemsize // max(deep, 1)) // ROWS * ROWS)
    across = min((N + C - 1) // C * C, COLUMNS)
    slivers = memory.scratch((high // ROWS * deep * PITCH,), a)
    panels = memory.scratch((together(C) * deep * C,), a)
    sums = memory.scratch((high * across if deep < K else ROWS * C,), a)
    totals = np.empty(sums.size if wide else 0)
    for n0 in range(0, N, COLUMNS):
        for m0 in range(0, M, high):
            n1, m1, k, last = min(N, n0 + COLUMNS), min(M, m0 + high), 0, False
            while not last:
                some = min(deep, (blocks_end if k < blocks_end else K) - k)
                last = k + some == K and (k == blocks_end or not wide)
                sliver, panel = some * PITCH, some * C
                for m in range(m0, m1, together(ROWS) * ROWS):
                    lines_here, to = min(together(ROWS) * ROWS, m1 - m), (m - m0) // ROWS * sliver
                    pack(a, a_rows, m, lines_here, a_terms, k, some, ROWS, PITCH, slivers, to, sliver)
                for n in range(n0, n1, C):
                    columns, p = min(C, n1 - n), (n - n0) // C % together(C) * panel
                    if p == 0:
                        pack(b, b_columns, n, min(together(C) * C, n1 - n), b_terms, k, some, C, C, panels, 0, panel)
                    for m in range(m0, m1, ROWS):
                        rows, l = min(ROWS, m1 - m), (n - n0) * high + (m - m0) * C if deep < K else 0
                        if last:
                            fetch_to_write(out, o_rows, m, rows, n, columns)
                        if deep < K:
                            for v in range(l + ROWS * C, l + 2 * ROWS * C, LANES):
                                will_write(sums, v)  # of the next tile
                        multiply(some, block, slivers, (m - m0) // ROWS * sliver, panels, p, sums, l, k == 0)
                        if last:
                            finish(sums, l, rows, columns, start, s_rows, m, n, out, o_rows, floor)
                k += some
                if wide and not last and (k % (BLOCK * GROUP) == 0 or k == blocks_end):
                    widen(sums, totals, k <= BLOCK * GROUP, k == blocks_end)


# --- which way -------------------------------------------------------------------------------------------------

# How a product goes: on its factors as they lie, on panels of b, or packed.
AS_THEY_LIE, IN_PANELS, PACKED = range(3)

# What a product reaches of the multipliers' peak: as they lie, where it reads a's rows, or its columns, from the L2
# cache, and where b does not fit into half of that; and on copies.  And the multiplications that could be done in the
# time that copying an element takes, of a, of b, or of b where a is not copied, or storing one of out.  Measured on an
# Intel Xeon (Emerald Rapids), with AVX-512 and with AVX2 alone, which have nearly the same ratios.
BY_ROWS, BY_COLUMNS, FAR, ON_COPIES = 0.87, 0.7, 0.4, 0.88
COPY_A, COPY_B, COPY_PANEL, STORE = 26, 19, 12, 16


@helper
def best_way(M, N, K, a_k, b_k, b_n, itemsize):
    """The way that takes least time: a's terms are a_k apart, b's b_k, and its columns b_n."""
    C, work = VECTORS * (BYTES // itemsize), M * N * K
    tall, broad = (M + ROWS - 1) // ROWS * ROWS, (N + C - 1) // C * C
    way, least = PACKED, tall * broad * K / ON_COPIES + COPY_A * M * K + COPY_B * K * N + STORE * M * N
    if a_k == 1 and (b_n == 1 or b_k == 1) and K * C * itemsize <= L2 // 2:
        time = work / ON_COPIES + COPY_PANEL * K * N
        if time < least:
            way, least = IN_PANELS, time
    if b_n == 1:
        near = BY_ROWS if a_k == 1 else BY_COLUMNS
        if work / (near if K * N * itemsize <= L2 // 2 else FAR) <= least:
            way = AS_THEY_LIE
    return way


@helper
def rows_at_a_time(M, K, itemsize):
    """Rows of a that all panels of b go over before the next: what stays in the L2 cache, but enough to copy b for."""
    return M if M * K * itemsize <= L2 else max(256, L2 // 2 // (K * itemsize))


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
            cost = tall * broad / ON_COPIES + COPY_A * tall + COPY_B * broad
        else:
            cost = tall * broad / ON_COPIES + COPY_PANEL * broad
        if cost < least:
            rows, columns, least = tall, broad, cost
    return rows, columns
