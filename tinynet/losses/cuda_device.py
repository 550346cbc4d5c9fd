"""All that tinynet knows of numba.cuda: wide loads, reductions, and the way from a caller's array to a kernel and back.

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
import warnings
from functools import cache
from typing import NamedTuple

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
from numba.cuda.core.errors import NumbaPerformanceWarning

from tinynet.losses import checks

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
        for k in range(PACK):
            x[k] = get(a, i + k * hop) if k * hop < left else beyond

    @helper
    def write(a, i, hop, left, x):
        for k in range(PACK):
            if k * hop < left:
                put(a, i + k * hop, x[k])

    return (PACK, read_wide, write_wide) if wide else (PACK, read, write)


@cache
def division(dtype):
    """A function: a / b for b from 1 to 2; in float32 off by 2 ulp at most, with 2 instructions in place of 8."""

    @helper
    def divided(a, b):
        return a / b

    @helper
    def quickly_divided(a, b):
        return libdevice.fast_fdividef(a, b)

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
    def _over_warp(combine):
        @helper
        def reduce(value):
            me = cuda.threadIdx.x
            _seats[me] = value
            cuda.syncthreads()
            values = _seats[me // WARP * WARP :][:WARP]
            cuda.syncthreads()
            for distance in (16, 8, 4, 2, 1):
                values = [combine.fn(values[k], values[k ^ distance]) for k in range(distance)]
            return values[0]

        return reduce

else:

    @cache
    def _over_warp(combine):
        @helper
        def reduce(value):
            cuda.syncwarp()  # What the warp read before is read, once a thread of it writes: in place, that matters.
            for distance in (16, 8, 4, 2, 1):
                value = combine(value, cuda.shfl_xor_sync(0xFFFFFFFF, value, distance))
            return value

        return reduce


@cache
def reduction(combine, group, number):
    """A function that every thread of a group calls with a value, and that gives all of them the values combined.

    A group is a "thread", a "warp" or a "block"; the order in it is always the same.  `number` is the values' type.
    A block needs SEATS bytes of its shared memory.
    """
    if group == "thread":
        return itself
    over_warp = _over_warp(combine)
    if group == "warp":
        return over_warp

    @helper
    def over_block(value):
        warps = cuda.shared.array(0, number)
        value = over_warp(value)
        if cuda.threadIdx.x % WARP == 0:
            warps[cuda.threadIdx.x // WARP] = value
        cuda.syncthreads()
        value = warps[0]
        for k in range(1, cuda.blockDim.x // WARP):
            value = combine(value, warps[k])
        cuda.syncthreads()
        return value

    return over_block


SEATS = 8 * 32  # bytes of shared memory for them: a block has at most 32 warps


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


# --- arrays: in, between and out ------------------------------------------------------------------------------


@cache
def copy_kernel(dtype=None):
    """A kernel: target = source for arrays of any layout and as many numbers, one of the two flat.

    With a dtype, that of a flat target, numbers are converted; else they are of one dtype.
    """
    number = computed_in(dtype)[0] if dtype is not None else None

    @kernel(ADDERS)
    def copy(source, target):
        i = cuda.grid(1)
        if i < target.size:
            target.flat[i] = source.flat[i]

    @kernel(ADDERS)
    def convert(source, target):
        i = cuda.grid(1)
        if i < target.size:
            put(target, i, number(source.flat[i]))

    return copy if dtype is None else convert


class Taken(NamedTuple):
    """A caller's device array: `array` is a view of it that kernels can take, of the dtype stored_as(dtype)."""

    array: object
    shape: tuple
    dtype: np.dtype
    contiguous: bool
    start: int  # the address of its first byte, and that behind its last
    stop: int
    read_only: bool
    stream: int | None  # the one that the array's owner says it works on

    @property
    def size(self):
        return math.prod(self.shape)

    def overlaps(self, other):
        return self.start < other.stop and other.start < self.stop


