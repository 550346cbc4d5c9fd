"""Dropout's masks: each number of each step has 32 random bits of its own, and none is stored.

The i-th random number of a step is a hash of (key, step, i), which backward computes again.  So threads need no order
among them, and two numbers bring back the whole sequence of masks: the key, drawn once when the layer is built, and the
number of steps so far.

Sources: counters instead of a generator's state, Salmon et al. 2011; the hash of a step, SplitMix64 (Steele et al.
2014); the hash of an element, Wellons' lowbias32.
"""

import numpy as np
from numba import prange

from tinynet.kernels.compile import helper, kernel, sized_kernel

THREADS_FROM = 16384  # elements from which two threads beat one
CHUNK = 4096  # elements that share a chunk's pair of keys
LOW = 0xFFFFFFFF  # the lowest 32 bits, of integers that have more


def step_keys(key, step):
    """Two numbers of 32 bits: the step-th output of the generator SplitMix64 with the seed `key`."""
    low = 0xFFFFFFFFFFFFFFFF
    z = (key + (step + 1) * 0x9E3779B97F4A7C15) & low
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & low
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & low
    z ^= z >> 31
    return z & LOW, z >> 32


def threshold(rate):
    """A number is dropped where its 32 random bits are below this."""
    return min(round(rate * 2**32), LOW)


@helper
def scramble(h, key):
    """h mixed: changing one bit of h changes each bit of the result with probability 1/2.  `key` chooses the way."""
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & LOW
    h = ((h ^ (h >> 15) ^ key) * 0x846CA68B) & LOW
    return h ^ (h >> 16)


def mask(x, first, keys, rate):
    """m, like x (M,), for the plain loops.  The i-th number of x is number first + i of the step."""
    (key0, key1), i = keys, first + np.arange(x.size)
    chunk_key0, chunk_key1 = scramble(i // CHUNK ^ key0, key1), scramble(i // CHUNK ^ key1, key0)
    dropped = scramble(i % CHUNK ^ chunk_key0, chunk_key1) < threshold(rate)
    return np.where(dropped, 0, 1 / (1 - rate)).astype(x.dtype)


def dropout(x, first, keys, rate, y):
    """y (M,) = m x: forward, and given dy backward."""
    masked(x, first, *keys, threshold(rate), 1 / (1 - rate), y)


@kernel()
def masked_chunk(x, start, key0, key1, limit, scale, y):
    zero, scale = x.dtype.type(0), x.dtype.type(scale)
    for i in range(x.size):
        y[i] = zero if scramble((start + i) ^ key0, key1) < limit else scale * x[i]


@sized_kernel(THREADS_FROM)
def masked(x, first, key0, key1, limit, scale, y):
    """A thread owns a chunk of the step's numbers."""
    skipped = first // CHUNK
    for k in prange((first + x.size + CHUNK - 1) // CHUNK - skipped):
        chunk = skipped + k
        begin, end = max(chunk * CHUNK - first, 0), min((chunk + 1) * CHUNK - first, x.size)
        start = first + begin - chunk * CHUNK
        keys = scramble(chunk ^ key0, key1), scramble(chunk ^ key1, key0)
        masked_chunk(x[begin:end], start, keys[0], keys[1], limit, scale, y[begin:end])
