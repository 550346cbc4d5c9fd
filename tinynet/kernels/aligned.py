"""Vectors that begin where a cache line does."""

import numpy as np


def vector_of_zeros(size, dtype):
    """Zeros (size,) that begin where a cache line does: of a vector that lies across two, both are fetched."""
    dtype = np.dtype(dtype)
    whole = np.zeros(size * dtype.itemsize + 64, np.uint8)
    first = -whole.ctypes.data % 64
    return whole[first : first + size * dtype.itemsize].view(dtype)
