"""The same network, weights and batches here and in PyTorch: the same losses.  And how long a step takes in each.

    python examples/17_versus_pytorch.py [--seed 0]          needs PyTorch; reads MNIST (example 08 says from where)

PyTorch is what most networks are trained with.  There, one writes the forward pass only; it records what is computed,
and goes through the record backward to get the gradient.  Here, every layer's backward pass is derived by hand.  If
those derivations are right, both must go the same way, step by step.  The network is that of example 08, for MNIST's
handwritten digits.  What must be the same on both sides:

    weights     tn.interop.to_torch turns them over: PyTorch has a Dense layer's weights as (out, in) and not (in, out),
                a convolution's as (K, C, I, J) and not (I, J, C, K), for K filters of I x J places and C channels; and
                since it flattens an image in another order, the weights behind a Flatten are reordered, too
    batches     the same 64 images in the same order, laid out as (N, C, H, W) there and as (N, H, W, C) here
    optimizer   gradient descent with momentum: v <- 0.9 v + gradient, parameter <- parameter - lr v, where v, of the
                parameter's shape and 0 at first, remembers which way the last steps went

What can't be the same is the order in which a sum's many products are added, and so how each sum is rounded: a
float32 has 24 binary digits, and most sums lose the last.  Each step starts from what the steps before have left, so
the differences add up.  Where a number lies next to a bend, max(x, 0) at 0 or two nearly equal pixels under a maximum,
rounding may decide which way a gradient goes, and then they jump, by a hundredth of the loss or so.  Two controls tell
rounding from a mistake.  PyTorch runs once more with its arrays laid out as ours are ("channels last"), which changes
nothing but the order of its sums.  And both sides run in float64: 53 digits, so that rounding is 2^29 times finer and
meets a bend as much less often.  There the losses must be the same, which those of a wrong formula would not be.  The
middle panel shows how far each run gets from PyTorch's losses in float64 (what is below 1e-17 lies at the bottom).
Which of them jumps in float32, and when, changes with --seed, the number of threads and the computer.

Time: the sides take turns, ten steps each, so that whatever slows the computer down for a moment slows all of them.
The median of the steps is printed; the right panel shows the middle half of them as a box, with the median in it, and
most of the rest as whiskers.  It holds for this network and batch size, for the computer that it ran on, and for
PyTorch without torch.compile; benchmarks/training.py measures more networks, and that, too.
"""

import sys
import time

import gallery
import numpy as np

import tinynet as tn

try:
    import torch
    from torch import nn
except ImportError:
    torch = None


def ours(model):
    """A function that takes one training step and returns its loss."""
    optimizer = tn.SGD(model, lr=0.02, momentum=0.9)

    def step(x, t):
        loss, dz = tn.softmax_cross_entropy(model.forward(x, training=True), t)
        model.backward(dz)
        optimizer.step()
        return loss

    return step


def theirs(model, layout):
    """The same for PyTorch, from the same weights."""
    blocks = nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)
    network = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(512, 10))
    weights = tn.interop.to_torch(model, like=network)
    network.to(weights["0.weight"].dtype).load_state_dict(weights)
    network.to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)

    def step(x, t):
        # Copies nothing: one channel.  But which layout all further arrays get, PyTorch tells by the images' strides.
        x = torch.from_numpy(x.transpose(0, 3, 1, 2) if layout == torch.channels_last else x.reshape(-1, 1, 28, 28))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), torch.from_numpy(t))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def race(dtype, batches, seed):
    """Of each side, by its name: the losses (steps,) and the milliseconds (steps,)."""
    blocks = tn.Conv2D(16, 5, activation="relu"), tn.MaxPool2D(2), tn.Conv2D(32, 5, activation="relu"), tn.MaxPool2D(2)
    model = tn.Sequential([*blocks, tn.Flatten(), tn.Dense(10)], input_shape=(28, 28, 1), seed=seed, dtype=dtype)
    sides = {
        "PyTorch": theirs(model, torch.contiguous_format),
        "PyTorch, channels last": theirs(model, torch.channels_last),
        "tinynet": ours(model),  # the last, for it is the one that changes the model
    }
    losses, taken = ({name: np.zeros(len(batches)) for name in sides} for _ in range(2))
    for first in range(0, len(batches), 10):
        for name, step in sides.items():
            time.sleep(0.05)  # the threads of the side before wait a while for work, and are in the way
            for n, (x, t) in enumerate(batches[first : first + 10], first):
                x = x.astype(dtype, copy=False)
                start = time.perf_counter()
                losses[name][n] = step(x, t)
                taken[name][n] = 1000 * (time.perf_counter() - start)
    return losses, taken


