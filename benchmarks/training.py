"""One training step, forward, loss, backward and SGD, and inference: tinynet beside PyTorch, for seven networks.

    python benchmarks/training.py [--only NAME ...] [--rounds 9] [--json PATH]

Both sides start from the same weights and see the same batches.  Before anything is timed, the losses of the first step
are compared to 1e-5 and those of 20 steps to 1e-3 (rounding differs, and grows from step to step).  PyTorch runs in
three modes, and its fastest is what the ratio is against: eager, channels_last (with convolutions), and torch.compile.
"""

import argparse

import numpy as np
import side_by_side as side
from side_by_side import agree, compiled, duration, measure, torch

import tinynet as tn

if torch:
    import torch.nn.functional as F
    from torch import nn


def logistic_regression():
    return (28, 28, 1), [tn.Flatten(), tn.Dense(10)]


def mlp():
    return (28, 28, 1), [tn.Flatten(), tn.Dense(128, activation="relu"), tn.Dense(10)]


def lenet():
    layers = [tn.Conv2D(6, 5, padding=2, activation="relu"), tn.MaxPool2D(2)]
    layers += [tn.Conv2D(16, 5, activation="relu"), tn.MaxPool2D(2), tn.Flatten()]
    layers += [tn.Dense(120, activation="relu"), tn.Dense(84, activation="relu"), tn.Dense(10)]
    return (28, 28, 1), layers


def tutorial_cnn():
    """The network of PyTorch's tutorial "Training a classifier"."""
    layers = [tn.Conv2D(6, 5, activation="relu"), tn.MaxPool2D(2), tn.Conv2D(16, 5, activation="relu"), tn.MaxPool2D(2)]
    layers += [tn.Flatten(), tn.Dense(120, activation="relu"), tn.Dense(84, activation="relu"), tn.Dense(10)]
    return (32, 32, 3), layers


def vgg():
    layers = []
    for filters in (32, 64):
        layers += [tn.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(2)] + [tn.MaxPool2D(2)]
    return (32, 32, 3), [*layers, tn.Flatten(), tn.Dense(128, activation="relu"), tn.Dense(10)]


WORKLOADS = {
    "logistic regression 784-10, batch 64": (logistic_regression, 64),
    "MLP 784-128-10, batch 64": (mlp, 64),
    "MLP 784-128-10, batch 512": (mlp, 512),
    "LeNet-like, 28x28, batch 64": (lenet, 64),
    "CIFAR-10 tutorial CNN, batch 4": (tutorial_cnn, 4),
    "CIFAR-10 tutorial CNN, batch 64": (tutorial_cnn, 64),
    "VGG-like, CIFAR-10, batch 64": (vgg, 64),
}
LR = 0.001


def torch_twin(model):
    """The same network in PyTorch, with the same weights."""
    modules, before_flatten = [], None
    for layer in model.layers:
        values = [p.value for p in layer.parameters]
        if isinstance(layer, tn.Conv2D):
            C, K = layer.input_shape[2], layer.filters
            padding = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
            module = nn.Conv2d(C, K, layer.kernel_size, padding=padding)
            values[0] = values[0].transpose(3, 2, 0, 1)
        elif isinstance(layer, tn.Dense):
            module = nn.Linear(layer.input_shape[0], layer.units)
            values[0] = values[0].T
            if before_flatten is not None:  # PyTorch flattens channels first
                H, W, C = before_flatten
                values[0] = values[0].reshape(-1, H, W, C).transpose(0, 3, 1, 2).reshape(layer.units, -1)
        elif isinstance(layer, tn.MaxPool2D):
            module = nn.MaxPool2d(2)
        else:
            module = nn.Flatten()
        before_flatten = layer.input_shape if isinstance(layer, tn.Flatten) and len(layer.input_shape) == 3 else None
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), values, strict=True):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        modules.append(module)
        if getattr(layer, "activation_name", None) == "relu":
            modules.append(nn.ReLU())
    return nn.Sequential(*modules)