def taken(x, name, what):
    """The device array x, without a copy; a TypeError where it is on the host."""
    if SIMULATOR and getattr(x, "__cuda_ndarray__", False):
        shape, strides, dtype, start = tuple(x.shape), x.strides, x.dtype, address(x)
        array, read_only, stream = x.view(np.uint16) if dtype == BFLOAT16 else x, False, None
    elif hasattr(x, "__cuda_array_interface__"):
        interface = x.__cuda_array_interface__
        shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
        (start, read_only), stream = interface["data"], interface.get("stream")
        seen = {**interface, "typestr": stored_as(dtype).str}
        array = cuda.from_cuda_array_interface(seen, owner=x, sync=False)
        strides = array.strides
    else:
        raise TypeError(
            f"{name}: {what} must be on the device like the other arrays, got {type(x).__name__} on the host."
            " Nothing is copied from one to the other unasked."
        )
    contiguous, expected = True, dtype.itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        contiguous &= size == 1 or stride == expected
        expected *= size
    spans = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    first, last = start + sum(min(0, span) for span in spans), start + sum(max(0, span) for span in spans)
    return Taken(array, shape, dtype, contiguous, first, last + dtype.itemsize, read_only, stream)


def given(name, logits, **others):
    """The arrays of a loss's arguments, each as Taken, or None.  Logits must be floats, and not empty."""
    arrays = {what: None if x is None else taken(x, name, what) for what, x in {"logits": logits, **others}.items()}
    z = arrays["logits"]
    if z.dtype not in FLOATS:
        raise TypeError(f"{name}: logits must be float32, float64, float16 or bfloat16, got an array of {z.dtype}")
    if z.size == 0:
        raise ValueError(f"{name}: logits must not be empty, got shape {z.shape}")
    t = arrays["targets"]
    if t.dtype == BFLOAT16 and z.dtype != BFLOAT16:
        raise TypeError(f"{name}: targets of bfloat16 need logits of bfloat16, got {z.dtype}")
    return arrays


def stand_in(array):
    """An array on the host of the same shape and dtype, for a check that looks at no more."""
    return np.broadcast_to(np.zeros((), np.float32 if array.dtype == BFLOAT16 else array.dtype), array.shape)


def chosen_stream(stream, arrays, name):
    """The stream to work on: `stream` where given, else the first that an array states, else the default stream.

    It is made to wait for what the arrays' other streams hold now.
    """
    if SIMULATOR:
        return 0
    stated = [array.stream for array in arrays.values() if array is not None and array.stream is not None]
    if stream is None:
        handle = stated[0] if stated else 0
    elif hasattr(stream, "__cuda_stream__"):
        handle = stream.__cuda_stream__()[1]
    elif isinstance(stream, int) and not isinstance(stream, bool):
        handle = stream
    else:
        raise TypeError(f"{name}: stream must be a handle or have __cuda_stream__, got {type(stream).__name__}")
    mine = cuda.external_stream(int(handle)) if handle else 0  # 0: Numba's name for the default stream
    for other in dict.fromkeys(stated):
        if other != handle:
            event = cuda.event(timing=False)
            event.record(cuda.external_stream(other))
            event.wait(mine)
    return mine


