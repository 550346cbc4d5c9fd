"""Arrays inside kernels: scratch memory, pieces of arrays without a reference count, and sums of parts.

scratch         an array for one thread, on cache lines of its own
piece           a part of an array, as a view; array_at: what lies at an address
within          the bounds check of what is emitted as LLVM's instructions
sum_of_chunks   the sum of parts, in order; sum_of_wide_chunks: in float64
add_to          adds numbers to sums in float64; rounded: back to their dtype
keep_freed      freed memory stays with the process, for the next arrays
"""

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.np import arrayobj

from tinynet.kernels.compile import emitted, helper, kernel

# --- scratch arrays -----------------------------------------------------------------------------------------

MARGIN = 128  # bytes on each side of a scratch array


def scratch(shape, like):
    """An array of like's dtype with 128 bytes on both sides that nobody uses: for what a thread writes all the time.

    It begins where a cache line does, so that no vector lies in two of them.

    Where such an array shares a cache line with what other threads read, every write takes the line away from their
    caches: a convolution whose 672 bytes of sums began in the line in which its weights ended took 2.0 ms instead
    of 0.1.
    """
    return np.empty(shape, like.dtype)


@emitted()
def _scratch(typing_context, shape, like):
    """One array that owns its memory.

    As a slice of an array, reshaped, it was freed in use.  Numba's reshape hides from LLVM that the two share a
    reference count; Numba then takes the counting for the second as superfluous, and the first, which nothing uses any
    more, frees the memory.
    """
    made = types.Array(like.dtype, len(shape), "C")

    def codegen(context, builder, signature, args):
        def number(value):
            return context.get_constant(types.intp, value)

        lengths = cgutils.unpack_tuple(builder, args[0])
        lengths = [context.cast(builder, n, kind, types.intp) for n, kind in zip(lengths, shape, strict=True)]
        strides = [number(like.dtype.bitwidth // 8)]
        for length in reversed(lengths):
            strides.insert(0, builder.mul(strides[0], length))
        size, *strides = strides  # in bytes
        meminfo = context.nrt.meminfo_alloc_aligned(builder, builder.add(size, number(2 * MARGIN)), align=64)
        data = builder.gep(context.nrt.meminfo_data(builder, meminfo), [number(MARGIN)])
        result = arrayobj.make_array(made)(context, builder)
        arrayobj.populate_array(
            result,
            data=builder.bitcast(data, result.data.type),
            shape=lengths,
            strides=strides,
            itemsize=number(like.dtype.bitwidth // 8),
            meminfo=meminfo,
        )
        return result._getvalue()

    return made(shape, like), codegen


# --- pieces of arrays ---------------------------------------------------------------------------------------


def piece(a, first, size):
    """The `size` elements of the C-contiguous array a from flat index `first` on, as a view (size,).

    Unlike a slice it counts no reference to the memory, so it must not outlive a; and Numba frees an array behind the
    last use of its name (tests/kernels/test_lifetimes.py looks for pieces that are used later).  The reference count is
    atomic: two slices in a row's loop took as long as the exponentials of 30 numbers.
    """
    return a.reshape(-1)[first : first + size]


@helper
def within(a, first, m, j, k):
    """An IndexError unless a has the flat index `first`, and all that are up to m, j and k from there; each may be < 0.

    What is emitted as LLVM's instructions comes after this where bounds are CHECKED: see compile.emitted.
    """
    if first + min(m, 0) + min(j, 0) + min(k, 0) < 0 or first + max(m, 0) + max(j, 0) + max(k, 0) >= a.size:
        raise IndexError("a piece, or what a kernel takes from an array, lies partly outside of it")


def _piece_within(a, first, size):
    if size > 0:
        within(a, first, size - 1, 0, 0)


@emitted(_piece_within)
def _piece(typing_context, a, first, size):
    view = types.Array(a.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        data = builder.gep(arrayobj.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])
        result = arrayobj.make_array(view)(context, builder)
        stride = context.get_constant(types.intp, a.dtype.bitwidth // 8)
        arrayobj.populate_array(result, data=data, shape=[args[2]], strides=[stride], itemsize=stride, meminfo=None)
        return result._getvalue()

    return view(a, types.intp, types.intp), codegen


@emitted()
def array_at(typing_context, address, like):
    """What lies at an address, as an array of numbers like this one, as long as is asked of it."""
    view = types.Array(like, 1, "C")

    def codegen(context, builder, signature, args):
        result = arrayobj.make_array(view)(context, builder)
        size, stride = (context.get_constant(types.intp, n) for n in (2**48, like.bitwidth // 8))
        data = builder.inttoptr(args[0], result.data.type)
        arrayobj.populate_array(result, data=data, shape=[size], strides=[stride], itemsize=stride, meminfo=None)
        return result._getvalue()

    return view(types.int64, like), codegen


if not numba.config.DISABLE_JIT:
    scratch, piece = _scratch, _piece


@kernel()
def sum_of_chunks(parts, total):
    """total = the sum over the first axis of parts, in order."""
    result = piece(total, 0, total.size)
    for m in range(total.size):
        result[m] = 0
    for chunk in range(parts.shape[0]):
        part = piece(parts, chunk * total.size, total.size)
        for m in range(total.size):
            result[m] += part[m]


@kernel()
def add_parts(parts, total, first, end):
    """The same of the flat indices `first` to `end`."""
    result = piece(total, first, end - first)
    for m in range(end - first):
        result[m] = 0
    for chunk in range(parts.shape[0]):
        part = piece(parts, chunk * total.size + first, end - first)
        for m in range(end - first):
            result[m] += part[m]


@kernel()
def sum_of_wide_chunks(parts, total):
    """The same, with each sum in float64."""
    for m in range(total.size):
        s = 0.0
        for chunk in range(parts.shape[0]):
            s += parts[chunk, m]
        total[m] = s


@kernel()
def add_to(wide, part, first):
    """wide += part, or = where it is the first.  wide is in float64, or empty: then there is nothing to do."""
    for i in range(wide.size):
        wide[i] = part[i] if first else wide[i] + part[i]


@kernel()
def rounded(wide, total):
    """total = wide, unless that is empty."""
    for i in range(wide.size):
        total[i] = wide[i]


# --- memory that was freed ----------------------------------------------------------------------------------


def keep_freed():
    """Let glibc keep up to 64 MB of what is freed.

    A training step frees what the next one asks for again.  glibc gives free memory at the end of its heap back to the
    system where it is more than twice the largest array that was ever freed, and every page that comes again is filled
    with zeros first: of a step of four small transformer blocks (128 wide, batch 12 x 64) that took 4 ms of 28 (2-core
    Intel Xeon, Emerald Rapids).  So here is an array of the largest size that counts for this; no page of it is ever
    touched.  Other libraries of C take no notice.
    """
    np.empty(2**25 - 2**16, np.uint8)


keep_freed()
