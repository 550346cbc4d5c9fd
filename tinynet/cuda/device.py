"""What CUDA kernels share, and all that they need of numba.cuda: wide loads, reductions, sums in a fixed order.

A kernel is written once and runs twice: compiled on a GPU, and in Numba's simulator (NUMBA_ENABLE_CUDASIM=1), where
every CUDA thread is a thread of Python.  The simulator lacks four things, and for each of them a function of the same
meaning is swapped in here; all the rest of a kernel is the same code:

    get, put          one number from or to an array, widened to float32 from float16 and bfloat16
    get_pack, ...     sixteen bytes of neighbouring numbers at once, one instruction on a GPU
    reduction         a maximum or sum over a warp (its 32 threads run in step), or over a block of warps
    exp, log1p        Python's own raise an exception where a GPU gives inf

Numba has no bfloat16 arrays of its own.  They reach kernels as uint16: the upper half of a float32's bits.

This module can only be imported where numba-cuda is, so it is imported when the first device array comes along.
"""

import math
from functools import cache

import numpy as np

try:
    import _numba_cuda_redirector  # noqa: F401  Turns numba.cuda into numba-cuda, also where no .pth file did
    from numba import cuda
except ImportError:
    cuda = None
if getattr(cuda, "implementation", None) != "NVIDIA":
    raise ImportError('device arrays need the package numba-cuda: pip install "tinynet-numba[cuda]"')
from llvmlite import ir
from numba import types
from numba.cuda.core import config
from numba.cuda.core.errors import NumbaPerformanceWarning as NumbaPerformanceWarning

SIMULATOR = bool(config.ENABLE_CUDASIM)
BFLOAT16 = np.dtype("V2")  # how PyTorch and ml_dtypes write it in __cuda_array_interface__
FLOATS = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16)
PACK_BYTES = 16  # the widest load a thread has
WARP = 32  # threads
CHUNK = 4096  # numbers that a block adds up; their order must not depend on the machine
ADDERS = 256  # the threads that do, or fewer where there are fewer numbers
NO_FAULT = np.int64(2**63 - 1)


def kernel(threads):
    """A decorator: a kernel for at most `threads` in a block."""
    return cuda.jit if SIMULATOR else cuda.jit(launch_bounds=threads)


def helper(function):
    """A decorator for a function that kernels call: it becomes part of them."""
    return cuda.jit(device=True)(function) if SIMULATOR else cuda.jit(device=True, forceinline=True)(function)


def computed_in(dtype):
    """The type of number that arrays of this dtype are computed in: as NumPy's and as Numba's."""
    return (np.float64, types.float64) if dtype == np.float64 else (np.float32, types.float32)


def stored_as(dtype):
    """The dtype under which kernels see these arrays."""
    return np.dtype(np.uint16) if dtype == BFLOAT16 else dtype


# --- numbers and packs of numbers ---------------------------------------------------------------------------