def main():
    options = gallery.options(__doc__, seed=0)  # of the initial weights and of the order of the digits
    (x, t), _ = tn.data.mnist()
    if torch is None:
        sys.exit("This example needs PyTorch, which is not installed here: pip install torch")
    torch.set_num_threads(tn.get_num_threads())
    steps = 40 if options.quick else 200
    order = tn.batches(x, t, batch_size=64, seed=options.seed)
    batches = [batch for batch, _ in zip(order, range(steps), strict=False)]
    losses, taken = race("float32", batches, options.seed)
    exact, _ = race("float64", batches, options.seed)
    mine, yours = losses["tinynet"], losses["PyTorch"]
    print(f"loss at first {mine[0]:.6f} here, {yours[0]:.6f} there;  at last {mine[-1]:.6f} and {yours[-1]:.6f}")
    differences = {f"{name}, float32": np.abs(values - exact["PyTorch"]) for name, values in losses.items()}
    differences["tinynet, float64"] = np.abs(exact["tinynet"] - exact["PyTorch"])
    for name, difference in differences.items():
        print(f"  {name}: never further than {difference.max():.1e} from PyTorch's losses in float64")
    assert mine[-10:].mean() < 0.6 * mine[0], "it learns"
    assert all(difference[0] < 1e-5 for difference in differences.values()), "the first losses are the same"
    assert np.abs(mine - yours).max() < 0.05, "the curves coincide, even where rounding has met a bend"
    assert differences["tinynet, float64"].max() < 1e-10, "in float64 all losses are the same"

    used = {name: values[10:] for name, values in taken.items()}  # the first ten: compiling, filling caches
    print(f"a step of {len(batches[0][0])} images, median of {steps - 10}, {tn.get_num_threads()} threads:")
    for name, values in used.items():
        ratio = np.median(values) / np.median(used["tinynet"])
        print(f"  {name:24}{np.median(values):8.2f} ms{ratio:8.2f} of tinynet's")

    figure = tn.plots.figure(13.5, 4.4)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 0.9])
    left.plot(yours, color=tn.plots.ORANGE, lw=4, alpha=0.6, label="PyTorch")
    left.plot(mine, color=tn.plots.BLUE, lw=1.2, label="tinynet")
    left.legend(frameon=False)
    colours = tn.plots.ORANGE, tn.plots.RED, tn.plots.BLUE, tn.plots.GREEN
    for (name, difference), colour, size in zip(differences.items(), colours, (8, 3, 4, 4), strict=True):
        middle.semilogy(np.maximum(difference, 1e-17), ".", ms=size, color=colour, label=name)
    middle.legend(frameon=False, fontsize=9, loc="upper left")
    right.boxplot(list(used.values()), orientation="horizontal", widths=0.5, showfliers=False, medianprops={"lw": 2})
    right.set_yticks(range(1, 4), [name.replace(", ", ",\n") for name in used])
    gallery.plain(left, "The loss, step by step", xlabel="step", ylabel="cross-entropy")
    gallery.plain(middle, "How far from PyTorch's losses in float64", xlabel="step", ylabel="difference")
    middle.set(ylim=(1e-17, 1e3), yticks=[1, 1e-4, 1e-8, 1e-12, 1e-16])
    gallery.plain(right, "Time of a step, on this computer", xlabel="milliseconds", xlim=(0, None))
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
