"""Cache lines: vectors that begin where one does, and lines that are asked for before they are written."""

import numba
import numpy as np

from tinynet.kernels.compile import kernel
from tinynet.kernels.vectors import FEATURES, will_write

# Whether the processor asks for a line to write it; one of 2013 can only ask to read it, and has to ask again.
FETCHES = bool(FEATURES & {"prfchw", "neon"})


def vector_of_zeros(size, dtype):
    """Zeros (size,) that begin where a cache line does: of a vector that lies across two, both are fetched."""
    dtype = np.dtype(dtype)
    whole = np.zeros(size * dtype.itemsize + 64, np.uint8)
    first = -whole.ctypes.data % 64
    return whole[first : first + size * dtype.itemsize].view(dtype)


def fetch_to_write(a, first, end):
    """Ask at once for the cache lines of a.flat[first:end], to write them.

    One that another core has read or written is some 100 ns away, and they would be waited for one after the other.
    """


@kernel()
def _fetch_to_write(a, first, end):
    line = 64 // a.itemsize
    if FETCHES:
        for i in range(first, end + line - 1, line):  # the first may begin within a line
            will_write(a, i)


if not numba.config.DISABLE_JIT:
    fetch_to_write = _fetch_to_write
