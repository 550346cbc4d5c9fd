"""How the benchmarks measure: two sides in turn, medians, and what the machine could do at most.

Sides are interleaved, because a machine's speed drifts (heat, other programs): each round times every side once, and
the ratio is the median over rounds of the ratio within a round.  Torch is optional everywhere.
"""

import json
import statistics
import sys
import time

import numpy as np
from numba import prange

import tinynet as tn
from tinynet import simd
from tinynet.tile import TILE, tile

try:
    import torch

    torch.set_num_threads(tn.get_num_threads())
except ImportError:
    torch = None


def seconds(function, at_least=0.05):
    """Time of one call, from as many calls as take `at_least` seconds together."""
    count = 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            function()
        taken = time.perf_counter() - start
        if taken >= at_least:
            return taken / count
        count = max(count + 1, int(count * 1.2 * at_least / max(taken, 1e-9)))


def measure(sides, rounds=9, at_least=0.05):
    """{name: function} -> {name: (median seconds, lowest, highest)}, and {name: median ratio to the first side}."""
    for function in sides.values():  # compile, fault memory in, fill caches
        function()
        function()
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, function in sides.items():
            times[name].append(seconds(function, at_least))
    first = next(iter(times.values()))
    ratios = {
        name: statistics.median(theirs / ours for theirs, ours in zip(taken, first, strict=True))
        for name, taken in times.items()
    }
    return {name: (statistics.median(taken), min(taken), max(taken)) for name, taken in times.items()}, ratios


def agree(ours, theirs, tolerance, what):
    """Stop the benchmark unless both sides computed the same numbers."""
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    if not error <= tolerance:
        sys.exit(
            f"{what}: tinynet and its peer disagree by {error:.1e} of the largest number, more than {tolerance:.0e}"
        )


def duration(value):
    """Seconds as text with three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:#.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def compiled(function, *arguments):
    """torch.compile(function), or None where it doesn't work on this machine (no C++ compiler, say)."""
    try:
        function = torch.compile(function)
        function(*arguments)
    except Exception as error:
        print(f"torch.compile left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return function


# --- what the machine can do at most ------------------------------------------------------------------------


@simd.kernel(parallel=True)
def parallel_copy(x, y):
    for i in prange(x.shape[0]):
        y[i] = x[i]


@simd.kernel(parallel=True, tiled=True)
def tile_in_cache(a, b, zeros, c, repeats):
    """The tile on operands that stay in the L1 cache: nothing but multiply-adds."""
    rows, columns, K = a.shape[0], b.shape[1], a.shape[1]
    for i in prange(c.shape[0]):
        for _ in range(repeats):
            size = rows, columns, 1, K
            tile(size, a, 0, (K, 0, 1), b, 0, (0, columns), zeros, 0, 0, c, i * rows * columns, columns, -np.inf)


def ceilings():
    """{"copy GB/s": read and written, "GFLOP/s": of float32 multiply-adds}, measured."""
    x = np.ones((256, 2**18), np.float32)
    y = np.empty_like(x)
    rows, vectors, lanes = TILE[x.dtype]
    a, b = np.ones((rows, 128), np.float32), np.ones((128, vectors * lanes), np.float32)
    c, repeats = np.empty((2 * tn.get_num_threads(), rows, vectors * lanes), np.float32), 2000
    zeros = np.zeros(vectors * lanes, np.float32)
    times, _ = measure({"copy": lambda: parallel_copy(x, y), "tile": lambda: tile_in_cache(a, b, zeros, c, repeats)})
    flops = 2 * a.size * b.shape[1] * repeats * len(c)
    return {"copy GB/s": 2 * x.nbytes / times["copy"][0] / 1e9, "GFLOP/s": flops / times["tile"][0] / 1e9}


def machine():
    """A line on the machine and the versions that were measured."""
    found = tn.show_config("dict")
    peers = f", PyTorch {torch.__version__}" if torch else ""
    return f"{found['processor']}, {found['threads']} threads, Python {found['python']}, Numba {found['numba']}{peers}"


def save(path, rows):
    """Write what was measured, for report.py."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
