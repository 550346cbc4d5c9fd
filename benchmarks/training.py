"""One training step, forward, loss, backward and SGD, and inference: tinynet beside PyTorch, for seven networks.

    python benchmarks/training.py [--only NAME ...] [--rounds 9] [--quick] [--json PATH]

All sides start from the same weights and see the same batches.  Before anything is timed, the losses of the first step
are compared to 1e-5 and those of 200 steps to 1e-3 (rounding differs, and grows from step to step).  PyTorch runs in
three modes, and its fastest is what the ratio is against: eager, channels_last (with convolutions), and torch.compile.
JAX and scikit-learn's MLPClassifier train the networks of dense layers too, where they are installed.
"""

import argparse

import numpy as np
import side_by_side as side
from side_by_side import agree, compiled, jax, measure, torch

import tinynet as tn

try:
    from sklearn.neural_network import MLPClassifier
except ImportError:
    MLPClassifier = None

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
LR = 3e-4  # at 0.001, 200 steps of the VGG-like network on noise take PyTorch's own float32 1.1e-3 from its float64


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
    """The model, and a function that takes one step on the next batch and returns its loss."""
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


def torch_steps(twin_of, batches, modes=("eager", "channels_last", "compile")):
    """{"PyTorch " + mode: (step, forward)}, each from the same weights."""
    found = {}
    for mode in modes:
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
        found[f"PyTorch {mode}"] = torch_step(forward, optimizer, iter_forever(inputs)), forward
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


def jax_step(model, batches):
    """The same for JAX, for a model of dense layers."""
    jnp = jax.numpy
    weights = [[jnp.array(p.value) for p in layer.parameters] for layer in model.layers if layer.parameters]

    def loss_of(weights, x, y):
        x = x.reshape(len(x), -1)
        for i, (w, b) in enumerate(weights):
            x = (x if i == 0 else jax.nn.relu(x)) @ w + b
        return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1).mean()

    @jax.jit
    def next_weights(weights, x, y):
        loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
        return loss, jax.tree.map(lambda w, dw: w - LR * dw, weights, gradients)

    turn = iter_forever([(jnp.array(x), jnp.array(y)) for x, y in batches])

    def step():
        nonlocal weights
        loss, weights = next_weights(weights, *next(turn))
        return float(loss)

    return step


def sklearn_step(model, batches):
    """The same for scikit-learn's MLPClassifier, whose partial_fit is one step."""
    dense = [layer for layer in model.layers if layer.parameters]
    turn = iter_forever([(x.reshape(len(x), -1), y) for x, y in batches])
    x, y = batches[0]
    plain = {"solver": "sgd", "alpha": 0, "momentum": 0, "learning_rate_init": LR, "batch_size": len(x)}
    classifier = MLPClassifier([layer.units for layer in dense[:-1]], **plain)
    classifier.partial_fit(x.reshape(len(x), -1), y, classes=np.arange(10))
    for layer, w, b in zip(dense, classifier.coefs_, classifier.intercepts_, strict=True):
        w[...], b[...] = (p.value for p in layer.parameters)

    def step():
        return classifier.partial_fit(*next(turn)).loss_

    return step


def iter_forever(items):
    while True:
        yield from items


def no_grad(forward, x):
    def predict():
        with torch.no_grad():
            return forward(x)

    return predict


def run(name, sizes, options, most):
    """Rows: a training step, and inference for batches of these sizes."""
    build, batch = WORKLOADS[name]
    rng = np.random.default_rng(0)
    shape, _ = build()
    batches = [(rng.random((batch, *shape), np.float32), rng.integers(0, 10, batch)) for _ in range(4)]
    model, step = tinynet_step(build, batches)
    modes = ("eager",) if options.quick else ("eager", "channels_last", "compile")
    peers = torch_steps(model, batches, modes) if torch else {}
    steps = {mode: their_step for mode, (their_step, _) in peers.items()}
    if all(isinstance(layer, (tn.Flatten, tn.Dense)) for layer in model.layers):
        if jax:
            steps["JAX"] = jax_step(model, batches)
        if MLPClassifier:
            steps["scikit-learn"] = sklearn_step(model, batches)
    for mode, (_, forward) in peers.items():  # now, while the weights are still the same
        x = batches[0][0]
        theirs = no_grad(forward, torch.from_numpy(x).permute(0, 3, 1, 2).contiguous())()
        agree(model.predict(x), theirs, 1e-4, f"{name}, predictions against {mode}")
    steps_compared = 2 if options.quick else 200
    losses = [step() for _ in range(steps_compared)]
    for peer, their_step in steps.items():
        theirs = [their_step() for _ in range(steps_compared)]
        agree(losses[:1], theirs[:1], 1e-5, f"{name}, loss of the first step against {peer}")
        agree(losses, theirs, 1e-3, f"{name}, losses of {steps_compared} steps against {peer}")

    flops = sum(layer.flops for layer in model.layers)
    rows = []
    for size in sizes:
        x = rng.random((size, *shape), np.float32)
        sides = {"tinynet": lambda x=x: model.predict(x)}
        for mode, (_, forward) in peers.items():
            if "compile" in mode:
                torch._dynamo.reset()  # or it would give up after eight sizes of input
            tx = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
            if "channels_last" in mode:
                tx = tx.contiguous(memory_format=torch.channels_last)
            sides[mode] = no_grad(forward, tx)
        rows.append(timed(f"{name.rsplit(',', 1)[0]}, predict {size}", sides, flops * size, options, most))
    # Forward, and two products like it backward; but the first layer with weights has no input gradient.  They are
    # counted as by definition, so Winograd's method can pass the tile's limit.
    work = 3 * flops - next(layer.flops for layer in model.layers if layer.parameters)
    # Last, since the sides take different numbers of steps, and their weights part.
    return [timed(f"{name}, training step", {"tinynet": step, **steps}, work * batch, options, most, True), *rows]


def timed(what, sides, flops, options, most, headline=False):
    times = measure(sides, options.rounds, options.at_least)
    share = flops / np.median(times["tinynet"]) / 1e9 / most["GFLOP/s"]
    return side.report(what, times, work=flops, share=share, headline=headline)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="workloads whose name contains one of these")
    options = side.options(parser)
    print(side.machine())
    most, rows = side.ceilings(options.rounds, options.at_least), []
    predicted = set()
    for name, (build, _) in WORKLOADS.items():
        if any(part.lower() in name.lower() for part in options.only):
            rows += run(name, () if build in predicted else (1, 256), options, most)
            predicted.add(build)
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
