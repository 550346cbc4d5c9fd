"""The tile: a small matrix product whose results stay in registers.  Everything heavy in tinynet runs on it.

    tile(size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor)

    c[m,n] = max(floor, start[m,n] + sum_j sum_k a[m,j,k] b[j,k,n])        size = (M, N, J, K)

The sum runs over two axes, as over the rows and columns of a window, while the M x N results stay in registers.  The
arrays are C-contiguous and of one dtype; an offset and steps, in elements of the flat array, say what takes part:

    a[m,j,k]     a.flat[a0 + m a_step[0] + j a_step[1] + k a_step[2]]     one element, broadcast to all lanes
    b[j,k,n]     b.flat[b0 + j b_step[0] + k b_step[1] + n]               contiguous over n: a vector
    start[m,n]   start.flat[s0 + m s_step + n]                            a bias (s_step = 0), or c itself
    c[m,n]       c.flat[c0 + m c_step + n]

floor = 0 is a fused ReLU, floor = -inf none.  Nothing is packed or copied: two Zen 4 cores do 220 GFLOP/s in float32
at (1024, 256) x (256, 64), where NumPy's OpenBLAS did 185.

A long sum keeps its digits.  Of 150,528 equal numbers, added one by one in float32, the fourth digit is wrong: the sum
is soon so large that every further number is rounded the same way.  So terms are summed in blocks, each from 0; up to
GROUP blocks are summed in their own dtype, and the groups in float64.

A kernel that calls it is marked `kernel(tiled=True)`.

linear_map, at the end, is a matrix of constants applied to rows of numbers, for Winograd's transforms.

Both are emitted as LLVM vector instructions: no loop that Numba compiles keeps a block of sums in registers.
"""

import threading
import zlib

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from tinynet.kernels.compile import CHECKED, helper
from tinynet.kernels.compile_cache import keep
from tinynet.kernels.long_sums import LongSums
from tinynet.kernels.memory import within
from tinynet.kernels.vectors import FEATURES, I64, LANES, alignment, emit_splat, emit_while, llvm_function, llvm_type


def _tile_shapes(features):
    """(rows, vectors, lanes) of the tile for float32 and float64.

    The accumulators, rows x vectors of them, must stay in registers with one vector of b for each column and the
    broadcast element of a: AVX-512 and NEON have 32 registers, AVX2 16.  On AVX2 8x2 spills: 97 GFLOP/s against
    230 for 6x2.
    """
    rows = 12 if "avx512f" in features else 6 if "avx2" in features else 8 if "neon" in features else 4
    return {dtype: (rows, 2, lanes) for dtype, lanes in LANES.items()}


TILE = _tile_shapes(FEATURES)

# Multiplications from which two threads beat one, for which they are 5 to 9 microseconds' work.  Waking threads takes
# 2, and 6 where the cores' caches lie far apart; and a thread waits for what another wrote.
THREADS_FROM = 2**19


def _tile_in_python(size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor):
    a, b, start, c = a.reshape(-1), b.reshape(-1), start.reshape(-1), c.reshape(-1)
    M, N, J, K = size
    for m in range(M):
        for n in range(N):
            total = np.float64(0)
            for j in range(J):
                for k in range(K):
                    x = a[a0 + m * a_step[0] + j * a_step[1] + k * a_step[2]]
                    total += x * b[b0 + j * b_step[0] + k * b_step[1] + n]
            total += start[s0 + m * s_step + n]
            c[c0 + m * c_step + n] = floor if total < floor else total


@intrinsic
def _tile_in_registers(typing_context, size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor):
    real = c.dtype
    signature = types.void(size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor)

    def codegen(context, builder, signature, args):
        kinds = signature.args

        def whole(position):  # an argument, or each item of a tuple, as int64
            kind, value = kinds[position], args[position]
            items = [kind] if isinstance(kind, types.Integer) else list(kind)
            values = [value] if isinstance(kind, types.Integer) else cgutils.unpack_tuple(builder, value)
            return [context.cast(builder, v, k, types.int64) for v, k in zip(values, items, strict=True)]

        def address(position):  # of the element that an array and the offset behind it name
            array = context.make_array(kinds[position])(context, builder, args[position])
            return builder.gep(array.data, whole(position + 1))

        pointers = [address(1), address(4), address(7), address(10)]
        steps = [*whole(3), *whole(6), *whole(9), *whole(12)]
        floor = context.cast(builder, args[13], kinds[13], real)
        tile = _tile_declared(builder.module, floor.type)
        addresses = [builder.ptrtoint(p, I64) for p in pointers]
        builder.call(tile, [*whole(0), *addresses, *steps, floor])
        return context.get_dummy_value()

    return signature, codegen


