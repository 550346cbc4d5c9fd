"""The losses, value and gradient together: tinynet beside PyTorch (eager, compiled) and JAX.

    python benchmarks/losses.py [--only NAME ...] [--headlines] [--rounds 9] [--vectors both] [--threads both]
                                [--quick] [--json PATH]

Before anything is timed, values and gradients are compared to 3e-5 of the largest.  GB/s counts what must move, the
prediction and the targets in and the gradient out, and the share is of what a parallel copy of an array as large as the
prediction reaches, timed in turn with the rest.  PyTorch is compiled in two ways, the loss whose backward() is then
called, and loss and gradient as one function (torch.func.grad_and_value), since sometimes one wins and sometimes the
other.

torch_cross_entropy is tinynet's loss as PyTorch's models call it, with PyTorch's autograd around it.

The last case, a dense layer with its cross-entropy, is also about memory: a process of its own measures how far the
peak of its resident memory goes beyond inputs and outputs (on Linux, which keeps that figure).
"""

import argparse

import numpy as np
import side_by_side as side
from side_by_side import agree, compiled, jax, measure, parallel_copy, torch

import tinynet as tn
from tinynet.losses.huber import huber
from tinynet.losses.kl_divergence import kl_divergence
from tinynet.losses.linear_cross_entropy import linear_cross_entropy
from tinynet.losses.mean_absolute_error import mean_absolute_error
from tinynet.losses.multiclass_hinge import multiclass_hinge
from tinynet.losses.sigmoid_focal import sigmoid_focal
from tinynet.losses.softmax_focal import softmax_focal

if torch:
    import torch.nn.functional as F

TOLERANCE = 3e-5  # label smoothing over 1,000 classes, compiled by PyTorch, is 1.4e-5 from float64 (tinynet: 1.3e-7)
SHAPE = (4096, 1000)
SOFTMAX_SHAPES = (256, 10), (4096, 10), (4096, 1000), (1024, 50257)
OTHER_SHAPES = (4096, 10), (4096, 1000)
LINEAR, LINEAR_QUICK, LINEAR_NAME = (2048, 512, 32000), (256, 64, 500), "linear_cross_entropy"


# --- targets, and the losses in PyTorch's and JAX's words ------------------------------------------------------


def labels(shape, rng):
    return rng.integers(0, shape[1], shape[0])


def numbers(shape, rng):
    return rng.standard_normal(shape, np.float32)


def zeros_and_ones(shape, rng):
    return rng.integers(0, 2, shape).astype(np.float32)


def distributions(shape, rng):
    p = rng.random(shape, np.float32)
    return p / p.sum(axis=1, keepdims=True)


def torch_sigmoid_focal(z, t):
    """torchvision's sigmoid_focal_loss, gamma 2 and alpha 0.25, averaged."""
    p = torch.sigmoid(z)
    p_t = p * t + (1 - p) * (1 - t)
    alpha_t = 0.25 * t + 0.75 * (1 - t)
    return (alpha_t * (1 - p_t) ** 2 * F.binary_cross_entropy_with_logits(z, t, reduction="none")).mean()


def torch_softmax_focal(z, t):
    log_p = F.log_softmax(z, dim=-1).gather(1, t[:, None])
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


def jax_softmax_cross_entropy(z, t):
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(z), t[:, None], axis=1).mean()


def jax_sigmoid_cross_entropy(z, t):
    return (jax.nn.softplus(z) - z * t).mean()


def through_autograd(z, t):
    """tinynet's softmax cross-entropy inside PyTorch: loss and backward(), as its own are called."""
    z = torch.from_numpy(z).requires_grad_()
    value = tn.interop.torch_cross_entropy(z, torch.from_numpy(t))
    value.backward()
    return value.item(), z.grad


# name: (tinynet's, its targets, PyTorch's)
FAMILY = {
    "sigmoid_cross_entropy": (tn.sigmoid_cross_entropy, zeros_and_ones, torch and F.binary_cross_entropy_with_logits),
    "sigmoid_focal": (sigmoid_focal, zeros_and_ones, torch_sigmoid_focal),
    "softmax_focal": (softmax_focal, labels, torch_softmax_focal),
    "kl_divergence": (
        kl_divergence,
        distributions,
        lambda z, q: F.kl_div(F.log_softmax(z, dim=-1), q, reduction="batchmean"),
    ),
    "multiclass_hinge": (multiclass_hinge, labels, torch and F.multi_margin_loss),
    "mean_squared_error": (tn.mean_squared_error, numbers, torch and F.mse_loss),
    "mean_absolute_error": (mean_absolute_error, numbers, torch and F.l1_loss),
    "huber": (huber, numbers, torch and F.huber_loss),
}


