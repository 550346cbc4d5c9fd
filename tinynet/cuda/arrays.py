"""The way of a caller's device arrays to the CUDA kernels, and of what they fill back to the caller.

Arrays of PyTorch, CuPy and Numba all say by __cuda_array_interface__ where they are: nothing is copied unless it isn't
contiguous, or is of another dtype.  Nothing waits for the GPU either but what is called on_host or to_host.
"""

import math
import warnings
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

import numpy as np

from tinynet.checks import losses as checks
from tinynet.cuda.device import (
    ADDERS,
    BFLOAT16,
    CHUNK,
    FLOATS,
    GROUP_BYTES,
    PACK_BYTES,
    SIMULATOR,
    WARP,
    NumbaPerformanceWarning,
    computed_in,
    cuda,
    get,
    kernel,
    put,
    stored_as,
    sum_chunks,
)


@cache
def scale_kernel(dtype):
    """A kernel: x *= factor[0] for a flat array; where that is 1, nothing is read or written."""
    number, _ = computed_in(dtype)
    ONE = number(1)

    @kernel(ADDERS)
    def scale(x, factor):
        by = factor[0]
        if by != ONE:
            i = cuda.grid(1)
            while i < x.size:
                put(x, i, get(x, i) * by)
                i += cuda.gridsize(1)

    return scale


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


def launch(kernel, blocks, threads, stream, *arguments, shared=GROUP_BYTES):
    """Run a kernel with `shared` bytes of shared memory for each block."""
    with warnings.catch_warnings():  # Numba finds that fewer than 128 blocks leave a GPU idle; small batches do.
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        configured = kernel[blocks, threads, stream, shared]
    configured(*arguments)


maker = ContextVar("maker", default=None)  # what makes a device array (shape, dtype), where Numba doesn't


def empty(shape, dtype, stream):
    """A fresh device array, which states the stream it is filled on, if it is Numba's."""
    make = maker.get()
    return make(shape, dtype) if make else cuda.device_array(shape, dtype, stream=stream)


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
    if weight.dtype == BFLOAT16:
        raise TypeError(f"{name}: {what} must not be bfloat16; there are few of them, so give float32")
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