# With AVX-512 the tile has 48 bodies, which LLVM takes 1.5 s to compile; within a parallel kernel it would do so four
# times (Numba compiles the loop's body, its wrapper, and the function around them).  So it is compiled once for a
# dtype, to a C function that kernels call by a name; kernel(tiled=True) makes sure that the name is known before
# a kernel is compiled or loaded.

compiled_tiles = {}
_compiling = threading.Lock()


def compile_tile(dtype):
    """Compile the tile for this dtype, unless another thread of Python did so while this one waited."""
    with _compiling:
        if dtype not in compiled_tiles:
            _compile_tile(dtype)


def _compile_tile(dtype):
    real = types.float32 if dtype == np.float32 else types.float64

    def tinynet_tile(M, N, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor):
        _tile_defined(M, N, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor)

    compiled = keep(CFunc(tinynet_tile, ((types.int64,) * 15 + (real,), types.void), locals={}, options={}))
    compiled.compile()
    binding.add_symbol(_tile_name(llvm_type(real)), compiled.address)
    compiled_tiles[np.dtype(dtype)] = compiled  # kept alive: kernels hold its address


def _tile_name(scalar):
    return f"tinynet_tile_{scalar}"


def _tile_declared(module, scalar):
    name, signature = _tile_name(scalar), ir.FunctionType(ir.VoidType(), [I64] * 15 + [scalar])
    return module.globals.get(name) or ir.Function(module, signature, name)


@intrinsic
def _tile_defined(typing_context, M, N, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor):
    signature = types.void(M, N, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor)

    def codegen(context, builder, signature, args):
        args = list(args)
        pointer = llvm_type(floor).as_pointer()
        args[4:8] = [builder.inttoptr(address, pointer) for address in args[4:8]]
        _emit_tile(builder, args, TILE[np.dtype(floor.name)])
        return context.get_dummy_value()

    return signature, codegen


