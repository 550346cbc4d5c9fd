"""one_row: products that use each number of a matrix once.  One sample's output, say, or the dw of a few samples.

    out[n] = max(floor, start[n] + sum_k a[k] b[k,n])          one_row; the sum alone, of few_rows.py, add_rows
    dw[i,o] = sum_n x[n,i] dz[n,o],  n < N few                 outer_products

The tiles of tile.py and packed.py keep the sums of several rows in registers.  Of one row those are two vectors, and
each waits for its last multiply-add; of few terms, a tile's beginning and end take as long as the rest.  So in one_row
the sums of four vectors of columns stay in registers.  Where b or the result is far away (few_rows_pay), numbers of a
stay there, and b and the sums are read from one end of a row to the other, as memory is fastest.

One thread of an AMD EPYC (Zen 4, with AVX2), in GFLOP/s, before and so: (1, 784) x (784, 128) 18 and 34; one sample by
(512, 512) 19 and 28; dw of 8 samples and (512, 512) 22 and 60.

Each sum is over k in the same order, and cut alike (tile.LongSums): the bits are those of the other products.
"""

from llvmlite import ir
from numba import types

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.llvm import I64, emit_first_lanes, emit_load, emit_splat, llvm_function, primitive
from tinynet.kernels.tile import BLOCK, GROUP, WHOLE
from tinynet.kernels.vectors import load, load4, load_some, select, splat, splat4, store, store_some, width

L1, L2 = cache_size(1), cache_size(2)
LINE = 64  # bytes of a cache line


def _emit_lines(builder, total, numbers, b, i, step, mask):
    fma, zero = llvm_function(builder.module, "fmuladd", total.type), ir.Constant(total.type, [0.0] * total.type.count)
    for n, x in enumerate(numbers):
        row = emit_load(builder, b, builder.add(i, builder.mul(I64(n), step)), total.type, mask, zero)
        total = builder.call(fma, [x, row, total])
    return total


@primitive(lambda total, numbers, b, i, step: total)
def add_lines(builder, made, total, numbers, b, i, step):
    """total + sum_k numbers[k] b[i + k step], in order, where these are vectors."""
    return _emit_lines(builder, total, numbers, b, i, step, None)


@primitive(lambda total, numbers, b, i, step, n: total)
def add_short_lines(builder, made, total, numbers, b, i, step, n):
    return _emit_lines(builder, total, numbers, b, i, step, emit_first_lanes(builder, n, made.count))


@primitive(lambda total, rows, a, i: total(total, rows, a, types.int64))
def add_products(builder, made, total, rows, a, i):
    """total + sum_k a[i + k] rows[k], in order, where `total` and the rows are vectors."""
    fma = llvm_function(builder.module, "fmuladd", made)
    for k, row in enumerate(rows):
        x = emit_splat(builder, builder.load(builder.gep(a, [builder.add(i, I64(k))])), made.count)
        total = builder.call(fma, [x, row, total])
    return total


@helper
def four_numbers(a, i, step):
    return splat(a, a[i]), splat(a, a[i + step]), splat(a, a[i + 2 * step]), splat(a, a[i + 3 * step])


@helper
def add_to_row(numbers, b, j, step, columns, sums, to, new):
    """sums[to + n] = or, unless they are new, += sum_k numbers[k] b[j + k step + n], in order."""
    LANES, nothing = width(sums), splat(sums, 0)
    whole = columns // LANES * LANES
    for n in range(0, whole, LANES):
        store(add_lines(nothing if new else load(sums, to + n), numbers, b, j + n, step), sums, to + n)
    if whole < columns:
        total = nothing if new else load_some(sums, to + whole, columns - whole, 0)
        total = add_short_lines(total, numbers, b, j + whole, step, columns - whole)
        store_some(total, sums, to + whole, columns - whole)


@helper
def add_rows(K, a, i, a_step, b, j, b_step, columns, sums, to, new):
    """sums[to + n] = or, if they are not new, += sum_k a[i + k a_step] b[j + k b_step + n], in order; K > 0 if new.

    Of eight, four or one row of b at a time the numbers of a stay in registers, from one end of `sums` to the other.
    """
    k = 0
    while k + 8 <= K:
        numbers = four_numbers(a, i + k * a_step, a_step) + four_numbers(a, i + (k + 4) * a_step, a_step)
        add_to_row(numbers, b, j + k * b_step, b_step, columns, sums, to, new and k == 0)
        k += 8
    if k + 4 <= K:
        numbers = four_numbers(a, i + k * a_step, a_step)
        add_to_row(numbers, b, j + k * b_step, b_step, columns, sums, to, new and k == 0)
        k += 4
    while k < K:
        add_to_row((splat(a, a[i + k * a_step]),), b, j + k * b_step, b_step, columns, sums, to, new and k == 0)
        k += 1


@kernel()
def one_row(N, K, a, a_k, b, b_k, start, out, floor):
    """out[n] = max(floor, start[n] + sum_k a[k a_k] b[k b_k + n]); returns how many of the N columns it did."""
    C = 4 * width(b)
    if K >= BLOCK * GROUP:  # sums in float64
        return 0
    some = max(1, K) if K <= WHOLE else BLOCK
    for n in range(0, N // C * C, C):
        total, block = splat4(b, 0), splat4(b, 0)
        for k0 in range(0, K, some):
            total, block = total + block, splat4(b, 0)
            for k in range(k0, min(K, k0 + some)):
                block = add_products(block, (load4(b, k * b_k + n),), a, k * a_k)
        x = load4(start, n) + (total + block)
        store(select(x < floor, floor, x), out, n)  # NaN is not less, and stays
    return N // C * C


@kernel()
def outer_products(x, first, inputs, dz, dw):
    """dw[i,o] = sum_n x[n,i] dz[n,o] for so many i from `first` on, written in order."""
    (N, O), I = dz.shape, x.shape[1]
    samples, slopes, sums = memory.piece(x, 0, x.size), memory.piece(dz, 0, dz.size), memory.piece(dw, 0, dw.size)
    # Of dz what stays in half of the L1 cache, where it would not stay in half of the L2 cache.
    columns = max(1, O) if dz.size * dz.itemsize <= L2 // 2 else max(1, L1 // 2 // (LINE * N)) * LINE // dz.itemsize
    for o in range(0, O, columns):
        some = min(columns, O - o)
        for i in range(first, first + inputs):
            add_rows(N, samples, i, I, slopes, o, O, some, sums, i * O + o, True)
