"""few_rows: a product whose first factor has few rows.  One sample, say: then a matrix times a vector.

    out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n]),  m < M few

Each number of b is used M times, so reading b from memory is most of the work.  The tiles of tile.py and packed.py read
some columns of b from top to bottom, a few bytes of each row; memory is fastest read in order.  So here the sums lie in
the L1 cache, not in registers, and b is read some of its rows at a time, from left to right,

    sums[m,n] += a[m,k] b[k,n] + ... + a[m,k+3] b[k+3,n]        the vectors of b stay in registers for all m

while as many more rows are fetched.  For a single row of a, one_row.py adds up those of b.  Of a b whose columns are
contiguous, not its rows, as w.T for dx, squares are transposed in registers.  A b that is neither is packed, a piece at
a time.

Sums are cut as tile.LongSums cuts them, by K alone: the bits are those of the other products.
"""

import numpy as np
from llvmlite import ir
from numba import types

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.llvm import (
    FEATURES,
    I64,
    emit_fetch,
    emit_first_lanes,
    emit_load,
    emit_splat,
    emit_store,
    emit_while,
    llvm_function,
    primitive,
)
from tinynet.kernels.one_row import add_products, add_rows
from tinynet.kernels.packed import HIGH, half_a_page_apart, in_a_row, pack, widen
from tinynet.kernels.packed_tile import BYTES
from tinynet.kernels.tile import BLOCK, GROUP, WHOLE
from tinynet.kernels.vectors import (
    lines,
    load,
    load_some,
    select,
    splat,
    store,
    store_some,
    transposed,
    width,
    will_read,
)

L1, L2 = cache_size(1), cache_size(2)
# Rows at most; where both factors are read in order; and where, besides, b is in main memory.  A forward pass takes
# two threads of an Intel Xeon (Emerald Rapids) 375 us so, and packed 575, at (17, 2048, 1024); 5.2 ms and 6.7 at
# (32, 4096, 4096).  With a low tile it is also faster for more rows: one thread of an AMD EPYC (Zen 4) does
# (32, 768, 3072) at 72 GFLOP/s so, and on panels at 69.
FEW, IN_ORDER, DISTANT = 16, 24 if HIGH else 32, 48
IN_MEMORY = (4 if HIGH else 32) * L2  # bytes of a b that is more in main memory than in a cache
LINE, AHEAD = 64, 256  # bytes: of a cache line; and so far ahead is fetched along a row
PAGE = 4096  # bytes: lines so far apart share a set of the L1 cache, which has room for 8 or 12 of them

