"""Layers that look along time, forward and backward: tinynet beside PyTorch.

    python benchmarks/sequences.py [--only NAME ...] [--headlines] [--rounds 9] [--vectors both] [--threads both]
                                   [--quick] [--json PATH]

    predict        forward without what the backward pass needs
    step           forward and backward, with the gradients of the weights, as in a model's first layer
    step with dx   and with that of the input
    lengths        a step with sequences of unequal length: PyTorch's are packed, and padded again

PyTorch is eager: torch.compile leaves its recurrent layers as they are.  Outputs and gradients are compared to 1e-4 of
the largest number before they are timed.  The last rows are steps whose gates are nearly closed, beside the same steps
with open ones: denormal numbers must not make them slower.
"""

import argparse

import numpy as np
import side_by_side as side
from side_by_side import agree, measure, torch

import tinynet as tn

SHAPES = {"32 x 50, 100 to 128": (32, 50, 100, 128), "64 x 28, 28 to 128": (64, 28, 28, 128)}
HEADLINES = "predict", "step", "lengths"


def flops(kind, shape, part):
    """Of the products, a multiply-add as two: x w and h u, and backward two like each, but dx if it is left out."""
    N, T, I, H = shape
    gates = {"LSTM": 4, "GRU": 3}[kind]
    products = {"predict": I + H, "step": 2 * I + 3 * H, "step with dx": 3 * (I + H)}[part]
    return 2 * N * T * gates * H * products


def recurrent(kind, shape):
    """{part: {side: function}} of LSTM or GRU, whose results were compared."""
    N, T, I, H = shape
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((N, T, size), np.float32) for size in (I, H))
    lengths = rng.integers(1, T + 1, N)
    lengths[0] = T
    padding = np.arange(T) >= lengths[:, None]
    dy_of_lengths = np.where(padding[..., None], 0, dy)
    layer = getattr(tn, kind)(H)
    layer.build((T, I), "float32", rng)

    def step(input_grad, lengths=None):
        y = layer.forward(x, training=True, lengths=lengths)
        return y, layer.backward(dy if lengths is None else dy_of_lengths, input_grad)

    ours = {
        "predict": lambda: layer.forward(x),
        "step": lambda: step(False),
        "step with dx": lambda: step(True),
        "lengths": lambda: step(False, lengths),
    }
    if not torch:
        return {part: {"tinynet": function} for part, function in ours.items()}
    module = getattr(torch.nn, kind)(I, H, batch_first=True)
    with torch.no_grad():
        for name, array, _ in layer.torch_arrays():
            getattr(module, name).copy_(torch.from_numpy(array))
    tx, tdy, tlengths = torch.from_numpy(x), torch.from_numpy(dy), torch.from_numpy(lengths)
    tdy_of_lengths, with_grad = torch.from_numpy(dy_of_lengths), tx.clone().requires_grad_()

    def predict():
        with torch.no_grad():
            return module(tx)[0]

    def their_step(x):
        module.zero_grad(set_to_none=True)
        x.grad = None
        y, _ = module(x)
        y.backward(tdy)
        return y.detach(), x.grad

    def packed():
        module.zero_grad(set_to_none=True)
        given = torch.nn.utils.rnn.pack_padded_sequence(tx, tlengths, batch_first=True, enforce_sorted=False)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(module(given)[0], batch_first=True, total_length=T)
        y.backward(tdy_of_lengths)
        return y.detach(), None

    theirs = {
        "predict": predict,
        "step": lambda: their_step(tx),
        "step with dx": lambda: their_step(with_grad),
        "lengths": packed,
    }
    agree(ours["predict"](), theirs["predict"](), 1e-4, f"{kind}, outputs")
    for part in ("step with dx", "lengths"):
        (y, dx), (their_y, their_dx) = ours[part](), theirs[part]()
        agree(y, their_y, 1e-4, f"{kind}, {part}: outputs")
        if dx is not None:
            agree(dx, their_dx, 1e-4, f"{kind}, {part}: dx")
        for parameter, name in zip(layer.parameters[:2], ("weight_ih_l0", "weight_hh_l0"), strict=True):
            agree(parameter.grad.T, getattr(module, name).grad, 1e-4, f"{kind}, {part}: {name}")
    return {part: {"tinynet": ours[part], "PyTorch eager": theirs[part]} for part in ours}


def closed_gates(kind, shape):
    """{"tinynet": a step whose gates are nearly closed, "tinynet, open": one whose gates are not}."""
    N, T, I, H = shape
    sides = {}
    for name, bias in (("tinynet", -12.0), ("tinynet, open", 0.0)):
        rng = np.random.default_rng(0)
        layer = getattr(tn, kind)(H)
        layer.build((T, I), "float32", rng)
        x, dy = (rng.standard_normal((N, T, size), np.float32) for size in (I, H))
        dy[:, :-1] = 0  # what reaches the first steps has passed all the gates
        layer.parameters[2].value[:] = bias

        def step(layer=layer, x=x, dy=dy):
            layer.forward(x, training=True)
            layer.backward(dy)

        sides[name] = step
    return sides


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these")
    options = side.options(parser)
    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []
    shapes = {"2 x 3, 4 to 5": (2, 3, 4, 5)} if options.quick else SHAPES
    for kind in ("LSTM", "GRU"):
        for name, shape in shapes.items():
            what = f"{kind} {name}"
            if not any(part.lower() in what.lower() for part in options.only):
                continue
            for part, sides in recurrent(kind, shape).items():
                if options.headlines and part not in HEADLINES:
                    continue
                times, about = measure(sides, options.rounds, options.at_least), {}
                if part != "lengths":
                    about["work"] = flops(kind, shape, part)
                    about["share"] = about["work"] / np.median(times["tinynet"]) / 1e9 / most["GFLOP/s"]
                rows.append(side.report(f"{what}, {part}", times, headline=part in HEADLINES, **about))
        if not options.headlines and any(part.lower() in kind.lower() for part in options.only):
            shape = next(iter(shapes.values()))
            times = measure(closed_gates(kind, shape), options.rounds, options.at_least)
            rows.append(side.report(f"{kind}, a step with closed gates", times))
            print(f"    {side.ratio(times, 'tinynet', 'tinynet, open'):.2f} times one with open gates")
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