def whole_warps(n, most):
    """Threads for n numbers: a multiple of a warp's, and at most `most`."""
    return min(most, -(-n // WARP) * WARP)


def launch(kernel, blocks, threads, stream, *arguments, shared=SEATS):
    """Run a kernel with `shared` bytes of shared memory for each block."""
    with warnings.catch_warnings():  # Numba finds that fewer than 128 blocks leave a GPU idle; small batches do.
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        configured = kernel[blocks, threads, stream, shared]
    configured(*arguments)


def empty(shape, dtype, stream):
    """A fresh device array, which states the stream it is filled on."""
    return cuda.device_array(shape, dtype, stream=stream)


def shaped(array, shape):
    """A contiguous device array in another shape, which may be ()."""
    if SIMULATOR:
        return array.reshape(shape)
    interface = {**array.__cuda_array_interface__, "shape": shape, "strides": None}
    return cuda.from_cuda_array_interface(interface, owner=array, sync=False)


def flat(taken, dtype, stream):
    """The array's numbers as a flat, contiguous array of `dtype`: a view of the caller's where it is so already."""
    if taken.contiguous and taken.dtype == dtype:
        return shaped(taken.array, (taken.size,))
    result = empty(taken.size, stored_as(dtype), stream)
    copy = copy_kernel(None if taken.dtype == dtype else dtype)
    launch(copy, -(-taken.size // ADDERS), ADDERS, stream, taken.array, result)
    return result


def on_host(array, stream):
    """The array, copied to the host once the stream has filled it: this waits."""
    result = array.copy_to_host(stream=stream)
    if stream:
        stream.synchronize()
    return result


def to_host(taken, stream):
    """A caller's array on the host, for an error message."""
    values = on_host(flat(taken, taken.dtype, stream), stream).reshape(taken.shape)
    return (values.astype(np.uint32) << 16).view(np.float32) if taken.dtype == BFLOAT16 else values


def per_class(weight, C, number, check, name, what, stream):
    """Weights (C,) as a flat array of `number`, empty for None.  Only with `check` are their values looked at."""
    if weight is None:
        return empty(0, number, stream)
    if check or weight.shape != (C,) or weight.dtype.kind not in "fiu":
        checks.per_class(to_host(weight, stream), C, np.dtype(number), name, what)
    return flat(weight, np.dtype(number), stream)


def address(array):
    return array.ctypes.data if SIMULATOR else array.__cuda_array_interface__["data"][0]


def aligned(*arrays):
    """Do all of them start where a pack may?"""
    return all(array.size == 0 or address(array) % PACK_BYTES == 0 for array in arrays)


def gradient(grad, out, arrays, name, stream):
    """Where the gradient goes: a flat array for the kernel, what the loss returns, and what to call at the end.

    The kernel fills `out` itself unless it isn't contiguous, or overlaps what the kernel reads; only logits may be
    the same array, whose elements the kernel reads before it writes them.
    """
    z, o = arrays["logits"], arrays["out"]
    if o is None and grad and z.dtype == BFLOAT16:
        raise ValueError(f"{name}: the gradient of bfloat16 logits needs out=, since Numba has no such arrays")
    if o is None:
        fresh = empty(z.shape if grad else 0, stored_as(z.dtype), stream)
        return shaped(fresh, (fresh.size,)) if grad else fresh, fresh if grad else None, lambda: None
    if not grad:
        raise ValueError(f"{name}: out receives the gradient, but grad=False asks for none")
    if o.shape != z.shape:
        raise ValueError(f"{name}: out must have the prediction's shape {z.shape}, got {o.shape}")
    if o.dtype != z.dtype:
        raise TypeError(f"{name}: out must have the prediction's dtype {z.dtype}, got {o.dtype}")
    if o.read_only:
        raise ValueError(f"{name}: out is read-only")
    others = [array for what, array in arrays.items() if what not in ("out", "logits") and array is not None]
    in_place = o.start == z.start and z.contiguous
    if o.contiguous and (in_place or not o.overlaps(z)) and not any(o.overlaps(other) for other in others):
        return shaped(o.array, (o.size,)), out, lambda: None
    fresh = empty(z.size, stored_as(z.dtype), stream)
    copied = -(-z.size // ADDERS), ADDERS, stream, fresh, o.array
    return fresh, out, lambda: launch(copy_kernel(), *copied)


def added_up(dtype, values, strange, divisor, total, stream):
    """The sum of `values`, divided, and the smallest of `strange`, each as an array (1,): chunks of chunks are added.

    Either may be empty.
    """
    number, _ = computed_in(dtype)
    nothing = empty(0, np.int64, stream)
    while True:
        size = max(values.size, strange.size)
        blocks = -(-size // CHUNK)
        sums = empty(blocks, number, stream)
        faults = empty(blocks, np.int64, stream) if strange.size else nothing
        divide_by = number(divisor if blocks == 1 else 1)
        threads = whole_warps(size, ADDERS)
        launch(sum_chunks(dtype), blocks, threads, stream, values, strange, divide_by, total, sums, faults)
        if blocks == 1:
            return sums, faults
        values, strange = sums, faults