def smoothed(z, t, out=None):
    return tn.softmax_cross_entropy(z, t, label_smoothing=0.1, out=out)


def torch_smoothed(z, t):
    return F.cross_entropy(z, t, label_smoothing=0.1)


# The same for softmax_cross_entropy with other targets than labels.
OTHER_TARGETS = {
    "softmax_cross_entropy, soft targets": (tn.softmax_cross_entropy, distributions, torch and F.cross_entropy),
    "softmax_cross_entropy, label_smoothing=0.1": (smoothed, labels, torch_smoothed),
}


# --- sides -----------------------------------------------------------------------------------------------------


def backward_of(function, *arrays):
    """A call of PyTorch's `function`, and its gradients with respect to all arrays but the last."""
    arrays = [torch.from_numpy(a.copy()) for a in arrays]
    inputs = [a.requires_grad_() for a in arrays[:-1]]

    def run():
        for a in inputs:
            a.grad = None
        value = function(*arrays)
        value.backward()
        return value.item(), *(a.grad for a in inputs)

    return run


def torch_sides(function, z, t, quick):
    sides = {"PyTorch eager": backward_of(function, z, t)}
    if quick:
        return sides
    forward = compiled(function, torch.from_numpy(z).requires_grad_(), torch.from_numpy(t))
    if forward:
        sides["PyTorch compile"] = backward_of(forward, z, t)
    tz, tt = torch.from_numpy(z.copy()), torch.from_numpy(t)
    both = compiled(torch.func.grad_and_value(function), tz, tt)
    if both:

        def run():
            gradient, value = both(tz, tt)
            return value.item(), gradient

        sides["PyTorch compile, grad_and_value"] = run
    return sides


def jax_side(function, z, t):
    both, jz, jt = jax.jit(jax.value_and_grad(function)), jax.numpy.array(z), jax.numpy.array(t)

    def run():
        value, gradient = both(jz, jt)
        return float(value), gradient.block_until_ready()

    return {"JAX": run}


def compare(name, ours, peers):
    """Stop unless value and gradients are what every peer computes."""
    for peer, run in peers.items():
        theirs = run()
        agree(ours[0], theirs[0], TOLERANCE, f"{name}, value against {peer}")
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            agree(mine, other, TOLERANCE, f"{name}, gradient against {peer}")


