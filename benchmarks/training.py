"""One training step, forward, loss, backward and SGD, and inference: tinynet beside PyTorch, for eight runs.

    python benchmarks/training.py [--only NAME ...] [--headlines] [--rounds 9] [--vectors both] [--threads both]
                                  [--quick] [--json PATH]

All sides start from the same weights and see the same batches.  Before anything is timed, predictions are compared, the
losses of the first step to 1e-5, and those of up to 200 steps to 1e-3 (rounding differs, and grows from step to step).
PyTorch runs in three modes, and its fastest is what the ratio is against: eager, channels_last (with convolutions), and
torch.compile.  JAX and scikit-learn's MLPClassifier train the networks of dense layers too, where they are installed.
"""

import argparse
import time

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


def wide_mlp():
    return (28, 28, 1), [tn.Flatten(), *(tn.Dense(1024, activation="relu") for _ in range(2)), tn.Dense(10)]


WORKLOADS = {
    "logistic regression 784-10, batch 64": (logistic_regression, 64),
    "MLP 784-128-10, batch 64": (mlp, 64),
    "MLP 784-128-10, batch 512": (mlp, 512),
    "LeNet-like, 28x28, batch 64": (lenet, 64),
    "CIFAR-10 tutorial CNN, batch 4": (tutorial_cnn, 4),
    "CIFAR-10 tutorial CNN, batch 64": (tutorial_cnn, 64),
    "VGG-like, CIFAR-10, batch 64": (vgg, 64),
    "MLP 784-1024-1024-10, batch 128": (wide_mlp, 128),
}
# How many samples predict is given at once.
PREDICTED = {mlp: (1, 64, 1000), lenet: (1, 64, 1000), vgg: (1, 8, 1000), wide_mlp: (1, 1000)}
GROUP = "inference, batches of 1 to 1000"
REPEATED = "logistic", "batch 512", "CIFAR-10 tutorial"  # what says little more in another setting: no headlines
LR = 3e-4  # at 0.001, 200 steps of the VGG-like network on noise take PyTorch's own float32 1.1e-3 from its float64


def tinynet_step(build, batches):
    """The model, and a function that takes one step on the next batch and returns its loss."""
    shape, layers = build()
    model = tn.Sequential(layers, input_shape=shape, seed=0)
    return model, step_of(model, batches)


def step_of(model, batches, lr=LR):
    optimizer, turn = tn.SGD(model, lr=lr), iter_forever(batches)

    def step():
        x, y = next(turn)
        logits = model.forward(x, training=True)
        loss, dlogits = tn.softmax_cross_entropy(logits, y)
        model.backward(dlogits)
        optimizer.step()
        return loss

    return step


def torch_steps(model, batches, modes=("eager", "channels_last", "compile"), lr=LR):
    """{"PyTorch " + mode: (step, forward)}, each with the model's weights."""
    found = {}
    for mode in modes:
        network = tn.interop.to_torch_module(model)
        has_convolution = any(isinstance(module, nn.Conv2d) for module in network.modules())
        if mode == "channels_last" and not has_convolution:
            continue
        for module in network.modules():
            if isinstance(module, (nn.ReLU, nn.ReLU6)):
                module.inplace = True  # as people write them: less memory
        inputs = [(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y)) for x, y in batches]
        if mode == "channels_last":
            network = network.to(memory_format=torch.channels_last)
            inputs = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in inputs]
        optimizer, forward = torch.optim.SGD(network.parameters(), lr=lr), network
        if mode == "compile":
            forward = compiled(network.eval(), inputs[0][0])  # in training, a look would move BatchNorm's statistics
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
    shape, layers = build()
    return rows_of(name, tn.Sequential(layers, input_shape=shape, seed=0), batch, sizes, options, most)


