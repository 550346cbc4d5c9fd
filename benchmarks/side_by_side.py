"""How the benchmarks measure: sides in turn, medians, and what the machine could do at most.

Sides are interleaved, because a machine's speed drifts (heat, other programs): each round times every side once, and
the ratio is the median over rounds of the ratio within a round.  PyTorch, JAX and scikit-learn are optional everywhere.

Every script prints its rows and, for report.py, writes them as JSON:

    {"machine": a line, "ceilings": {"copy GB/s", "GFLOP/s"}, "rows": [
        {"what", "seconds", "low", "high",                       tinynet's: the median, and between which
         "rate", "unit", "share",                                reached, and what part of the machine's ceiling it is
         "peers": {name: {"seconds", "low", "high", "ratio"}},   a ratio above 1: tinynet is faster
         "fastest", "ratio"}]}                                   the fastest of PyTorch's modes
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from numba import prange

import tinynet as tn
from tinynet.kernels.compile import kernel
from tinynet.kernels.matmul import TILE, View, matmul

here, path = Path(__file__).parent.resolve(), sys.path
sys.path = [folder for folder in path if Path(folder).resolve() != here]  # they look for NVIDIA's package `cuda`,
try:  # and must not find the script of that name
    import torch

    torch.set_num_threads(tn.get_num_threads())
except ImportError:
    torch = None
try:
    import jax
except ImportError:
    jax = None
sys.path = path


def options(parser):
    """What the command line says, with the options that every script has."""
    parser.add_argument("--rounds", type=int, default=9, help="how often each side is timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one hasty round, to see that everything runs")
    parser.add_argument("--json", help="write the figures to this file")
    found = parser.parse_args()
    if found.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {found.rounds}")
    if found.quick:
        found.rounds = 1
    found.at_least = 0.001 if found.quick else 0.05
    return found


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
    """{name: function} -> {name: its seconds in each round}."""
    for function in sides.values():  # compile, fault memory in, fill caches
        function()
        function()
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, function in sides.items():
            time.sleep(0.12)  # the threads of the side before spin on, waiting for work: OpenBLAS's for 70 ms
            function()  # memory that a virtual machine gave back meanwhile is slow to come again
            times[name].append(seconds(function, at_least))
    return times


def ratio(times, name, ours):
    """How many times longer `name` took than `ours`."""
    return statistics.median(a / b for a, b in zip(times[name], times[ours], strict=True))


CEILING = {"GB/s": "a copy", "GFLOP/s": "the tile"}  # what the share of a rate is a share of


def report(what, times, *, ours="tinynet", work=None, unit="GFLOP/s", share=None, headline=False):
    """Print a line on what `measure` returned, and return it as a row.

    `work` is the number of operations or of bytes of one call, `share` the part of the machine's ceiling that its rate
    is.  Of the other sides, those whose names begin with "tinynet" or "copy" are not peers.  A headline is a row that
    the README shows.
    """
    low, median, high = min(times[ours]), statistics.median(times[ours]), max(times[ours])
    row = {"what": what, "seconds": median, "low": low, "high": high, "headline": headline, "peers": {}}
    text = f"{what:58} {duration(median):>8} ({duration(low)} to {duration(high)})"
    if work:
        row["rate"], row["unit"], row["share"] = work / median / 1e9, unit, share
        text += f"  {row['rate']:6.1f} {unit}" + (f", {share:.0%} of {CEILING[unit]}" if share else "")
    for name, taken in times.items():
        if not name.startswith(("tinynet", "copy")):
            peer = {"seconds": statistics.median(taken), "low": min(taken), "high": max(taken)}
            row["peers"][name] = {**peer, "ratio": ratio(times, name, ours)}
            text += f"   {name} {duration(peer['seconds'])}"
    modes = [name for name in row["peers"] if name.startswith("PyTorch")]
    if modes:
        row["fastest"] = min(modes, key=lambda name: row["peers"][name]["ratio"])
        row["ratio"] = row["peers"][row["fastest"]]["ratio"]
        text += f"   {compared(row['ratio'])} than {row['fastest']}"
    print(text, flush=True)
    return row


def compared(ratio):
    """A ratio in words: "2.50x faster"."""
    return f"{short(ratio)}x faster" if ratio >= 1 else f"{short(1 / ratio)}x SLOWER"


def short(ratio):
    """A ratio as text with three digits, and no exponent."""
    return f"{ratio:.0f}" if ratio >= 99.95 else f"{ratio:#.3g}"


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
            return f"{value / scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{value / 1e-9:.0f} ns"


def compiled(function, *arguments):
    """torch.compile(function), or None where it doesn't work on this machine (no C++ compiler, say)."""
    torch._dynamo.reset()  # or it would generalise over the shapes it has seen, and give up after eight
    try:
        function = torch.compile(function)
        function(*arguments)
    except Exception as error:
        print(f"torch.compile left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return function


# --- what the machine can do at most ------------------------------------------------------------------------


@kernel(parallel=True)
def parallel_copy(x, y):
    for i in prange(x.shape[0]):
        y[i] = x[i]


@kernel(parallel=True, matmul=True)
def matmul_in_cache(a, b, zeros, c, repeats):
    """matmul on operands that stay in the L1 cache: nothing but multiply-adds."""
    rows, columns, K = a.shape[0], b.shape[1], a.shape[1]
    for i in prange(c.shape[0]):
        for _ in range(repeats):
            start, out = View(zeros, 0, 0), View(c, i * rows * columns, columns)
            matmul((rows, columns, K), View(a, 0, (K, 1)), View(b, 0, columns), start=start, out=out, floor=-np.inf)


def ceilings(rounds=9, at_least=0.05):
    """{"copy GB/s": read and written, "GFLOP/s": of float32 multiply-adds}, in the best of the rounds."""
    x = np.ones((64, 2**20), np.float32)
    y = np.empty_like(x)
    rows, vectors, lanes = TILE[x.dtype]
    a, b = np.ones((rows, 128), np.float32), np.ones((128, vectors * lanes), np.float32)
    c, repeats = np.empty((2 * tn.get_num_threads(), rows, vectors * lanes), np.float32), 2000
    zeros = np.zeros(vectors * lanes, np.float32)
    sides = {"copy": lambda: parallel_copy(x, y), "matmul": lambda: matmul_in_cache(a, b, zeros, c, repeats)}
    copy, arithmetic = (min(taken) for taken in measure(sides, rounds, at_least).values())
    flops = 2 * a.size * b.shape[1] * repeats * len(c)
    found = {"copy GB/s": 2 * x.nbytes / copy / 1e9, "GFLOP/s": flops / arithmetic / 1e9}
    print(f"at most: {found['copy GB/s']:.1f} GB/s read and written by a copy, {found['GFLOP/s']:.0f} GFLOP/s")
    return found


def machine():
    """A line on the machine and the versions that were measured."""
    found = tn.show_config("dict")
    names = {"torch": "PyTorch", "jax": "JAX", "sklearn": "scikit-learn"}
    peers = [f"{names[name]} {sys.modules[name].__version__}" for name in names if sys.modules.get(name)]
    versions = [f"Python {found['python']}", f"NumPy {np.__version__}", f"Numba {found['numba']}", *peers]
    return f"{found['processor']}, {tn.get_num_threads()} threads, {', '.join(versions)}"


def save(path, rows, **more):
    """Write what was measured, for report.py."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "rows": rows, **more}, file, indent=1)
