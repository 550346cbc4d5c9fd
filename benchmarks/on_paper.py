"""What the CUDA kernels would cost on an H100 SXM, on paper: predicted from what they execute, not measured.

`predicted("softmax", N, C)` runs tn.softmax_cross_entropy for a few rows of C classes, in float32, on the machine of
tests/cuda (ptx_machine.py), which executes the compiler's PTX without a GPU and counts; so this needs a checkout of the
repository, and numba-cuda.  What twice as many rows cost more, is what a row costs; N times that is set against what
the GPU can do at most:

    memory         the bytes that a kernel reads and writes, each once, at the data sheet's bandwidth.  That a row is
                   read twice costs nothing here: the second time it comes from a cache
    instructions   the slowest of: what the schedulers issue, and what each kind of unit executes.  All waiting is taken
                   to be hidden by other warps

Both are bounds from below, and the larger one is the prediction.  PTX is not yet machine code: an instruction for 64
bits counts as two, and what only names a value (a move, a parameter, an address) as none.

Sources: NVIDIA's H100 data sheet (SXM: 67 TFLOP/s of float32, 3.35 TB/s); its white paper "NVIDIA H100 Tensor Core GPU
Architecture" (132 multiprocessors, each with four schedulers); and the CUDA C++ Programming Guide, "Throughput of
Native Arithmetic Instructions", for compute capability 9.0.
"""

import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import tinynet as tn

sys.path.append(str(Path(__file__).parent.parent / "tests" / "cuda"))

BANDWIDTH, MULTIPROCESSORS, SCHEDULERS, WARP = 3.35e12, 132, 4, 32
CLOCK = 67e12 / (MULTIPROCESSORS * 128 * 2)  # Hz: two operations for each of 128 lanes

# Results for each clock and multiprocessor.
RATES = {"float32": 128, "float64": 64, "integer": 64, "special": 16, "shuffle": 32, "memory": 32}

# Which units execute a PTX instruction, and how often: of the patterns, the first that fits its opcode.
UNITS = [
    (r"mov|cvta|ld\.param|ld\.const|neg\.f|abs\.f|cvt\.[us](32|64)\.[us](32|64)|ret|exit|membar", {}),
    (r"bra|bar|barrier|nanosleep", {"issue": 1}),
    (r"(ex2|lg2|rcp|rsqrt|sqrt|sin|cos)\.approx", {"special": 1}),
    (r"div\.(approx|full)\.f32", {"special": 1, "float32": 1}),
    (r"(div|rcp|sqrt)\.rn\.f32", {"special": 1, "float32": 8}),
    (r"(div|rcp|sqrt)\.rn\.f64", {"special": 1, "float64": 8}),
    (r"shfl|vote|match", {"shuffle": 1}),
    (r"(ld|st)\.(global|shared|volatile).*\.v4", {"memory": 4}),
    (r"(ld|st)\.(global|shared|volatile).*(\.v2|64$)", {"memory": 2}),
    (r"(ld|st)\.(global|shared|local|volatile)|(atom|red)\.", {"memory": 1}),
    (r"(add|sub|mul|fma|mad).*\.f32$|cvt\.sat\.f32\.f32$", {"float32": 1}),
    (r"(add|sub|mul|fma|mad|min|max|setp).*\.f64$", {"float64": 1}),
    (r"(mul|mad)\.(lo|hi).*64$", {"integer": 4}),
    (r"(mul|mad)\.wide", {"integer": 1}),
    (r"(div|rem)\..*64$", {"integer": 100}),
    (r"(div|rem)\..*32$", {"integer": 30}),
    (r".*(64|\.f64)$", {"integer": 2}),
    (r".*(8|16|32|pred|f32)$", {"integer": 1}),
]


@cache
def units(opcode):
    for pattern, found in UNITS:
        if re.match(pattern, opcode):
            return found
    raise KeyError(f"no unit is known for {opcode}")


def executed(loss, N, C):
    """What the loss and its gradient do for N rows of C numbers: the sum over all kernels."""
    from ptx_driver import Driver

    random, driver = np.random.default_rng(0), Driver()
    z = random.standard_normal((N, C), np.float32)
    t = random.integers(C, size=N) if loss == "softmax" else random.random((N, C), np.float32)
    with driver.in_place():
        function = tn.softmax_cross_entropy if loss == "softmax" else tn.sigmoid_cross_entropy
        out = driver.machine.empty((N, C), np.dtype(np.float32))
        function(driver.machine.to_device(z), driver.machine.to_device(t), out=out, check=False)
    return driver.counts


def a_row(loss, C):
    """Warps' instructions by opcode, and bytes, of one more row."""
    N = 2 if C > 1024 else 128 * max(1, 8192 // (128 * C))
    some, more = executed(loss, N, C), executed(loss, 2 * N, C)
    moved = [counts.distinct_read_bytes + counts.distinct_written_bytes for counts in (some, more)]
    return {op: (more.warps[op] - some.warps[op]) / N for op in more.warps}, (moved[1] - moved[0]) / N


def predicted(loss, N, C):
    """Milliseconds by memory and by instructions, which units those are, and how many each number takes."""
    warps, moved = a_row(loss, C)
    busy = Counter()
    for opcode, times in warps.items():
        for unit, each in units(opcode).items():
            busy[unit] += each * times
            busy["issue"] += each * times
    issued = busy.pop("issue")
    clocks = {"issue": issued / SCHEDULERS, **{unit: times * WARP / RATES[unit] for unit, times in busy.items()}}
    unit = max(clocks, key=clocks.get)
    milliseconds = 1e3 * N / (MULTIPROCESSORS * CLOCK)
    return SimpleNamespace(
        memory=1e3 * N * moved / BANDWIDTH,
        instructions=clocks[unit] * milliseconds,
        unit=unit,
        each=issued * WARP / C,
    )