# The vectors of b in registers, rows x vectors, leave room for as many sums as vectors, and a number of a.  For up to
# ROWS rows of a the first of two shapes: its rows of b and the next ones find room in a set of the L1 cache, where they
# are a page apart.  For more rows of a the second, which on AVX-512 and NEON loads and stores their sums less often.
ROWS = 8 if "avx512f" in FEATURES or "neon" in FEATURES else 4
SHAPES = (4, ROWS // 2), (ROWS, 2)
# Rows of a at most where squares of b are transposed; and where b is in main memory.  Else, with a low tile, the other
# ways are faster from two rows on: they take 250 us for dx of (4, 1000, 1024), and 370 so (one thread of a Zen 4).
TRANSPOSED, DISTANT_TRANSPOSED = 2 * ROWS if HIGH else 1, 2 * ROWS

# Squares that are transposed are half a vector wide, and two lie in each: that is a shuffle less for each vector.
PART = 2
_, load_lines, _, _ = lines(PART)


# --- some rows of b -----------------------------------------------------------------------------------------


def _emit_products(builder, M, read, a, a_step, sums, step):
    """sums[m step + n] += a[m a_step + 0] read[0][n] + a[m a_step + 1] read[1][n] + ... in this order, for m < M.

    read[k] is row k of b, as some vectors; a and sums point to what belongs to the first row and column.
    """
    vector = read[0][0].type
    fma = llvm_function(builder.module, "fmuladd", vector)
    places = [I64(v * vector.count) for v in range(len(read[0]))]
    with emit_while(builder, I64(0), lambda m: builder.icmp_signed("<", m, M)) as (m, advance):
        row = builder.mul(m, step)
        totals = [emit_load(builder, sums, builder.add(row, at), vector) for at in places]
        first = builder.mul(m, a_step)
        for k, row_of_b in enumerate(read):
            x = emit_splat(builder, builder.load(builder.gep(a, [builder.add(first, I64(k))])), vector.count)
            totals = [builder.call(fma, [x, y, total]) for y, total in zip(row_of_b, totals, strict=True)]
        for at, total in zip(places, totals, strict=True):
            emit_store(builder, total, sums, builder.add(row, at))
        advance(builder.add(m, I64(1)))


def _rows_types(M, N, K, a, i, a_step, b, j, b_step, sums, step):
    whole = types.int64
    return types.void(whole, whole, whole, a, whole, whole, b, whole, whole, sums, whole)


@primitive(_rows_types)
def multiply_rows(builder, made, M, N, K, a, i, a_step, b, j, b_step, sums, step):
    """sums[m step + n] += sum_k a[i + m a_step + k] b[j + k b_step + n], in order.

    `sums` has room for whole vectors in each row.
    """
    args = [M, N, K, builder.gep(a, [i]), a_step, builder.gep(b, [j]), b_step, sums, step]
    with builder.if_else(builder.icmp_signed("<=", M, I64(ROWS))) as branches:
        for branch, (rows, vectors) in zip(branches, SHAPES, strict=True):
            with branch:
                builder.call(_rows_function(builder.module, a.type.pointee, rows, vectors), args)


def _rows_function(module, scalar, group, vectors):
    """A function of the module, which all that call it share: `group` rows of b at a time, and `vectors` of each."""
    name = f"tinynet_rows_{group}_{scalar}"
    if name in module.globals:
        return module.globals[name]
    pointer = scalar.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64, pointer, I64, pointer, I64, pointer, I64])
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    M, N, K, a, a_step, b, b_step, sums, step = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    itemsize = 4 if scalar == ir.FloatType() else 8
    lanes = BYTES // itemsize
    vector = ir.VectorType(scalar, lanes)
    zero = ir.Constant(vector, [0.0] * lanes)

    def columns(rows, k, n, masks):
        """`rows` rows of b, from k on, and len(masks) vectors of each, from n on."""
        first = builder.add(builder.mul(k, b_step), n)
        places = [builder.add(first, builder.mul(I64(r), b_step)) for r in range(rows)]
        for place in places if rows > 1 else []:
            ahead = builder.add(place, builder.mul(I64(rows), b_step))
            for line in range(0, len(masks) * BYTES, LINE):
                emit_fetch(builder, b, builder.add(ahead, I64(line // itemsize)))
        read = []
        for place in places:
            at = [builder.add(place, I64(v * lanes)) for v in range(len(masks))]
            read.append([emit_load(builder, b, *v, vector, mask, zero) for *v, mask in zip(at, masks, strict=True)])
        _emit_products(builder, M, read, builder.gep(a, [k]), a_step, builder.gep(sums, [n]), step)

    def all_columns(rows, k):
        size = I64(vectors * lanes)
        with emit_while(builder, I64(0), lambda n: builder.icmp_signed("<=", builder.add(n, size), N)) as (n, advance):
            columns(rows, k, n, [None] * vectors)
            advance(builder.add(n, size))
        with emit_while(builder, n, lambda n: builder.icmp_signed("<", n, N)) as (n, advance):
            columns(rows, k, n, [emit_first_lanes(builder, builder.sub(N, n), lanes)])
            advance(builder.add(n, I64(lanes)))

    def all_rows(k, rows):
        """In groups of so many; returns where the last one ends."""

        def whole(k):
            return builder.icmp_signed("<=", builder.add(k, I64(rows)), K)

        with emit_while(builder, k, whole) as (k, advance):
            all_columns(rows, k)
            advance(builder.add(k, I64(rows)))
        return k

    all_rows(all_rows(I64(0), group), 1)
    builder.ret_void()
    return function


def _square_types(M, rows, a, i, a_step, sums):
    return types.void(types.int64, rows, a, types.int64, types.int64, sums)


@primitive(_square_types)
def multiply_square(builder, made, M, rows, a, i, a_step, sums):
    """sums[m LANES + n] += sum_k a[i + m a_step + k] rows[k][n], in order."""
    step = I64(rows[0].type.count)
    _emit_products(builder, M, [[row] for row in rows], builder.gep(a, [i]), a_step, sums, step)


# --- the product ----------------------------------------------------------------------------------------------


@helper
def evenly(places, count):
    """Whether `count` places are equally far apart."""
    apart = 0
    for n in range(2, count):
        apart |= (places[n] - places[n - 1]) ^ (places[1] - places[0])
    return apart == 0


@helper
def multiply_columns(M, K, a, i, a_step, b, j, b_step, ahead, sums):
    """sums[m LANES + n] += sum_k a[i + m a_step + k] b[j + n b_step + k], in order, for n < LANES.

    K is a multiple of LANES.  What lies `ahead` of each line is fetched.
    """
    LANES = width(b)
    for k in range(0, K, LANES):
        for n in range(LANES):
            will_read(b, j + k + n * b_step + ahead)
        for l in range(k, k + LANES, LANES // PART):
            rows = transposed(load_lines(b, j + l, b_step))
            if M == 1:  # its sums need no loop
                store(add_products(load(sums, 0), rows, a, i + l), sums, 0)
            else:
                multiply_square(M, rows, a, i + l, a_step, sums)


@helper
def multiply_more_columns(N, K, a, i, b, j, b_step, ahead, sums):
    """multiply_columns of a single row, for n < N, some LANES: so no sum has to wait for itself."""
    LANES = width(b)
    for k in range(0, K, LANES):
        for n in range(N):
            will_read(b, j + k + n * b_step + ahead)
        for l in range(k, k + LANES, LANES // PART):
            for n in range(0, N, LANES):
                rows = transposed(load_lines(b, j + n * b_step + l, b_step))
                store(add_products(load(sums, n), rows, a, i + l), sums, n)


@helper
def add_four_blocks(a, i, b, j, b_step, ahead, totals):
    """totals[n] += sum_k a[i + k] b[j + n b_step + k] of a single row, for n < LANES and the terms of four blocks.

    A sum waits for its last multiply-add: four, of a block each, do so at once, and are added in order.  What lies
    `ahead` is fetched.
    """
    LANES, line = width(b), LINE // b.itemsize
    sum0 = sum1 = sum2 = sum3 = splat(b, 0)
    for k in range(0, BLOCK, LANES // PART):
        for n in range(LANES if k % line == 0 else 0):
            for block in range(0, 4 * BLOCK, BLOCK):
                will_read(b, j + n * b_step + block + k + ahead)
        sum0 = add_products(sum0, transposed(load_lines(b, j + k, b_step)), a, i + k)
        sum1 = add_products(sum1, transposed(load_lines(b, j + k + BLOCK, b_step)), a, i + k + BLOCK)
        sum2 = add_products(sum2, transposed(load_lines(b, j + k + 2 * BLOCK, b_step)), a, i + k + 2 * BLOCK)
        sum3 = add_products(sum3, transposed(load_lines(b, j + k + 3 * BLOCK, b_step)), a, i + k + 3 * BLOCK)
    store((((load(totals, 0) + sum0) + sum1) + sum2) + sum3, totals, 0)


@kernel()
def copy_terms(a, rows, M, terms, k, count, copied):
    """copied[m BLOCK + t] = a[rows[m] + terms[k + t]], for t < count."""
    LANES = width(a)
    side_by_side = in_a_row(terms, k, count)
    for m in range(M):
        first, to = rows[m] + terms[k], m * BLOCK
        if side_by_side:
            for t in range(0, count, LANES):
                store(load_some(a, first + t, count - t, 0), copied, to + t)
        else:
            for t in range(count):
                copied[to + t] = a[rows[m] + terms[k + t]]


@helper
def add_and_clear(sums, totals, M, step, columns):
    """totals += sums; then sums = 0."""
    LANES, nothing = width(sums), splat(sums, 0)
    for m in range(M):
        for n in range(m * step, m * step + columns, LANES):
            store(load(totals, n) + load(sums, n), totals, n)
            store(nothing, sums, n)


@helper
def columns_at_once(M, N, K, itemsize):
    """So many that their sums, and the rows of b that are added, stay in the L1 cache; in pieces of nearly one size.

    Of a b in memory so far away that reading it is most of the work, so many that their sums fill it: long runs of a
    row are read faster.  Two threads of an AMD EPYC (Zen 3) read 19 GB/s so, and 12 otherwise, at (1, 4096, 4096); of
    16 rows, one of a Zen 4 does 50 GFLOP/s so, and 58 otherwise.
    """
    line = LINE // itemsize
    far = 4 * L2 * (1 if HIGH else M)  # more rows use a number of b for longer; not measured with a high tile
    most = L1 // itemsize // M if N * K * itemsize > far else L1 // 2 // itemsize // (M + ROWS)
    most = max(most, 2 * line)
    parts = max(1, (N + most - 1) // most)
    return ((N + parts - 1) // parts + line - 1) // line * line


@kernel()
def few_rows_product(size, arrays, lines, floor):
    """out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n]), by one thread; arguments as packed_product's."""
    (M, N, K), (a, b, start, out) = size, arrays
    a_rows, a_terms, b_columns, b_terms, s_rows, o_rows = lines
    if M == 0 or N == 0:
        return
    LANES = width(a)
    in_place = in_a_row(b_columns, 0, N) and evenly(b_terms, K)
    upright = not in_place and in_a_row(b_terms, 0, K) and evenly(b_columns, N)
    b_lines, count = (b_terms, K) if in_place else (b_columns, N)
    b_step = b_lines[1] - b_lines[0] if count > 1 else 0
    # Numbers of a that are broadcast from where they lie, or from copies of BLOCK terms of each row.
    a_step = a_rows[min(1, M - 1)] - a_rows[0]
    as_it_is = in_a_row(a_terms, 0, K) and evenly(a_rows, M)
    long, together, by_fours = K > WHOLE, LANES, False
    if in_place:
        together = columns_at_once(M, N, K, a.itemsize)
    elif M == 1 and LINE < b_step * b.itemsize % PAGE < PAGE - LINE:
        together = LINE // b.itemsize
    elif M == 1:  # LANES lines a page apart fill a set of the L1 cache, and each block of terms has others
        by_fours = not HIGH and upright and as_it_is and long and N * K * a.itemsize <= IN_MEMORY
    # Copied once for many columns, where rows share a few sets of the L1 cache.
    if in_place and M > ROWS and (not HIGH or a_step * a.itemsize % PAGE == 0):
        as_it_is = False
    copied = memory.scratch((0 if as_it_is else M * BLOCK + LANES,), a)
    terms, a_step = (a, a_step) if as_it_is else (copied, BLOCK)
    sums, totals = memory.scratch((M * together,), a), memory.scratch((M * together if long else 0,), a)
    wide = np.empty(totals.size if K >= BLOCK * GROUP else 0)
    panel = memory.scratch((0 if in_place else BLOCK * together + LANES,), a)
    for n0 in range(0, N, together):
        columns, blocks = min(together, N - n0), 0
        for n in range(0, sums.size, LANES):
            store(splat(sums, 0), sums, n)
        for n in range(0, totals.size, LANES):
            store(splat(sums, 0), totals, n)
        fours = K // (4 * BLOCK) * 4 * BLOCK if by_fours and columns == LANES else 0
        for k in range(0, fours, 4 * BLOCK):
            ahead = 4 * BLOCK if k + 8 * BLOCK <= K else columns * b_step - k  # or where the next columns begin
            add_four_blocks(a, a_rows[0] + a_terms[k], b, b_columns[n0] + b_terms[k], b_step, ahead, totals)
            blocks += 4
            if blocks % GROUP == 0:
                widen(totals, wide, blocks == GROUP, False)
        for k in range(fours, K, BLOCK):
            some, i = min(BLOCK, K - k), a_rows[0] + a_terms[k] if as_it_is else 0
            if not as_it_is:
                copy_terms(a, a_rows, M, a_terms, k, some, copied)
            j = b_columns[n0] + b_terms[k]
            if in_place and M == 1:
                add_rows(some, terms, i, 1, b, j, b_step, columns, sums, 0, False)
            elif in_place:
                multiply_rows(M, columns, some, terms, i, a_step, b, j, b_step, sums, together)
            elif upright and some % LANES == 0 and columns % LANES == 0:
                ahead = AHEAD // a.itemsize + (columns * b_step - K if k + some == K else 0)
                if columns == LANES:
                    multiply_columns(M, some, terms, i, a_step, b, j, b_step, ahead, sums)
                else:
                    multiply_more_columns(columns, some, terms, i, b, j, b_step, ahead, sums)
            else:
                pack(b, b_columns, n0, columns, b_terms, k, some, together, panel, 0, 0)
                multiply_rows(M, columns, some, terms, i, a_step, panel, 0, together, sums, together)
            if long and some == BLOCK:
                add_and_clear(sums, totals, M, together, columns)
                blocks += 1
                if blocks % GROUP == 0:
                    widen(totals, wide, blocks == GROUP, False)
        if blocks >= GROUP:
            widen(totals, wide, False, True)
        for m in range(M):
            for n in range(0, columns, LANES):
                at, to = s_rows[m] + n0 + n, o_rows[m] + n0 + n
                total = load(sums, m * together + n)
                if long:
                    total = load(totals, m * together + n) + total
                x = load_some(start, at, columns - n, 0) + total
                store_some(select(x < floor, floor, x), out, to, columns - n)  # NaN is not less, and stays


@helper
def few_rows_pay(M, N, K, in_order, b_k, itemsize):
    """Whether it is faster than the other products: where b is not in the L2 cache.

    Or, with a low tile and at least two rows of a, where it is in there, but its rows lie half a page apart.

    in_order  whether a's terms lie side by side, and b's columns; b_k is how far apart its rows are
    """
    size = N * K * itemsize
    near, distant = (IN_ORDER, DISTANT) if in_order else (TRANSPOSED, DISTANT_TRANSPOSED)
    most = distant if size > IN_MEMORY else near
    apart = not HIGH and in_order and M > 1 and half_a_page_apart(b_k * itemsize, K)
    return most >= M and (size > L2 // 2 or apart)
