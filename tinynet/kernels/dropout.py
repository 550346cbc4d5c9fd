"""Dropout's masks: each number of each step has 32 random bits of its own, and none is stored.

The i-th random number of a step is a hash of (key, step, i), which backward computes again.  So threads need no order
among them, and two numbers bring back the whole sequence of masks: the key, drawn once when the layer is built, and the
number of steps so far.

A sample has as many numbers as the layer was built for, also where it is a shorter sequence, which then takes the first
of them.  So how long the other sequences of the batch are has no effect on its mask.

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


def scramble_plain(h, key):
    """h mixed: changing one bit of h changes each bit of the result with probability 1/2.  `key` chooses the way."""
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & LOW
    h = ((h ^ (h >> 15) ^ key) * 0x846CA68B) & LOW
    return h ^ (h >> 16)


scramble = helper(scramble_plain)  # for numbers; compiled for arrays of four axes, it would take LLVM five minutes


def mask(x, first, of_sample, keys, rate):
    """m, like x (N, M), for the plain loops.  x[n,m] is number first + n of_sample + m of the step."""
    (key0, key1), (N, M) = keys, x.shape
    i = first + np.arange(N)[:, None] * of_sample + np.arange(M)
    chunk_key0, chunk_key1 = scramble_plain(i // CHUNK ^ key0, key1), scramble_plain(i // CHUNK ^ key1, key0)
    dropped = scramble_plain(i % CHUNK ^ chunk_key0, chunk_key1) < threshold(rate)
    return np.where(dropped | (rate == 1), 0, scale_of(rate)).astype(x.dtype)


def scale_of(rate):
    """What the numbers are multiplied by that are not dropped."""
    return 1 / (1 - rate) if rate < 1 else 0.0


def dropout(x, first, of_sample, keys, rate, y):
    """y (N, M) = m x: forward, and given dy backward.  A row of a sample's numbers, or one row of all."""
    if rate == 1:
        y[...] = 0
    else:
        masked(x, first, of_sample, *keys, threshold(rate), scale_of(rate), y)


@kernel()
def masked_chunk(x, start, key0, key1, limit, scale, y):
    zero, scale = x.dtype.type(0), x.dtype.type(scale)
    for i in range(x.size):
        y[i] = zero if scramble((start + i) ^ key0, key1) < limit else scale * x[i]


@sized_kernel(THREADS_FROM)
def masked(x, first, of_sample, key0, key1, limit, scale, y):
    """A thread owns a chunk of the step's numbers, of one row of x."""
    N, M = x.shape
    chunks = M // CHUNK + 2  # a row may begin and end within one
    for task in prange(N * chunks):
        n, start = task // chunks, first + task // chunks * of_sample
        chunk = start // CHUNK + task % chunks
        begin, end = max(chunk * CHUNK - start, 0), min((chunk + 1) * CHUNK - start, M)
        if begin < end:
            keys = scramble(chunk ^ key0, key1), scramble(chunk ^ key1, key0)
            number = start + begin - chunk * CHUNK
            masked_chunk(x[n, begin:end], number, keys[0], keys[1], limit, scale, y[n, begin:end])