def run_loss(name, shape, function, make_targets, torch_function, jax_function, in_place, options):
    rng = np.random.default_rng(0)
    if options.quick:
        shape = (min(64, shape[0]), min(100, shape[1]))
    name = f"{name} {shape}"
    z = 3 * numbers(shape, rng)
    t = make_targets(shape, rng)
    peers = torch_sides(torch_function, z, t, options.quick) if torch else {}
    if jax and jax_function:
        peers.update(jax_side(jax_function, z, t))
    compare(name, function(z, t), peers)

    out, ours = np.empty_like(z), {"tinynet": lambda: function(z, t)}
    if in_place and not options.headlines:
        overwritten = z.copy()  # call after call by its own gradient: other numbers, the same work
        ours["tinynet, out="] = lambda: function(z, t, out=out)
        ours["tinynet, in place"] = lambda: function(overwritten, t, out=overwritten)
        agree(function(z, t, out=out)[1], function(z, t)[1], 0, f"{name}, gradient in out=")
        agree(function(overwritten, t, out=overwritten)[1], out, 0, f"{name}, gradient in place")
    # Copied in pieces of one size: rows of ten numbers each would measure the copy's own loop.
    pieces = np.gcd(z.size, 64)
    x, y = z.reshape(pieces, -1), np.empty((pieces, z.size // pieces), z.dtype)
    times = measure({**ours, "copy": lambda: parallel_copy(x, y), **peers}, options.rounds, options.at_least)
    moved = 2 * z.nbytes + t.nbytes
    for mine in ours:
        what = f"{name}{mine.removeprefix('tinynet')}"
        share = side.ratio(times, "copy", mine) * moved / (2 * z.nbytes)
        reached = {"work": moved, "unit": "GB/s", "share": share}
        yield side.report(what, times, ours=mine, headline=mine == "tinynet" and in_place, **reached)


# --- the dense layer with its cross-entropy --------------------------------------------------------------------


def plain(x, w, b, t):
    return F.cross_entropy(F.linear(x, w, b), t)


def chunked(x, w, b, t):
    return F.linear_cross_entropy(x, w, t, linear_bias=b, options=torch.nn.LinearCrossEntropyOptions())


def linear_peers():
    """{name: the loss as PyTorch offers it, with weights (C, D)}"""
    found = {"PyTorch eager": plain, "PyTorch compile": plain} if torch else {}
    if torch and hasattr(torch.nn, "LinearCrossEntropyOptions"):
        found["PyTorch chunked"] = chunked
    return found


def linear_side(name, x, w, b, t):
    """A call that returns value, dx, dw and db, or None where PyTorch can't compile."""
    if name == "tinynet":
        return lambda: linear_cross_entropy(x, w, b, t)
    function, arrays = linear_peers()[name], (x, w.T, b, t)
    if "compile" in name:
        function = compiled(function, *(torch.from_numpy(a.copy()).requires_grad_(a is not t) for a in arrays))
    run = function and backward_of(function, *arrays)

    def transposed():
        value, dx, dw, db = run()
        return value, dx, dw.T, db

    return transposed if run else None


def linear_arrays(N, D, C):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((D, C), np.float32) / np.float32(np.sqrt(D))
    return numbers((N, D), rng), w, numbers((C,), rng), labels((N, C), rng)


def run_linear(options, most):
    N, D, C = LINEAR_QUICK if options.quick else LINEAR
    name = f"{LINEAR_NAME} ({N}, {D}) x {C}"
    arrays = linear_arrays(N, D, C)
    names = ["tinynet", *(peer for peer in linear_peers() if not (options.quick and "compile" in peer))]
    sides = {one: linear_side(one, *arrays) for one in names}
    sides = {one: run for one, run in sides.items() if run}
    compare(name, sides["tinynet"](), {one: run for one, run in sides.items() if one != "tinynet"})
    times = measure(sides, min(options.rounds, 5), options.at_least)
    flops = 6 * N * D * C
    share = flops / np.median(times["tinynet"]) / 1e9 / most["GFLOP/s"]
    row = side.report(name, times, work=flops, share=share, headline=True)
    row["memory"] = side.peaks(name, sides)
    return row


def print_memory(name, quick):
    """Print by how many bytes the peak of one call goes beyond inputs and outputs; nothing where that is unknown."""
    N, D, C = LINEAR_QUICK if quick else LINEAR
    linear_side(name, *linear_arrays(2, D, C))()  # loads code and starts threads: no cost of the call
    x, w, b, t = linear_arrays(N, D, C)
    side.print_peak(linear_side(name, x, w, b, t), outputs=x.nbytes + w.nbytes + b.nbytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="losses whose name contains one of these")
    options = side.options(parser)
    if options.memory:
        print_memory(options.memory[1], options.quick)
        return

    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []

    def wanted(name):
        return any(part.lower() in name.lower() for part in options.only)

    for shape in SOFTMAX_SHAPES:
        if wanted(f"softmax_cross_entropy {shape}"):
            losses = tn.softmax_cross_entropy, labels, torch and F.cross_entropy, jax_softmax_cross_entropy
            rows += run_loss("softmax_cross_entropy", shape, *losses, True, options)
    for name, losses in OTHER_TARGETS.items():
        for shape in OTHER_SHAPES:
            if wanted(f"{name} {shape}"):
                rows += run_loss(name, shape, *losses, None, True, options)
    for shape in () if options.headlines else SOFTMAX_SHAPES:
        if torch and wanted(f"torch_cross_entropy {shape}"):
            losses = through_autograd, labels, F.cross_entropy, None
            rows += run_loss("torch_cross_entropy", shape, *losses, False, options)
    for name, losses in FAMILY.items():
        first = name == "sigmoid_cross_entropy"
        if wanted(f"{name} {SHAPE}") and (first or not options.headlines):
            in_jax = jax_sigmoid_cross_entropy if first else None
            rows += run_loss(name, SHAPE, *losses, in_jax, first, options)
    if wanted(LINEAR_NAME):
        rows.append(run_linear(options, most))
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
