"""Data-parallel training over MPI: what it costs on 1 and 2 ranks here, and what that predicts for up to 1,024.

    python benchmarks/scaling.py [--latency MICROSECONDS --bandwidth GB_PER_S] [--batch 1024] [--share 64]
                                 [--picture PATH] [--rounds 9] [--quick] [--json PATH]

Each rank computes on one thread.  A step on R ranks takes what the share of a rank takes, then an all-reduce of the
gradient, n bytes, during which nothing else goes on.  That of two ranks is measured for many sizes, and fitted by

    t(2, n) = a + b n             a latency, 1/b bandwidth, with what the additions take

For R ranks, Thakur, Rabenseifner and Gropp (2005, section 4) count messages and bytes of three algorithms, of which a
library takes the best, and so does the prediction:

    recursive doubling    lg R (a + b n)                          few messages: for short vectors
    Rabenseifner          2 lg R a + 2 (R-1)/R b n                halves and quarters of the vector, there and back
    ring                  2 (R-1) a + 2 (R-1)/R b n               as few bytes, and more messages: never better here

(lg is rounded up where R is no power of two.)  The efficiency on R ranks is the time of one rank's work alone over
what it takes among R; 100% would mean R times as fast:

    strong scaling    the batch stays, 1,024 samples, and the shares shrink       c(N) / (R (c(N/R) + t(R, n)))
    weak scaling      the share stays, 64 samples, and the batch grows            c(S) / (c(S) + t(R, n))

c is the time of a step on one rank, measured for shares of many sizes.  What is assumed: every rank has a core and
memory bandwidth of its own, and every pair of ranks a network like that between two ranks here, which is shared memory,
unless --latency and --bandwidth tell of another; no rank is ever late.  The all-reduce of a few numbers (the loss) that
a step of fit has, too, is counted as one of 64 bytes.

The column "measured" is of whole steps on two ranks here.  It lies below the prediction where the two share what they
were assumed to have for themselves.  An efficiency above 100% is no error: smaller shares fit into the caches.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import side_by_side as side
from training import LR, lenet, logistic_regression, mlp, vgg

import tinynet as tn


def wide_mlp():
    return (28, 28, 1), [tn.Flatten(), *(tn.Dense(2048, activation="relu") for _ in range(2)), tn.Dense(10)]


MODELS = {
    "logistic regression": logistic_regression,
    "MLP 784-128-10": mlp,
    "LeNet-like": lenet,
    "VGG-like": vgg,
    "MLP 784-2048-2048-10": wide_mlp,
}
SIZES = [4 ** (k + 4) for k in range(10)]  # bytes, to 64 MB
RANKS = [2**k for k in range(1, 11)]
LOSS_BYTES = 64


# --- on every rank ------------------------------------------------------------------------------------------------


def timed(world, function, rounds, at_least):
    """Seconds of a call in each round, as the slowest rank has them."""
    function()  # compiles
    world.Barrier()
    start = time.perf_counter()
    function()
    once = max(time.perf_counter() - start, 1e-7)
    count = world.bcast(max(1, round(at_least / once)))  # every rank must call it as often
    found = []
    for _ in range(rounds):
        world.Barrier()
        start = time.perf_counter()
        for _ in range(count):
            function()
        found.append(max(world.allgather((time.perf_counter() - start) / count)))
    return found


def a_step(build, share, world):
    """The number of bytes of the gradient, and a function that takes one step on a share of that many samples."""
    shape, layers = build()
    model = tn.Sequential(layers, input_shape=shape, seed=0)
    optimizer, rng = tn.SGD(model, lr=LR), np.random.default_rng(0)
    x, y = rng.random((share, *shape), np.float32), rng.integers(0, 10, share)
    mine, sums = np.zeros(LOSS_BYTES // 8), np.zeros(LOSS_BYTES // 8)

    def step():
        loss, gradient = tn.softmax_cross_entropy(model.forward(x, training=True), y, denominator=share * world.size)
        if world.size > 1:
            mine[0] = loss
            world.Allreduce(mine, sums)
        model.backward(gradient)
        if world.size > 1:
            tn.distributed.sum_gradients(model, world)
        optimizer.step()

    return model.flat_grads.nbytes, step


def work(options):
    """What one of the ranks does; rank 0 writes the seconds to a file."""
    from mpi4py import MPI

    world, found = MPI.COMM_WORLD, {"steps": {}, "bytes": {}, "allreduce": {}}
    rounds = {"rounds": options.rounds, "at_least": options.at_least}
    for name in options.only:
        shares = options.shares if world.size == 1 else [options.batch // 2, options.share]
        for share in shares:
            found["bytes"][name], step = a_step(MODELS[name], share, world)
            found["steps"].setdefault(name, {})[share] = statistics.median(timed(world, step, **rounds))
    if world.size > 1:
        for size in SIZES[1:6:2] if options.quick else SIZES:
            vector, sums = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)
            taken = timed(world, lambda v=vector, s=sums: world.Allreduce(v, s), **rounds)
            found["allreduce"][size] = statistics.median(taken)
    if world.rank == 0:
        Path(options.worker).write_text(json.dumps(found))


def started(ranks, arguments):
    """What `work` found on that many ranks of one thread."""
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        mpiexec = None
    if mpiexec is None:
        sys.exit('This benchmark needs mpi4py and mpiexec: pip install "tinynet-numba[mpi]"')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [mpiexec, "-n", str(ranks), sys.executable, __file__, *arguments, "--worker", str(path)]
        if subprocess.run(command, env={**os.environ, "NUMBA_NUM_THREADS": "1"}).returncode:
            sys.exit(f"mpiexec -n {ranks} failed")
        found = json.loads(path.read_text())
    for kind in ("steps", "allreduce"):  # JSON has texts for keys
        found[kind] = numbered(found[kind])
    return found


def numbered(found):
    return {int(k) if k.isdecimal() else k: numbered(v) if isinstance(v, dict) else v for k, v in found.items()}


# --- the model of the cost ----------------------------------------------------------------------------------------


def line(times):
    """a, b >= 0 such that a + b n fits {n: seconds}, with the least squares of relative errors."""
    n, t = (np.array(list(column), float) for column in (times.keys(), times.values()))
    terms = np.stack([1 / t, n / t], axis=1)
    a, b = np.linalg.lstsq(terms, np.ones(len(t)), rcond=None)[0]
    if a < 0 or b < 0:  # then the better of the two with one term
        single = [column.sum() / (column @ column) for column in terms.T]
        errors = [((1 - s * column) ** 2).sum() for s, column in zip(single, terms.T, strict=True)]
        a, b = (single[0], 0.0) if errors[0] < errors[1] else (0.0, single[1])
    return float(a), float(b)


def allreduce_seconds(ranks, n, a, b):
    """The predicted time of an all-reduce of n bytes."""
    if ranks == 1:
        return 0.0
    steps, moved = math.ceil(math.log2(ranks)), 2 * (ranks - 1) / ranks * b * n
    return min(steps * (a + b * n), 2 * steps * a + moved, 2 * (ranks - 1) * a + moved)


def step_seconds(times, share):
    """c(share), between measured shares on a straight line in logarithms."""
    return math.exp(np.interp(math.log(share), np.log(list(times)), np.log(list(times.values()))))


def efficiencies(times, n, a, b, batch, share):
    """{"strong": {ranks: efficiency}, "weak": ...} for a model with n bytes of gradients."""
    strong, weak = {}, {}
    for ranks in RANKS:
        waits = allreduce_seconds(ranks, n, a, b) + allreduce_seconds(ranks, LOSS_BYTES, a, b)
        if ranks <= batch:  # with more, some have nothing to do
            strong[ranks] = times[batch] / (ranks * (step_seconds(times, batch / ranks) + waits))
        weak[ranks] = times[share] / (times[share] + waits)
    return {"strong": strong, "weak": weak}


# --- what is shown ------------------------------------------------------------------------------------------------


def draw(curves, options, path):
    picture = tn.plots.figure(12, 4.8)
    colours = [tn.plots.BLUE, tn.plots.ORANGE, tn.plots.GREEN, tn.plots.PURPLE, tn.plots.RED]
    titles = {
        "strong": f"Strong scaling: {options.batch:,} samples shared by all ranks",
        "weak": f"Weak scaling: {options.share} samples on every rank",
    }
    for axes, (kind, title) in zip(picture.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for colour, (name, curve) in zip(colours, curves.items(), strict=False):
            axes.plot(list(curve[kind]), [100 * e for e in curve[kind].values()], color=colour, label=name)
            axes.plot(2, 100 * curve["measured"][kind], "o", color=colour, markersize=5)
        axes.set(xscale="log", xlabel="ranks", ylim=(0, None))
        axes.set_xticks(RANKS, [f"{ranks:,}" for ranks in RANKS], fontsize="small")
        axes.minorticks_off()
        axes.set_title(title, fontsize=11)
        axes.grid(color=tn.plots.PALE)
        axes.spines[["top", "right"]].set_visible(False)
    picture.axes[0].set_ylabel("efficiency, % (lines predicted, points measured)")
    picture.axes[1].legend(frameon=False, fontsize="small")
    picture.savefig(path)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, help="a in microseconds, of a network to predict for")
    parser.add_argument("--bandwidth", type=float, help="1/b in GB/s, of that network")
    parser.add_argument("--batch", type=int, default=1024, help="samples of strong scaling (default: %(default)s)")
    parser.add_argument("--share", type=int, default=64, help="samples a rank of weak scaling (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--picture", help="draw the predictions into this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = side.options(parser)
    for name, least in (("latency", 0), ("bandwidth", 1e-9), ("batch", 2), ("share", 1)):
        value = getattr(options, name)
        if value is not None and not least <= value < math.inf:
            parser.error(f"--{name} must be a finite number of at least {least:g}, got {value}")
    sizes = {} if options.quick else {options.batch // 4**k or 1 for k in range(1, 6)}
    options.shares = sorted({1, options.share, options.batch // 2, options.batch, *sizes})
    if options.worker:
        work(options)
        return
    print(side.machine())
    one, two = started(1, sys.argv[1:]), started(2, sys.argv[1:])

    print("\nall-reduce of two ranks")
    a, b = line(two["allreduce"])
    for size, taken in two["allreduce"].items():
        print(f"{size:>12,} bytes  {side.duration(taken):>8}   a + b n {side.duration(a + b * size):>8}")
    rate = f"{1e-9 / b:.2f} GB/s" if b else "no limit"
    print(f"a = {side.duration(a)}, 1/b = {rate}")
    if options.latency is not None:
        a = options.latency * 1e-6
    if options.bandwidth is not None:
        b = 1e-9 / options.bandwidth
    network = "this machine's shared memory" if options.latency is options.bandwidth is None else "the network given"
    print(f"predicted for {network}: a = {a * 1e6:.2f} us, 1/b = {f'{1e-9 / b:.2f} GB/s' if b else 'no limit'}")

    curves = {}
    for name, times in one["steps"].items():
        n, here = one["bytes"][name], two["steps"][name]
        curves[name] = efficiencies(times, n, a, b, options.batch, options.share)
        curves[name]["measured"] = {
            "strong": times[options.batch] / (2 * here[options.batch // 2]),
            "weak": times[options.share] / here[options.share],
        }
    for kind, size in (("strong", f"batch {options.batch:,}"), ("weak", f"{options.share} samples a rank")):
        print(f"\n{kind} scaling, {size}: efficiency in %, predicted from 2 ranks on")
        print(f"{'':22}{'gradient':>9}{'one rank':>9}{'measured':>9}", *(f"{ranks:>5}" for ranks in RANKS))
        for name, curve in curves.items():
            alone = one["steps"][name][options.batch if kind == "strong" else options.share]
            cells = (f"{100 * curve[kind][ranks]:5.0f}" if ranks in curve[kind] else "    -" for ranks in RANKS)
            text = f"{name:22}{one['bytes'][name] / 1e6:>6.2f} MB{side.duration(alone):>9}"
            print(f"{text}{100 * curve['measured'][kind]:>9.0f}", *cells)
    if options.picture:
        draw(curves, options, options.picture)
    side.save(options.json, [], latency=a, seconds_per_byte=b, one=one, two=two, curves=curves)


if __name__ == "__main__":
    main()
