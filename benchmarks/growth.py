"""How the time of a step grows with the batch, with the classes, and with the threads.

    python benchmarks/growth.py [--picture PATH] [--rounds 9] [--quick] [--json PATH]

Two curves, each on one thread and on all of them, tinynet beside PyTorch's eager mode (compiling for every size would
take an hour): a training step of the LeNet-like network for batches of 1 to 1,024, and softmax cross-entropy of 64 rows
with 2 to 200,000 classes.  Losses are compared at every size.  The last column is the steepest place of a curve: by how
much more than the work the time grew from one size to the next.  At most 1 is what one hopes for, 2 would be a cliff.
"""

import argparse
import statistics
from itertools import pairwise

import numpy as np
import side_by_side as side
from losses import backward_of
from side_by_side import agree, measure, torch
from training import lenet, tinynet_step, torch_steps

import tinynet as tn

BATCHES = [2**k for k in range(11)]
CLASSES = [2, 4, 8, 10, 16, 32, 64, 100, 256, 1000, 4096, 10_000, 32_000, 50_257, 100_000, 200_000]
ROWS = 64


def steps_of_batch(batch):
    rng = np.random.default_rng(0)
    shape, _ = lenet()
    batches = [(rng.random((batch, *shape), np.float32), rng.integers(0, 10, batch))]
    model, step = tinynet_step(lenet, batches)
    sides = {"tinynet": step}
    if torch:
        sides["PyTorch eager"] = torch_steps(model, batches, ["eager"])["PyTorch eager"][0]
    return sides


def losses_of_classes(C):
    rng = np.random.default_rng(0)
    z, t = 3 * rng.standard_normal((ROWS, C), np.float32), rng.integers(0, C, ROWS)
    sides = {"tinynet": lambda: tn.softmax_cross_entropy(z, t)[0]}
    if torch:
        run = backward_of(torch.nn.functional.cross_entropy, z, t)
        sides["PyTorch eager"] = lambda: run()[0]
    return sides


CURVES = {
    "batch size, training step of the LeNet-like network": (steps_of_batch, BATCHES),
    f"classes, softmax_cross_entropy of {ROWS} rows": (losses_of_classes, CLASSES),
}


def use_threads(n):
    tn.set_num_threads(n)
    if torch:
        torch.set_num_threads(n)


def run(what, options):
    """The curves of one panel: {side and threads: {size: seconds}}."""
    make_sides, sizes = CURVES[what]
    most, curves = tn.get_num_threads(), {}
    for size in sizes[:: len(sizes) - 1] if options.quick else sizes:
        sides = make_sides(size)
        first = {name: call() for name, call in sides.items()}
        for peer in list(sides)[1:]:
            agree(first["tinynet"], first[peer], 1e-5, f"{what}, {size}: loss against {peer}")
        for threads in sorted({1, most}):
            use_threads(threads)
            for name, taken in measure(sides, options.rounds, options.at_least).items():
                label = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
                curves.setdefault(label, {})[size] = statistics.median(taken)
        use_threads(most)
    print(f"\n{what}")
    print(" " * 26, *(f"{size:>8}" for size in next(iter(curves.values()))), "steepest", sep=" ")
    for label, curve in curves.items():
        print(f"{label:26}", *(f"{side.duration(t):>8}" for t in curve.values()), f"{steepest(curve):8.2f}", flush=True)
    return curves


def steepest(curve):
    """By how much more than the work the time grew from one size to the next, at most; curve is {size: seconds}."""
    points = [(int(size), taken) for size, taken in curve.items()]
    return max((t1 / t0) / (n1 / n0) for (n0, t0), (n1, t1) in pairwise(points))


def draw(axes, what, curves):
    """One panel: both axes logarithmic, where what grows with the work is a straight line."""
    for label, curve in curves.items():
        ours, single = label.startswith("tinynet"), label.endswith("1 thread")
        axes.plot(
            [int(size) for size in curve],
            [1e6 * taken for taken in curve.values()],
            color=tn.plots.BLUE if ours else tn.plots.ORANGE,
            linestyle="--" if single else "-",
            marker="o",
            markersize=3,
            label=label,
        )
    axes.set(xscale="log", yscale="log", ylabel="microseconds")
    axes.set_xlabel(what, wrap=True)
    axes.grid(color=tn.plots.PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", help="draw the curves into this file")
    options = side.options(parser)
    print(side.machine(), side.setting(), sep=", ")
    curves = {what: run(what, options) for what in CURVES}
    if options.picture:
        picture = tn.plots.figure(12, 4.5)
        for axes, (what, found) in zip(picture.subplots(1, len(curves)), curves.items(), strict=True):
            draw(axes, what, found)
        picture.savefig(options.picture)
        print(f"saved {options.picture}")
    side.save(options.json, [], curves=curves)


if __name__ == "__main__":
    main()
