"""turned: a product whose second factor has contiguous columns, not rows; as w.T, for a layer's input gradient.

    out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n])          a[m,k] and b[k,n] lie side by side over k

tile.py wants b contiguous over n, and reads a as it lies.  To transpose b takes as long as 12 to 19 multiplications for
each of its numbers, and each is used in M of them: a third of the time where M is 32.  But the product of the
transposed matrices is the transposed product,

    out.T = b.T a.T

and there b is the factor that is read as it lies, from which nothing is copied.  What is transposed instead is a, which
is small where M is, and the result.  dx of 32 samples and weights (1000, 1000) goes so at 245 GFLOP/s, instead of 158
(one thread of an AMD EPYC, Zen 5, with a peak of 272); of 128 samples and (4096, 4096) at 230 and 200.

Each sum is over k in the same order, and cut alike (tile.LongSums): the bits are those of the other products.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic

from tinynet.kernels.compile import kernel
from tinynet.kernels.llvm import llvm_type
from tinynet.kernels.memory import array_at, scratch
from tinynet.kernels.packed import PIECE, widen
from tinynet.kernels.packed_tile import VECTORS
from tinynet.kernels.tile import BLOCK, GROUP, TILE, WHOLE, emit_matmul
from tinynet.kernels.transpose import transpose
from tinynet.kernels.vectors import load, load_some, select, splat, store, store_some, width

DEEP = BLOCK * GROUP  # terms in a panel of a.T at most; sums of so many are added in float64
STEP = PIECE + 16  # from one row of a piece's sums to the next: rows 2 KB apart would share a few sets of the L1 cache


@intrinsic
def _multiply(typing_context, M, N, J, K, a, b, s, o, later, a_m, a_j, a_k, b_j, b_k, s_m, o_m, later_k, floor):
    def codegen(context, builder, signature, args):
        pointer = llvm_type(floor).as_pointer()
        addresses = [builder.inttoptr(address, pointer) for address in args[4:9]]
        emit_matmul(builder, [*args[:4], *addresses, *args[9:]], TILE[np.dtype(floor.name)])
        return context.get_dummy_value()

    return types.void(M, N, J, K, a, b, s, o, later, a_m, a_j, a_k, b_j, b_k, s_m, o_m, later_k, floor), codegen


@kernel()
def multiply_as_they_lie(M, N, J, K, a, b, s, o, later, a_m, a_j, a_k, b_j, b_k, s_m, o_m, later_k, floor):
    """tile.py's product; a, b, s (start), o (out) and later are addresses.  A function, so that it is compiled once."""
    _multiply(M, N, J, K, a, b, s, o, later, a_m, a_j, a_k, b_j, b_k, s_m, o_m, later_k, floor)


@kernel()
def add_part(size, like, b, b_n, panel, start, step, sums, few, floor):
    """sums[n,m] = start[n,m] + sum_k b[n,k] panel[k,m], for so many n, m and k, where all are addresses.

    few  whether the terms are no more than WHOLE, but part of a longer sum, which is cut into blocks
    """
    columns, rows, terms = size
    C, itemsize = VECTORS * width(like), like.itemsize
    some = BLOCK if few else max(1, terms)
    for k in range(0, max(1, terms), some):
        at, row, count = b + k * itemsize, panel + k * C * itemsize, min(some, terms - k)
        multiply_as_they_lie(columns, rows, 1, count, at, row, start, sums, b, b_n, 0, 1, 0, C, step, C, 0, floor)
        start, step = sums, C


@kernel()
def turned_product(M, N, K, a, b, s, o, a_m, b_n, s_m, o_m, floor):
    """out (M, N) of a (M, K) and b (K, N); a, b, s (start) and o (out) are addresses.

    The steps are those from one row of a, start and out, and from one column of b, to the next.
    """
    # Numba frees an array behind the last line that names it, and an address is no name.  All are named in the loop.
    given, start, out = array_at(a, floor), array_at(s, floor), array_at(o, floor)
    LANES, no_floor = width(given), given.dtype.type(-np.inf)
    C, wide = VECTORS * LANES, K >= DEEP
    # In float64, what is less than a block at the end is added to the rounded total of all blocks.
    blocks_end = K // BLOCK * BLOCK if wide else K
    panel, zeros = scratch((min(K, DEEP) * C,), given), scratch((C,), given)
    sums, upright = scratch((min(N, PIECE) * C,), given), scratch((C * STEP,), given)
    totals = np.empty(sums.size if wide else 0)
    for v in range(0, C, LANES):
        store(splat(zeros, 0), zeros, v)
    for m in range(0, M, C):
        rows = min(C, M - m)
        for n in range(0, N, PIECE):
            columns, k, last = min(PIECE, N - n), 0, False
            while not last:
                rest = wide and k == blocks_end
                end = K if rest else min(k + DEEP, blocks_end)
                last = end == K
                if n == 0 or wide:
                    transpose(given, m * a_m + k, a_m, panel, 0, C, rows, end - k)
                size, few, of = (columns, rows, end - k), wide and end - k <= WHOLE, b + (n * b_n + k) * given.itemsize
                to, nothing = np.int64(sums.ctypes.data), np.int64(zeros.ctypes.data)
                begin, step = (to, C) if rest else (nothing, 0)
                add_part(size, given, of, b_n, np.int64(panel.ctypes.data), begin, step, to, few, no_floor)
                if wide and not rest:
                    widen(sums, totals, k == 0, end == blocks_end)
                k = end
            transpose(sums, 0, C, upright, 0, STEP, columns, rows)
            for r in range(rows):
                from_start, to = (m + r) * s_m + n, (m + r) * o_m + n
                for v in range(0, columns, LANES):
                    x = load_some(start, from_start + v, columns - v, 0) + load(upright, r * STEP + v)
                    x = select(x < floor, floor, x)  # NaN is not less, and stays
                    store_some(x, out, to + v, columns - v)
