"""How the benchmarks measure: sides in turn, medians, and what the machine could do at most.

Sides are interleaved, because a machine's speed drifts (heat, other programs): each round times every side once, and
the ratio is the median over rounds of the ratio within a round.  PyTorch, JAX and scikit-learn are optional everywhere.

Every script runs in the setting that its command line names, in a process of its own where that is not the plain one:

    --vectors native | avx2 | both      AVX2: tinynet and every peer are held to vectors of 256 bits
    --threads all | one | both          one: tinynet and every peer

Every script prints its rows and, for report.py, writes them as JSON:

    {"machine": a line, "setting": in words, "ceilings": {"copy GB/s", "GFLOP/s"}, "rows": [
        {"what", "seconds", "low", "high",                       tinynet's: the median, and between which
         "rate", "unit", "share",                                reached, and what part of the machine's ceiling it is
         "peers": {name: {"seconds", "low", "high", "ratio"}},   a ratio above 1: tinynet is faster
         "fastest", "ratio",                                     the fastest of PyTorch's modes
         "memory": {side: bytes},                                its peak, where that was measured
         "group"}]}                                              of what many rows show together, in one line
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import platformdirs
from numba import prange

import tinynet as tn
from tinynet.kernels.compile import kernel
from tinynet.kernels.llvm import FEATURES, LANES
from tinynet.kernels.vectors import fma, load4, splat4, sum_of, width

try:
    import torch

    torch.set_num_threads(tn.get_num_threads())
except ImportError:
    torch = None
try:
    import jax
except ImportError:
    jax = None


os.environ.setdefault("TINYNET_COMPILE_AHEAD", "0")  # no second process compiles while one side is timed


# --- the settings -------------------------------------------------------------------------------------------

# A processor with AVX2 and nothing wider, for each library in its own words.  Only OpenBLAS has no limit to set: it is
# told the kind of processor.  torch.compile goes by PyTorch's.
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+movbe,+f16c,+bmi,+bmi2,+lzcnt,+fma,+avx,+avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
ONE_THREAD = dict.fromkeys(["NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")


def options(parser):
    """What the command line says, with the options that every script has.

    Where it asks for another setting than this process has, that is measured in one of its own, and this one ends.
    """
    parser.add_argument("--rounds", type=int, default=9, help="how often each side is timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one hasty round, to see that everything runs")
    parser.add_argument("--headlines", action="store_true", help="only the rows that the README shows")
    parser.add_argument("--vectors", choices=("native", "avx2", "both"), default="native", help="(default: native)")
    parser.add_argument("--threads", choices=("all", "one", "both"), default="all", help="(default: all)")
    parser.add_argument("--json", help="write the figures to this file; only of one setting")
    parser.add_argument("--memory", nargs=2, metavar=("WORK", "SIDE"), help=argparse.SUPPRESS)  # what peaks starts
    found = parser.parse_args()
    if found.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {found.rounds}")
    if found.quick:
        found.rounds = 1
    found.at_least = 0.001 if found.quick else 0.02
    vectors = ("native", "avx2") if found.vectors == "both" else (found.vectors,)
    threads = ("all", "one") if found.threads == "both" else (found.threads,)
    settings = list(itertools.product(vectors, threads))
    if len(settings) > 1 and found.json:
        parser.error("--json takes the figures of one setting")
    if "avx2" in vectors and not FEATURES & {"avx2", "avx512f"}:
        parser.error("--vectors: this machine has no AVX2")
    if [" ".join(one) for one in settings] != [os.environ.get(MARK, "native all")]:
        sys.exit(max(in_setting(*one).returncode for one in settings))
    return found


MARK = "TINYNET_BENCHMARK_SETTING"  # what a process that was started for a setting finds there


def in_setting(vectors, threads):
    """Run this script once more, in a process that has the setting."""
    environment = {**os.environ, MARK: f"{vectors} {threads}"}
    if vectors == "avx2":
        cache = Path(os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir("tinynet-benchmarks"), "avx2")
        # In its usual cache torch.compile would find, and take, what was compiled for other vectors: losses were wrong.
        environment |= {**AVX2, "NUMBA_CACHE_DIR": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
    if threads == "one":
        environment |= ONE_THREAD
    command = [sys.executable, *sys.argv, "--vectors", vectors, "--threads", threads]
    return subprocess.run(command, env=environment)


def setting():
    """This process's, in words: "native vectors, 2 threads"."""
    vectors = "AVX2" if os.environ.get(MARK, "").startswith("avx2") else "native vectors"
    threads = tn.get_num_threads()
    return f"{vectors}, {threads} thread{'s' if threads > 1 else ''}"


