"""The products of Dense at many sizes: tinynet beside PyTorch (MKL and oneDNN) and NumPy (OpenBLAS).

    python benchmarks/products.py [--only SIZES ...] [--headlines] [--rounds 5]
                                  [--vectors both] [--threads both] [--quick] [--json PATH]

For (N, I, O), N samples from I inputs to O outputs, each side computes into arrays that exist already

    forward      y = x w + b                             2 N I O operations
    dw           dw = x.T dy, db = sums of dy            2 N I O
    dw and dx    these and dx = dy w.T                   4 N I O

in the order of axes that is its own: w is (I, O) for tinynet and NumPy, (O, I) for PyTorch.  Values are compared to
1e-5 of the largest before they are timed.  The share is of what multiply-adds in registers reach in the same run.

The sizes: those of networks, which are the headlines; and for the cliffs that caches have, powers of two and their
neighbours.  At the end stand the sizes where tinynet is behind, and where time jumps from one neighbour to the next.
"""

import argparse
from itertools import pairwise

import numpy as np
import side_by_side as side
from side_by_side import agree, torch

from tinynet.layers.dense import dense_backward, dense_forward

NETWORKS = [(64, 784, 128), (512, 784, 128), (1024, 256, 256), (256, 768, 768), (2048, 512, 2048), (1024, 1024, 1024)]
SAMPLES = [(1, 784, 128), (1, 1024, 1024), (8, 1024, 1024), (64, 784, 10), (128, 784, 1024), (128, 1024, 1024)]
TRANSFORMERS = [(64, 128, 384), (768, 128, 512), (768, 512, 128), (256, 384, 1536), (2048, 384, 1536)]
TRANSFORMERS += [(64, 768, 3072), (256, 768, 3072), (2048, 768, 768), (2048, 768, 3072), (256, 3072, 768)]
HEADLINES = NETWORKS + SAMPLES + TRANSFORMERS
AROUND = [[2**k - 1, 2**k, 2**k + 1] for k in range(2, 11)]
CUBES = [[(1,) * 3, (2,) * 3], *([(s,) * 3 for s in sizes] for sizes in AROUND)]
LONG = [[2**k - 1, 2**k, 2**k + 1] for k in (11, 12)]
LONG = [[(256,) * axis + (s,) + (256,) * (2 - axis) for s in sizes] for sizes in LONG for axis in range(3)]
GROUP = "products of Dense"


def tinynet_side(x, w, b, dy):
    y, dw, db, dx = (np.empty_like(a) for a in (dy, w, b, x))
    none, no_floor = np.empty((0, 0), np.float32), np.float32(-np.inf)
    return {
        "forward": lambda: (dense_forward(x, w, b, no_floor, y), y)[1:],
        "dw": lambda: (dense_backward(x, w, dy, dy, False, False, dw, db, none), dw, db)[1:],
        "dw and dx": lambda: (dense_backward(x, w, dy, dy, False, True, dw, db, dx), dw, db, dx)[1:],
    }


def numpy_side(x, w, b, dy):
    y, dw, db, dx = (np.empty_like(a) for a in (dy, w, b, x))

    def forward():
        np.matmul(x, w, out=y)
        return (np.add(y, b, out=y),)

    def weights():
        return np.matmul(x.T, dy, out=dw), dy.sum(axis=0, out=db)

    return {"forward": forward, "dw": weights, "dw and dx": lambda: (*weights(), np.matmul(dy, w.T, out=dx))}


def mkl_side(x, w, b, dy):
    x, w, b, dy = map(torch.from_numpy, (x, w.T.copy(), b, dy))
    y, dw, db, dx = (torch.empty_like(a) for a in (dy, w, b, x))

    def weights():
        return torch.mm(dy.T, x, out=dw).T, torch.sum(dy, 0, out=db)

    return {
        "forward": lambda: (torch.addmm(b, x, w.T, out=y),),
        "dw": weights,
        "dw and dx": lambda: (*weights(), torch.mm(dy, w, out=dx)),
    }


def onednn_side(x, w, b, dy):
    """What torch.compile calls for a linear layer, where this PyTorch has it."""
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is None:
        return None
    x, w, b, dy = map(torch.from_numpy, (x, w.T.copy(), b, dy))

    def weights():
        return linear(dy.T, x.T, None, "none", [], "").T, dy.sum(0)

    return {
        "forward": lambda: (linear(x, w, b, "none", [], ""),),
        "dw": weights,
        "dw and dx": lambda: (*weights(), linear(dy, w.T, None, "none", [], "")),
    }


def run(size, options, most, of_networks):
    """Rows for one size."""
    rng = np.random.default_rng(0)
    N, I, O = size
    arrays = [rng.standard_normal(shape, np.float32) for shape in ((N, I), (I, O), (O,), (N, O))]
    makers = {"NumPy OpenBLAS": numpy_side}
    if torch:
        makers = {"PyTorch MKL": mkl_side, "PyTorch oneDNN": onednn_side, **makers}
    sides = {name: make(*arrays) for name, make in {"tinynet": tinynet_side, **makers}.items()}
    sides = {name: works for name, works in sides.items() if works}
    for work, ours in sides["tinynet"].items():
        found = ours()
        for peer in list(sides)[1:]:
            for mine, theirs in zip(found, sides[peer][work](), strict=True):
                agree(mine, theirs, 1e-5, f"Dense {size}, {work}, against {peer}")
    times = side.measure_several(sides, options.rounds, options.at_least)
    work = {"forward": 2 * N * I * O, "dw": 2 * N * I * O, "dw and dx": 4 * N * I * O}
    more = {"group": GROUP, "size": size, "of_networks": of_networks}
    return side.parts_of(f"Dense {size}", times, work, most, ("PyTorch", "NumPy"), **more)


def cliffs(rows, groups, limit=1.3):
    """[(jump, what)] where a product takes more than `limit` times what a neighbour does, work for work or outright."""
    seconds, found = {(tuple(row["size"]), row["part"]): row["seconds"] for row in rows}, []
    for size, following in (pair for group in groups for pair in pairwise(group)):
        for part in ("forward", "dw", "dw and dx"):
            if (size, part) in seconds and (following, part) in seconds:
                before, after = seconds[size, part], seconds[following, part]
                jump = max(after / before * np.prod(size) / np.prod(following), before / after)
                if jump > limit:
                    found.append((float(jump), f"{part} from {size} to {following}"))
    return sorted(found, reverse=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="N,I,O", help="only these sizes, as 64,784,128")
    parser.set_defaults(rounds=5)
    options = side.options(parser)
    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []
    if options.only:
        sizes = [tuple(map(int, size.split(","))) for size in options.only]
    elif options.quick:
        sizes = [(64, 784, 128), *CUBES[1]]
    else:
        sizes = HEADLINES + ([] if options.headlines else [size for group in CUBES + LONG for size in group])
    for size in dict.fromkeys(sizes):
        rows += run(size, options, most, size in HEADLINES)
    side.summarised(rows, GROUP)
    large = [row["share"] for row in rows if min(row["size"]) >= 256]
    if large:
        print(f"of the FMA peak where all sizes are at least 256: {np.median(large):.0%}, at worst {min(large):.0%}")
    for jump, where in cliffs(rows, CUBES + LONG):
        print(f"    a cliff of {jump:.2f}: {where}")
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