def tinynet_step(build, batches):
    """A function that takes one step on the next batch and returns its loss; and one that predicts."""
    shape, layers = build()
    model = tn.Sequential(layers, input_shape=shape, seed=0)
    optimizer, turn = tn.SGD(model, lr=LR), iter_forever(batches)

    def step():
        x, y = next(turn)
        logits = model.forward(x, training=True)
        loss, dlogits = tn.softmax_cross_entropy(logits, y)
        model.backward(dlogits)
        optimizer.step()
        return loss

    return model, step


def torch_steps(twin_of, batches):
    """{mode: (step, forward)} of PyTorch, each from the same weights."""
    found = {}
    for mode in ("eager", "channels_last", "compile"):
        network = torch_twin(twin_of)
        has_convolution = any(isinstance(module, nn.Conv2d) for module in network)
        if mode == "channels_last" and not has_convolution:
            continue
        inputs = [(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y)) for x, y in batches]
        if mode == "channels_last":
            network = network.to(memory_format=torch.channels_last)
            inputs = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in inputs]
        optimizer, forward = torch.optim.SGD(network.parameters(), lr=LR), network
        if mode == "compile":
            forward = compiled(network, inputs[0][0])
            if forward is None:
                continue
        found[mode] = torch_step(forward, optimizer, iter_forever(inputs)), forward
    return found


def torch_step(forward, optimizer, turn):
    def step():
        x, y = next(turn)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def iter_forever(items):
    while True:
        yield from items


def no_grad(forward, x):
    def predict():
        with torch.no_grad():
            return forward(x)

    return predict


def run(name, rounds):
    build, batch = WORKLOADS[name]
    rng = np.random.default_rng(0)
    shape, _ = build()
    batches = [(rng.random((batch, *shape), np.float32), rng.integers(0, 10, batch)) for _ in range(4)]
    model, step = tinynet_step(build, batches)
    rows = []
    peers = torch_steps(model, batches) if torch else {}
    losses = [step() for _ in range(20)]
    for mode, (their_step, _) in peers.items():
        theirs = [their_step() for _ in range(20)]
        agree(losses[:1], theirs[:1], 1e-5, f"{name}, loss of the first step against PyTorch {mode}")
        agree(losses, theirs, 1e-3, f"{name}, losses of 20 steps against PyTorch {mode}")
    sides = {"tinynet": step, **{mode: their_step for mode, (their_step, _) in peers.items()}}
    flops = 3 * sum(layer.flops for layer in model.layers) * batch
    rows.append(report(f"{name}, training step", *measure(sides, rounds), flops))
    for size in (1, 256):
        x = rng.random((size, *shape), np.float32)
        sides = {"tinynet": lambda x=x: model.predict(x)}
        for mode, (_, forward) in peers.items():
            if mode == "compile":
                torch._dynamo.reset()  # or it would give up after eight sizes of input
            tx = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
            if mode == "channels_last":
                tx = tx.contiguous(memory_format=torch.channels_last)
            sides[mode] = no_grad(forward, tx)
        rows.append(
            report(f"{name.rsplit(',', 1)[0]}, predict {size}", *measure(sides, rounds), flops / 3 / batch * size)
        )
    return rows


def report(what, times, ratios, flops):
    """Print a line, and return it as a row for RESULTS.md."""
    median, low, high = times["tinynet"]
    row = {"what": what, "tinynet": median, "low": low, "high": high, "GFLOP/s": flops / median / 1e9, "peers": {}}
    text = f"{what:55} {duration(median):>8} ({duration(low)} to {duration(high)})  {flops / median / 1e9:6.1f} GFLOP/s"
    for mode in list(times)[1:]:
        row["peers"][mode] = {"seconds": times[mode][0], "ratio": ratios[mode]}
        text += f"   {mode} {duration(times[mode][0])}"
    if row["peers"]:
        row["fastest"] = min(row["peers"], key=lambda mode: row["peers"][mode]["ratio"])
        row["ratio"] = row["peers"][row["fastest"]]["ratio"]
        text += f"   {row['ratio']:.2f}x of {row['fastest']}"
    print(text, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="workloads whose name contains one of these")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    print(side.machine())
    rows = []
    for name in WORKLOADS:
        if any(part.lower() in name.lower() for part in options.only):
            rows += run(name, options.rounds)
    side.save(options.json, rows)


if __name__ == "__main__":
    main()