# --- measuring ----------------------------------------------------------------------------------------------


def seconds(function, at_least):
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


def measure(sides, rounds, at_least):
    """{name: function} -> {name: its seconds in each round}."""
    return measure_several({name: {"": function} for name, function in sides.items()}, rounds, at_least)[""]


SLOW = 0.2  # seconds of a call before which no other is needed
ENOUGH = 5  # seconds of rounds, after which three are enough


def rest(most=1.0):
    """Wait until no thread of the side before spins on, waiting for work.

    OpenMP's stop within 10 ms, OpenBLAS's after 70 to 300.  While any does, the process uses up processor time.
    """
    until = time.perf_counter() + most
    while time.perf_counter() < until:
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.004:
            return


def measure_several(sides, rounds, at_least):
    """{side: {work: function}} -> {work: {side: its seconds in each round}}: a side's works one after the other."""
    once = {}
    for side, works in sides.items():
        for work, function in works.items():  # compile, fault memory in, fill caches
            function()
            once[side, work] = seconds(function, 0)
    rounds = min(rounds, max(3, int(ENOUGH / sum(once.values()))))
    times = {work: {side: [] for side in sides} for _, work in once}
    for _ in range(rounds):
        for side, works in sides.items():
            rest()
            for work, function in works.items():
                if once[side, work] < SLOW:
                    function()  # memory that a virtual machine gave back meanwhile is slow to come again
                times[work][side].append(seconds(function, at_least))
    return times


def ratio(times, name, ours):
    """How many times longer `name` took than `ours`."""
    return statistics.median(a / b for a, b in zip(times[name], times[ours], strict=True))


CEILING = {"GB/s": "a copy", "GFLOP/s": "the FMA peak"}  # what the share of a rate is a share of


def as_row(what, times, *, ours="tinynet", work=None, unit="GFLOP/s", share=None, headline=False, rivals="PyTorch"):
    """The row of what `measure` returned.

    `work` is the number of operations or of bytes of one call, `share` the part of the machine's ceiling that its rate
    is.  Of the other sides, those whose names begin with "tinynet" or "copy" are not peers; the ratio is to the fastest
    of those that begin with one of `rivals`.  A headline is a row that the README shows.
    """
    low, median, high = min(times[ours]), statistics.median(times[ours]), max(times[ours])
    row = {"what": what, "seconds": median, "low": low, "high": high, "headline": headline, "peers": {}}
    if work:
        row["rate"], row["unit"], row["share"] = work / median / 1e9, unit, share
    for name, taken in times.items():
        if not name.startswith(("tinynet", "copy")):
            peer = {"seconds": statistics.median(taken), "low": min(taken), "high": max(taken)}
            row["peers"][name] = {**peer, "ratio": ratio(times, name, ours)}
    modes = [name for name in row["peers"] if name.startswith(rivals)]
    if modes:
        row["fastest"] = min(modes, key=lambda name: row["peers"][name]["ratio"])
        row["ratio"] = row["peers"][row["fastest"]]["ratio"]
    return row


def report(what, times, **about):
    """Print a line on what `measure` returned, and return it as a row; `about` as for as_row."""
    row = as_row(what, times, **about)
    text = f"{what:58} {duration(row['seconds']):>8} ({duration(row['low'])} to {duration(row['high'])})"
    if "rate" in row:
        text += f"  {row['rate']:6.1f} {row['unit']}"
        text += f", {row['share']:.0%} of {CEILING[row['unit']]}" if row["share"] else ""
    for name, peer in row["peers"].items():
        text += f"   {name} {duration(peer['seconds'])}"
    if "ratio" in row:
        text += f"   {compared(row['ratio'])} than {row['fastest']}"
    print(text, flush=True)
    return row


def parts_of(what, times, work, most, rivals, **more):
    """Print one line on the parts of a work, and return a row for each.

    `times` is as measure_several returns it, work and more of each part: {part: operations}.  The line has GFLOP/s,
    the share of the FMA peak, and the ratio to the fastest rival, which is named.
    """
    rows, text = [], f"{what:42}"
    for part, taken in times.items():
        share = work[part] / statistics.median(taken["tinynet"]) / 1e9 / most["GFLOP/s"]
        row = as_row(f"{what}, {part}", taken, work=work[part], share=share, rivals=rivals)
        rows.append({**row, "part": part, **more})
        text += f"  {part} {row['rate']:6.1f} {share:4.0%}"
        text += f" {row['ratio']:5.2f} {row['fastest'].rpartition(' ')[2]:8}" if "ratio" in row else ""
    print(text, flush=True)
    return rows