def _emit_tile(builder, args, shape):
    """Emit the tile's code.

    It covers c by panels of columns, each panel by blocks of rows.  At the right edge the last vector is loaded and
    stored under a mask (a vector of half the lanes where that is enough); at the bottom each number of rows has a
    body of its own.  So nothing outside is read or written, and every element is the same sum in the same order.
    """
    rows, vectors, lanes = shape
    M, N = args[:2]
    long_sums = LongSums(builder, args, shape)

    def panel(n, width_vectors, width_lanes, mask):
        """All rows of the columns from n: blocks of `rows`, and what is left in one block or two of the same height.

        (Of 13 rows as 12 and 1, the last would have too few sums to keep the multipliers busy.)
        """
        with emit_while(builder, I64(0), lambda m: builder.icmp_signed("<", m, M)) as (m, advance):
            left = builder.sub(M, m)
            half = builder.udiv(builder.add(left, I64(1)), I64(2))
            one_or_two = builder.select(builder.icmp_signed("<=", left, I64(rows)), left, half)
            height = builder.select(builder.icmp_signed(">=", left, I64(2 * rows)), I64(rows), one_or_two)
            end = builder.append_basic_block("rows.end")
            choice = builder.switch(height, end)
            for count in range(1, rows + 1):
                choice.add_case(I64(count), builder.append_basic_block(f"rows.{count}"))
                builder.position_at_end(choice.cases[-1][1])
                _tile_body(builder, args, long_sums, m, n, count, width_vectors, width_lanes, mask)
                builder.branch(end)
            builder.position_at_end(end)
            advance(builder.add(m, height))

    width = vectors * lanes
    with emit_while(builder, I64(0), lambda n: builder.icmp_signed(">=", builder.sub(N, n), I64(width))) as (
        n,
        advance,
    ):
        panel(n, vectors, lanes, None)
        advance(builder.add(n, I64(width)))
    left, end = builder.sub(N, n), builder.append_basic_block("end")
    for count, size in [(1, lanes // 2), *((v, lanes) for v in range(1, vectors + 1))]:  # the narrowest that holds them
        fits, wider = builder.append_basic_block("fits"), builder.append_basic_block("wider")
        builder.cbranch(builder.icmp_signed("<=", left, I64(count * size)), fits, wider)
        builder.position_at_end(fits)
        with builder.if_then(builder.icmp_signed(">", left, I64(0))):
            lane = ir.Constant(ir.VectorType(I64, size), [(count - 1) * size + i for i in range(size)])
            panel(n, count, size, builder.icmp_signed("<", lane, emit_splat(builder, left, size)))
        builder.branch(end)
        builder.position_at_end(wider)
    builder.branch(end)
    builder.position_at_end(end)


def _tile_body(builder, args, long_sums, m, n, rows, vectors, lanes, mask):
    """Emit rows x vectors accumulators: sum over j and k, add `start`, store c; `mask` is for the last vector.

    `start` comes last, since it is often a large sum already, which the products would be rounded to one by one.
    """
    _, _, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor = args
    vector = ir.VectorType(floor.type, lanes)
    fma = llvm_function(builder.module, "fmuladd", vector)
    tile = [(t, v) for t in range(rows) for v in range(vectors)]

    def masked(v):
        return mask is not None and v == vectors - 1

    def load(p, v):
        p = builder.bitcast(builder.gep(p, [I64(v * lanes)]), vector.as_pointer())
        if masked(v):
            zero = ir.Constant(vector, [0.0] * lanes)
            return builder.call(
                llvm_function(builder.module, "masked.load", vector), [p, alignment(vector), mask, zero]
            )
        return builder.load(p, align=alignment(vector).constant)

    def store(value, p, v):
        p = builder.bitcast(builder.gep(p, [I64(v * lanes)]), vector.as_pointer())
        if masked(v):
            builder.call(llvm_function(builder.module, "masked.store", vector), [value, p, alignment(vector), mask])
        else:
            builder.store(value, p, align=alignment(vector).constant)

    def row(p, step, t):  # of the row m + t, at column n
        return builder.gep(p, [builder.add(builder.mul(builder.add(m, I64(t)), step), n)])

    a_row = [builder.mul(I64(t), a_m) for t in range(rows)]
    nothing = [ir.Constant(vector, [0.0] * lanes)] * len(tile)
    a_first, b_first = builder.gep(a, [builder.mul(m, a_m)]), builder.gep(b, [n])

    def phis(came_from, *values):
        nodes = [builder.phi(value.type) for value in values]
        add_incoming(nodes, came_from, values)
        return nodes

    def add_incoming(nodes, came_from, values):
        for node, value in zip(nodes, values, strict=True):
            node.add_incoming(value, came_from)

    long_sums.start(builder)
    before = builder.block
    outer, block, inner, inner_end, next_block, next_j, end = (
        builder.append_basic_block(name) for name in ("j", "block", "k", "k.end", "block.next", "j.next", "end")
    )
    some = builder.and_(builder.icmp_signed(">", J, I64(0)), builder.icmp_signed(">", K, I64(0)))
    builder.cbranch(some, outer, end)

    builder.position_at_end(outer)
    j, a_outer, b_outer, *sums_outer = of_j = phis(before, I64(0), a_first, b_first, *nothing)
    builder.branch(block)

    builder.position_at_end(block)
    k, a_block, b_block, *sums_block = of_block = phis(outer, I64(0), a_outer, b_outer, *sums_outer)
    left = builder.sub(K, k)
    size = builder.select(builder.icmp_signed("<", left, long_sums.block), left, long_sums.block)
    builder.branch(inner)

    builder.position_at_end(inner)
    todo, a_now, b_now, *sums = of_k = phis(block, size, a_block, b_block, *sums_block)
    columns = [load(b_now, v) for v in range(vectors)]
    # Each third row has a pointer of its own, from which x86 reaches the two below without another instruction.  That
    # LLVM can't see where they come from keeps it from making each from the one before: a loop over 12 rows of 10
    # columns, where the next step so waited for 12 additions, took 1.5 times as long.
    hidden = builder.asm(ir.FunctionType(a.type, [a.type]), "", "=r,0", [a_now], False)
    totals = []
    for t in range(rows):
        third = builder.gep(hidden, [a_row[t - t % 3]])
        x = emit_splat(builder, builder.load(builder.gep(third, [a_row[t % 3]])), lanes)
        totals += [builder.call(fma, [x, columns[v], sums[t * vectors + v]]) for v in range(vectors)]
    following = [builder.sub(todo, I64(1)), builder.gep(a_now, [a_k]), builder.gep(b_now, [b_k]), *totals]
    add_incoming(of_k, inner, following)
    builder.cbranch(builder.icmp_signed(">", following[0], I64(0)), inner, inner_end)

    builder.position_at_end(inner_end)
    _, a_next, b_next, *_ = following
    j_next, k_next = builder.add(j, I64(1)), builder.add(k, size)
    further_k, further_j = builder.icmp_signed("<", k_next, K), builder.icmp_signed("<", j_next, J)
    sums = long_sums.keep(builder, totals, vectors, size)
    builder.cbranch(further_k, next_block, next_j)
    builder.position_at_end(next_block)
    add_incoming(of_block, builder.block, [k_next, a_next, b_next, *sums])
    builder.branch(block)
    builder.position_at_end(next_j)
    add_incoming(of_j, builder.block, [j_next, builder.gep(a_outer, [a_j]), builder.gep(b_outer, [b_j]), *sums])
    builder.cbranch(further_j, outer, end)

    builder.position_at_end(end)
    results = phis(before, *nothing)
    add_incoming(results, next_j, sums)
    results = long_sums.results(builder, results, vectors)

    least = emit_splat(builder, floor, lanes)
    for (t, v), total in zip(tile, results, strict=True):
        total = builder.fadd(load(row(s, s_m, t), v), total)
        less = builder.fcmp_ordered("<", total, least)  # false for NaN, which so stays
        store(builder.select(less, least, total), row(c, c_m, t), v)


def _tile_within(size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor):
    M, N, J, K = size
    if M > 0 and N > 0:
        if J > 0 and K > 0:
            within(a, a0, (M - 1) * a_step[0], (J - 1) * a_step[1], (K - 1) * a_step[2])
            within(b, b0, (J - 1) * b_step[0], (K - 1) * b_step[1], N - 1)
        within(start, s0, (M - 1) * s_step, N - 1, 0)
        within(c, c0, (M - 1) * c_step, N - 1, 0)
    _tile_in_registers(size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor)


tile = _tile_in_python if numba.config.DISABLE_JIT else helper(_tile_within) if CHECKED else _tile_in_registers


# --- a small matrix applied to rows of numbers ------------------------------------------------------------


def linear_map(matrix, add=False):
    """A function for kernels that multiplies rows of numbers by a small constant matrix (I, J):

    apply(source, s0, s_step, result, r0, r_step, count)
        result[i,c] = sum_j matrix[i,j] source[j,c]                       c < count
        source[j,c] is source.flat[s0 + j s_step + c], and result alike

    `add` adds to what is in result.  Zeros of the matrix cost nothing, and ones an addition.
    """
    matrix = np.asarray(matrix, float)

    def in_python(source, s0, s_step, result, r0, r_step, count):
        source, result = source.reshape(-1), result.reshape(-1)
        for c in range(count):
            column = [source[s0 + j * s_step + c] for j in range(matrix.shape[1])]
            for i, weights in enumerate(matrix):
                at = r0 + i * r_step + c
                total = sum(w * x for w, x in zip(weights, column, strict=True))
                result[at] = result[at] + total if add else total

    if numba.config.DISABLE_JIT:
        return in_python

    @intrinsic
    def apply(typing_context, source, s0, s_step, result, r0, r_step, count):
        def codegen(context, builder, signature, args):
            def address(position):
                array = context.make_array(signature.args[position])(context, builder, args[position])
                return builder.gep(array.data, [whole(position + 1)])

            def whole(position):
                return context.cast(builder, args[position], signature.args[position], types.int64)

            function = _linear_map_function(builder.module, matrix, add, llvm_type(result.dtype))
            builder.call(function, [address(0), whole(2), address(3), whole(5), whole(6)])
            return context.get_dummy_value()

        return types.void(source, s0, s_step, result, r0, r_step, count), codegen

    I, J = matrix.shape

    def apply_within(source, s0, s_step, result, r0, r_step, count):
        if count > 0:
            within(source, s0, (J - 1) * s_step, count - 1, 0)
            within(result, r0, (I - 1) * r_step, count - 1, 0)
        apply(source, s0, s_step, result, r0, r_step, count)

    return helper(apply_within) if CHECKED else apply


def _linear_map_function(module, matrix, add, scalar):
    """The map as a function of the LLVM module: several kernels call it, and inlined it is compiled each time."""
    name = f"tinynet.map.{zlib.crc32(matrix.tobytes())}.{add}.{scalar}"
    if name in module.globals:
        return module.globals[name]
    pointer = scalar.as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, I64, pointer, I64, I64]), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    source, s_step, result, r_step, count = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    c = I64(0)
    for lanes in (TILE[np.dtype("f4" if scalar == ir.FloatType() else "f8")][2], 1):  # what is left, one by one
        vector = ir.VectorType(scalar, lanes)
        fma = llvm_function(module, "fmuladd", vector)

        def at(p, step, row, c, vector=vector):
            p = builder.gep(p, [builder.add(builder.mul(I64(row), step), c)])
            return builder.bitcast(p, vector.as_pointer())

        def more(c, lanes=lanes):
            return builder.icmp_signed("<=", builder.add(c, I64(lanes)), count)

        with emit_while(builder, c, more) as (c, advance):
            align = alignment(vector).constant
            rows = [builder.load(at(source, s_step, j, c), align=align) for j in range(matrix.shape[1])]
            for i, weights in enumerate(matrix):
                place = at(result, r_step, i, c)
                total = builder.load(place, align=align) if add else None
                for w, x in sorted(zip(weights, rows, strict=True), key=lambda term: abs(term[0]) != 1):
                    weight = ir.Constant(vector, [w] * lanes)
                    if w == 0:
                        continue
                    if total is None:
                        total = x if w == 1 else builder.fmul(weight, x)
                    elif abs(w) == 1:
                        total = (builder.fadd if w > 0 else builder.fsub)(total, x)
                    else:
                        total = builder.call(fma, [weight, x, total])
                builder.store(total, place, align=align)
            advance(builder.add(c, I64(lanes)))
    builder.ret_void()
    return function