def rows_of(name, model, batch, sizes, options, most, modes=("eager", "channels_last", "compile"), lr=LR):
    """The same of a model that was built, beside PyTorch in these modes."""
    rng = np.random.default_rng(0)
    batches = [(rng.random((batch, *model.input_shape), np.float32), rng.integers(0, 10, batch)) for _ in range(4)]
    step = step_of(model, batches, lr)
    peers = torch_steps(model, batches, ("eager",) if options.quick else modes, lr) if torch else {}

    # Inference first, while the weights are the same; steps last, since the sides take different numbers of them.
    flops = sum(layer.flops for layer in model.layers)
    rows = predictions(name, model, peers, (batch, *sizes), flops, options, most)
    steps = {mode: their_step for mode, (their_step, _) in peers.items()}
    for _, forward in peers.values():
        forward.train()
    if all(isinstance(layer, (tn.Flatten, tn.Dense)) for layer in model.layers):
        if jax:
            steps["JAX"] = jax_step(model, batches)
        if MLPClassifier:
            steps["scikit-learn"] = sklearn_step(model, batches)
    start = time.perf_counter()
    losses = [step(), step()]
    more = 0 if options.quick else int(np.clip(2 / (time.perf_counter() - start), 4, 200)) - 2
    losses += [step() for _ in range(more)]
    found = {peer: [their_step() for _ in losses] for peer, their_step in steps.items()}
    left_out = [peer for peer, theirs in found.items() if "compile" in peer and not_eagers(theirs, found)]
    for peer in left_out:
        print(f"{name}: {peer} is left out, since its losses are not those of PyTorch eager")
        del steps[peer]
    for peer in steps:
        agree(losses[:1], found[peer][:1], 1e-5, f"{name}, loss of the first step against {peer}")
        agree(losses, found[peer], 1e-3, f"{name}, losses of {len(losses)} steps against {peer}")

    # Forward, and two products like it backward; but the first layer with weights has no input gradient.  They are
    # counted as by definition, so Winograd's method can pass the limit.
    work = 3 * flops - next(layer.flops for layer in model.layers if layer.parameters)
    row = timed(f"{name}, training step", {"tinynet": step, **steps}, work * batch, options, most, True)
    return [{**row, "left_out": left_out}, *rows]


def not_eagers(losses, found):
    """Whether a compiled step's losses differ from those of the same network uncompiled.

    With one thread, AVX-512 and PyTorch 2.13, those of the VGG-like network do, by 0.6 %.
    """
    eager = np.array(found.get("PyTorch eager", losses))
    return np.abs(eager - losses).max() > 1e-3 * np.abs(eager).max()


def predictions(name, model, peers, sizes, flops, options, most):
    """Rows for inference in batches of these sizes, but for the first, whose predictions are only compared."""
    rng, rows = np.random.default_rng(1), []
    for size in sizes:
        x = rng.random((size, *model.input_shape), np.float32)
        sides = {"tinynet": lambda x=x: model.predict(x)}
        for mode, (_, forward) in peers.items():
            forward.eval()
            if "compile" in mode and size != sizes[0]:
                torch._dynamo.reset()  # or it would give up after eight sizes of input
            tx = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
            if "channels_last" in mode:
                tx = tx.contiguous(memory_format=torch.channels_last)
            sides[mode] = no_grad(forward, tx)
            agree(sides["tinynet"](), sides[mode](), 1e-4, f"{name}, predictions against {mode}")
        if size != sizes[0]:
            what = f"{name.rsplit(',', 1)[0]}, predict {size}"
            rows.append({**timed(what, sides, flops * size, options, most), "group": GROUP})
    return rows


def timed(what, sides, flops, options, most, headline=False):
    times = measure(sides, options.rounds, options.at_least)
    share = flops / np.median(times["tinynet"]) / 1e9 / most["GFLOP/s"]
    return side.report(what, times, work=flops, share=share, headline=headline)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="workloads whose name contains one of these")
    options = side.options(parser)
    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []
    predicted = set()
    for name, (build, _) in WORKLOADS.items():
        repeated = options.headlines and any(part in name for part in REPEATED)
        if not repeated and any(part.lower() in name.lower() for part in options.only):
            sizes = () if options.headlines or build in predicted else PREDICTED.get(build, ())
            rows += run(name, sizes[:1] if options.quick else sizes, options, most)
            predicted.add(build)
    side.summarised(rows, GROUP, floor=1)
    side.save(options.json, rows, ceilings=most)


if __name__ == "__main__":
    main()