if SIMULATOR:
    exp, log1p = np.exp, np.log1p

    def get(a, i):
        """a[i]"""
        if a.dtype == np.uint16:
            return np.uint32(int(a[i]) << 16).view(np.float32)
        return np.float32(a[i]) if a.dtype == np.float16 else a[i]

    def put(a, i, value):
        """a[i] = value, rounded to nearest"""
        if a.dtype == np.uint16:
            bits = int(np.float32(value).view(np.uint32))
            value = 0x7FC0 if np.isnan(value) else (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        a[i] = value

    def quotient(i, divisor):
        """i // divisor, for numbers from 0 to below 2^31; with a divisor that is constant, one multiplication."""
        return i // divisor

    def get_pack(a, i, x):
        """x[:] = a[i : i + 16 bytes]; i is a multiple of the pack's length, and the array starts at one of 16 bytes."""
        for k in range(len(x)):
            x[k] = get(a, i + k)

    def put_pack(a, i, x):
        """The reverse of get_pack."""
        for k in range(len(x)):
            put(a, i + k, x[k])

else:
    from numba.cuda import libdevice
    from numba.cuda.extending import intrinsic

    exp, log1p = math.exp, math.log1p
    _HALF, _I16, _I32, _FLOAT = ir.HalfType(), ir.IntType(16), ir.IntType(32), ir.FloatType()

    def _element(array_type):
        """The type of the array's numbers, as LLVM names it and as kernels compute with it."""
        element = {types.float64: ir.DoubleType(), types.float32: _FLOAT, types.float16: _HALF, types.uint16: _I16}
        return element[array_type.dtype], types.float64 if array_type.dtype == types.float64 else types.float32

    def _pointer(context, builder, array_type, array, i, to):
        address = builder.gep(context.make_array(array_type)(context, builder, array).data, [i])
        return builder.bitcast(address, to.as_pointer())

    def _widened(builder, x):
        if x.type == _I16:
            return builder.bitcast(builder.shl(builder.zext(x, _I32), _I32(16)), _FLOAT)
        return builder.fpext(x, _FLOAT) if x.type == _HALF else x

    def _narrowed(builder, x, element):
        if element == _I16:  # to nearest, ties to even; NaN stays one, whichever bits it has
            bits = builder.bitcast(x, _I32)
            odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
            rounded = builder.lshr(builder.add(bits, builder.add(odd, _I32(0x7FFF))), _I32(16))
            nan = builder.fcmp_unordered("uno", x, x)
            return builder.trunc(builder.select(nan, _I32(0x7FC0), rounded), _I16)
        return builder.fptrunc(x, element) if element == _HALF else x

    @intrinsic
    def get(typing_context, a, i):
        element, number = _element(a)

        def codegen(context, builder, signature, args):
            return _widened(builder, builder.load(_pointer(context, builder, a, *args, element)))

        return number(a, i), codegen

    @intrinsic
    def put(typing_context, a, i, value):
        element, _ = _element(a)

        def codegen(context, builder, signature, args):
            builder.store(
                _narrowed(builder, args[2], element), _pointer(context, builder, a, args[0], args[1], element)
            )
            return context.get_dummy_value()

        return types.void(a, i, _element(a)[1]), codegen

    @intrinsic
    def quotient(typing_context, i, divisor):
        def codegen(context, builder, signature, args):
            i, divisor = (builder.trunc(x, _I32) for x in args)
            return builder.zext(builder.udiv(i, divisor), ir.IntType(64))

        return types.int64(types.int64, types.int64), codegen

    # Sixteen bytes travel as one vector, of 32-bit integers where the numbers have 16 bits: PTX has no longer vector
    # than of four.  x is a thread's own array, which stays in registers as long as every index into it is a constant.

    def _pack_type(element):
        if element == _I16:
            return ir.VectorType(_I32, 4), ir.VectorType(_I32, 4)
        if element == _HALF:
            return ir.VectorType(_I32, 4), ir.VectorType(element, 8)
        pack = ir.VectorType(element, 4 if element == _FLOAT else 2)
        return pack, pack

    @intrinsic
    def get_pack(typing_context, a, i, x):
        element, _ = _element(a)

        def codegen(context, builder, signature, args):
            travelling, pack = _pack_type(element)
            values = builder.load(_pointer(context, builder, a, args[0], args[1], travelling), align=PACK_BYTES)
            values = builder.bitcast(values, pack)
            values = [builder.extract_element(values, _I32(k)) for k in range(pack.count)]
            if element == _I16:  # two in one: the lower half, shifted up, and the upper half, where it is
                halves = [(builder.shl(two, _I32(16)), builder.and_(two, _I32(0xFFFF0000))) for two in values]
                values = [builder.bitcast(half, _FLOAT) for two in halves for half in two]
            data = context.make_array(x)(context, builder, args[2]).data
            for k, value in enumerate(values):
                builder.store(_widened(builder, value), builder.gep(data, [_I32(k)]))
            return context.get_dummy_value()

        return types.void(a, i, x), codegen

    @intrinsic
    def put_pack(typing_context, a, i, x):
        element, _ = _element(a)

        def codegen(context, builder, signature, args):
            travelling, pack = _pack_type(element)
            data = context.make_array(x)(context, builder, args[2]).data
            values = [builder.load(builder.gep(data, [_I32(k)])) for k in range(PACK_BYTES * 8 // a.dtype.bitwidth)]
            values = [_narrowed(builder, value, element) for value in values]
            if element == _I16:
                values = [builder.zext(value, _I32) for value in values]
                pairs = zip(values[::2], values[1::2], strict=True)
                values = [builder.or_(low, builder.shl(high, _I32(16))) for low, high in pairs]
            vector = ir.Constant(pack, ir.Undefined)
            for k, value in enumerate(values):
                vector = builder.insert_element(vector, value, _I32(k))
            vector = builder.bitcast(vector, travelling)
            builder.store(vector, _pointer(context, builder, a, args[0], args[1], travelling), align=PACK_BYTES)
            return context.get_dummy_value()

        return types.void(a, i, x), codegen


@cache
def packs(dtype, wide):
    """How many numbers a pack has, and read(a, i, hop, left, beyond, x) and write(a, i, hop, left, x).

    x[k] is a[i + k hop], or `beyond` where k hop is not below `left`.  `wide` packs have hop = 1, are whole, and start
    at multiples of 16 bytes.
    """
    PACK = PACK_BYTES // dtype.itemsize

    @helper
    def read_wide(a, i, hop, left, beyond, x):
        get_pack(a, i, x)

    @helper
    def write_wide(a, i, hop, left, x):
        put_pack(a, i, x)

    @helper
    def read(a, i, hop, left, beyond, x):
        if (PACK - 1) * hop < left:  # nearly always: one comparison for all
            for k in range(PACK):
                x[k] = get(a, i + k * hop)
        else:
            for k in range(PACK):
                x[k] = get(a, i + k * hop) if k * hop < left else beyond

    @helper
    def write(a, i, hop, left, x):
        if (PACK - 1) * hop < left:
            for k in range(PACK):
                put(a, i + k * hop, x[k])
        else:
            for k in range(PACK):
                if k * hop < left:
                    put(a, i + k * hop, x[k])

    return (PACK, read_wide, write_wide) if wide else (PACK, read, write)


@cache
def division(dtype):
    """A function: a / b for b from 1 to 2, exact for 1; in float32 off by 2 ulp at most, with 4 instructions, not 8."""
    ONE = computed_in(dtype)[0](1)

    @helper
    def divided(a, b):
        return a / b

    @helper
    def quickly_divided(a, b):
        return a if b == ONE else libdevice.fast_fdividef(a, b)

    return divided if SIMULATOR or dtype == np.float64 else quickly_divided


# --- reductions -----------------------------------------------------------------------------------------------


@helper
def larger(a, b):
    """The larger of a and b, and a where b is NaN."""
    return max(a, b)


@helper
def smaller(a, b):
    return min(a, b)


@helper
def added(a, b):
    return a + b


@helper
def itself(a):
    return a


if SIMULATOR:
    _seats = [None] * 1024  # Not a shared array: two threads that first ask the simulator for one may get two.

    @cache
    def _over_lanes(combine, lanes):
        @helper
        def reduce(value):
            me = cuda.threadIdx.x
            _seats[me] = value
            cuda.syncthreads()
            values = _seats[me // lanes * lanes :][:lanes]
            cuda.syncthreads()
            while len(values) > 1:
                half = len(values) // 2
                values = [combine.fn(values[k], values[k + half]) for k in range(half)]
            return values[0]

        return reduce

else:

    @cache
    def _over_lanes(combine, lanes):
        EVERY = (1 << lanes) - 1
        distances = tuple(d for d in (16, 8, 4, 2, 1) if d < lanes)

        @helper
        def reduce(value):
            us = EVERY  # a bit for each lane
            if lanes < WARP:  # others may be elsewhere
                us = EVERY << (cuda.threadIdx.x % WARP // lanes * lanes)
            cuda.syncwarp(us)  # What they read before is read, once one of them writes: in place, that matters.
            for distance in distances:
                value = combine(value, cuda.shfl_xor_sync(us, value, distance))
            return value

        return reduce


@cache
def reduction(combine, group, number):
    """A function that every thread of a group calls with a value, and that gives all of them the values combined.

    A group is a "thread", so many lanes of a warp (8, 16 or 32), or a "block"; the order in it is always the same.
    `number` is the values' type.  A block needs GROUP_BYTES bytes of its shared memory.
    """
    if group == "thread":
        return itself
    if group != "block":
        return _over_lanes(combine, group)
    over_warp = _over_lanes(combine, WARP)
    NOTHING = {larger: -math.inf, smaller: NO_FAULT, added: 0}[combine]  # changes nothing that it is combined with

    @helper
    def over_block(value):
        warps, lane = cuda.shared.array(0, number), cuda.threadIdx.x % WARP
        value = over_warp(value)
        if lane == 0:
            warps[cuda.threadIdx.x // WARP] = value
        cuda.syncthreads()
        value = number(NOTHING)
        if lane < cuda.blockDim.x // WARP:
            value = warps[lane]
        value = over_warp(value)  # once more, in each warp: all of them get the same sum
        cuda.syncthreads()
        return value

    return over_block


GROUP_BYTES = 8 * 32  # bytes of shared memory for them: a block has at most 32 warps


@cache
def sum_chunks(dtype):
    """A kernel: sums[k] = the sum of chunk k of `values`, divided; faults[k] = the smallest of chunk k of `strange`.

    Each block takes one chunk of CHUNK numbers.  It divides by `divisor`, or by total[0] where that is 0; and a sum
    over a total of 0 is 0.  `strange` and `faults` may be empty.
    """
    number, numba_type = computed_in(dtype)
    ZERO = number(0)
    total_of, first_of = reduction(added, "block", numba_type), reduction(smaller, "block", types.int64)

    @kernel(ADDERS)
    def sum_chunk(values, strange, divisor, total, sums, faults):
        start, value, fault = cuda.blockIdx.x * CHUNK, ZERO, NO_FAULT
        for i in range(start + cuda.threadIdx.x, min(start + CHUNK, values.size), cuda.blockDim.x):
            value += values[i]
        for i in range(start + cuda.threadIdx.x, min(start + CHUNK, strange.size), cuda.blockDim.x):
            fault = min(fault, strange[i])
        value, fault = total_of(value), first_of(fault)
        if cuda.threadIdx.x == 0:
            if divisor == ZERO:
                divisor = total[0]
            sums[cuda.blockIdx.x] = value / divisor if divisor > ZERO else ZERO
            if faults.size > 0:
                faults[cuda.blockIdx.x] = fault

    return sum_chunk