def summarised(rows, group, floor=0.95):
    """Print a line on the ratios of the rows of this group, and those below the floor, the worst first."""
    ratios = {row["what"]: row["ratio"] for row in rows if row.get("group") == group and "ratio" in row}
    if not ratios:
        return
    low = sorted((ratio, what) for what, ratio in ratios.items() if ratio < floor)
    median, least = statistics.median(ratios.values()), min(ratios.values())
    print(
        f"\n{group}, {setting()}: {len(ratios)} comparisons, tinynet is {compared(median)} at the median, "
        f"{compared(least)} at worst, and below {floor} of the fastest peer in {len(low)}"
    )
    for ratio, what in low:
        print(f"    {ratio:.2f}  {what}")


# --- memory -------------------------------------------------------------------------------------------------


def peaks(work, names):
    """{side: bytes}: what this script, started anew for each side with --memory WORK SIDE, prints."""
    found = {}
    for name in names:
        child = subprocess.run([sys.executable, *sys.argv, "--memory", work, name], capture_output=True, text=True)
        if child.returncode:
            sys.exit(f"{work}: measuring the memory of {name} failed:\n{child.stderr}")
        if child.stdout.strip():
            found[name] = int(child.stdout)
    if found:
        print("    memory at its peak:", ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in found.items()))
    return found


def print_peak(function, outputs=0):
    """Print by how many bytes a call takes the peak of this process's memory beyond what it has now and `outputs`.

    Nothing is printed where that is unknown: only Linux keeps the figure.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now
        before = resident("VmRSS")
        function()
        print(max(0, resident("VmHWM") - before - outputs))
    except OSError as error:
        print(f"memory is not measured: {error}", file=sys.stderr)


def resident(which):
    """VmRSS or VmHWM of this process, in bytes: what it has in memory, and the most it had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise OSError(f"{which} is not in /proc/self/status")


# --- numbers in words ---------------------------------------------------------------------------------------


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


@kernel(parallel=True)
def multiply_adds(a, out, repeats):
    """12 registers of sums and nothing but multiply-adds; each waits for the one before in its own register only."""
    for i in prange(out.shape[0]):
        four = 4 * width(a)
        v, w, u = load4(a, 0), load4(a, four), load4(a, 2 * four)  # 4 registers each
        times, plus = splat4(a, a[0]), splat4(a, a[1])
        for _ in range(repeats):
            v, w, u = fma(v, times, plus), fma(w, times, plus), fma(u, times, plus)
        out[i] = sum_of(v + w + u)


def ceilings(rounds=8):
    """{"copy GB/s": read and written, "GFLOP/s": of float32 multiply-adds in registers}, in the best of many rounds."""
    x = np.ones((64, 2**20), np.float32)
    y = np.empty_like(x)
    lanes = LANES[x.dtype]
    a, repeats = np.linspace(0.5, 1, 12 * lanes, dtype=np.float32), 20000
    sums = np.empty(2 * tn.get_num_threads(), np.float32)
    sides = {"copy": lambda: parallel_copy(x, y), "multiply-adds": lambda: multiply_adds(a, sums, repeats)}
    best = dict.fromkeys(sides, np.inf)
    for _ in range(3):  # other programs may hold a processor for a second
        time.sleep(1)
        best = {name: min(best[name], *taken) for name, taken in measure(sides, rounds, 0.001).items()}
    copy, arithmetic = best.values()
    flops = 2 * 12 * lanes * repeats * sums.size
    found = {"copy GB/s": 2 * x.nbytes / copy / 1e9, "GFLOP/s": flops / arithmetic / 1e9}
    print(f"at most: {found['copy GB/s']:.1f} GB/s read and written by a copy, {found['GFLOP/s']:.0f} GFLOP/s")
    return found


def machine():
    """A line on the machine and the versions that were measured."""
    found = tn.show_config("dict")
    names = {"torch": "PyTorch", "jax": "JAX", "sklearn": "scikit-learn"}
    peers = [f"{names[name]} {sys.modules[name].__version__}" for name in names if sys.modules.get(name)]
    versions = [f"Python {found['python']}", f"NumPy {np.__version__}", f"Numba {found['numba']}", *peers]
    on = f"{tn.get_num_threads()} threads, vectors of {found['vectors']}"
    return f"{found['processor']}, {on}, {', '.join(versions)}"


def save(path, rows, **more):
    """Write what was measured, for report.py."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "setting": setting(), "rows": rows, **more}, file, indent=1)
