"""python -m tinynet warmup: compile the common kernels before they are needed, in several processes.

What a training step of each layer and each loss needs is compiled and kept, so that no later process waits for it.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np

import tinynet as tn

IMAGES, VECTORS, SEQUENCES = (28, 28, 4), (256,), (16, 32)


def layers():
    """By name, the shapes of samples and the layers that are trained on each, with small and large batches."""
    dense = [tn.Dense(128, activation="relu"), tn.Dense(10)]
    return {
        "Dense": [(VECTORS, dense)],
        "Conv2D": [
            ((28, 28, 1), [tn.Conv2D(6, 5, padding=2, activation="relu"), tn.Conv2D(16, 5, activation="relu")]),
            (IMAGES, [tn.Conv2D(32, 3, padding="same", activation="relu"), tn.Conv2D(64, 3, padding="same")]),
        ],
        "MaxPool2D": [(IMAGES, [tn.MaxPool2D(2), tn.MaxPool2D(3)])],
        "AvgPool2D": [(IMAGES, [tn.AvgPool2D(2)])],
        "GlobalAvgPool2D": [(IMAGES, [tn.GlobalAvgPool2D()])],
        "GlobalAvgPool1D": [(SEQUENCES, [tn.GlobalAvgPool1D()])],
        "BatchNorm": [(IMAGES, [tn.BatchNorm()]), (VECTORS, [tn.BatchNorm()])],
        "Dropout": [(VECTORS, [tn.Dropout(0.5)])],
        "LayerNorm": [(SEQUENCES, [tn.LayerNorm()])],
        "GroupNorm": [(IMAGES, [tn.GroupNorm(2)])],
        "ReLU": [(VECTORS, [tn.ReLU()])],
        "GELU": [(VECTORS, [tn.GELU()])],
    }


def losses():
    """By name, what calls each loss with logits (N, C)."""

    def labels(loss):
        return lambda z: loss(z, np.zeros(len(z), int))

    def like(loss):
        return lambda z: loss(z, np.zeros_like(z))

    by_label = ("softmax_cross_entropy", "multiclass_hinge", "softmax_focal")
    elementwise = (
        "sigmoid_cross_entropy",
        "mean_squared_error",
        "mean_absolute_error",
        "huber",
        "sigmoid_focal",
        "poisson_nll",
    )
    return {
        **{name: labels(getattr(tn, name)) for name in by_label},
        **{name: like(getattr(tn, name)) for name in elementwise},
    }


def compile_layer(name, dtype):
    for shape, stack in layers()[name]:
        model = tn.Sequential(stack, input_shape=shape, dtype=dtype)
        optimizers = [tn.SGD(model, lr=0.0, momentum=0.9), tn.Adam(model, lr=0.0)] if model.flat_values.size else []
        for batch in (1, 256):
            y = model.forward(np.zeros((batch, *shape), dtype), training=True)
            model.backward(y, input_grad=True)
            model.predict(np.zeros((batch, *shape), dtype))
            for optimizer in optimizers:
                optimizer.step()


def compile_loss(name, dtype):
    for rows, classes in ((64, 10), (8192, 10), (64, 1000)):
        losses()[name](np.zeros((rows, classes), dtype))


def compile_one(task):
    kind, name, dtype = task.split(":")
    (compile_layer if kind == "layer" else compile_loss)(name, dtype)


def warmup(options):
    from tqdm import tqdm

    waiting = [f"layer:{name}:{dtype}" for dtype in options.dtype for name in options.layers]
    waiting += [f"loss:{name}:{dtype}" for dtype in options.dtype for name in options.losses]
    running, failed = {}, []
    environment = {**os.environ, "TINYNET_QUIET": "1", "TINYNET_COMPILE_AHEAD": "0"}
    with tqdm(total=len(waiting), unit=" groups of kernels", disable=None) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < options.processes:
                    task = waiting.pop(0)
                    command = [sys.executable, "-m", "tinynet", "compile", task]
                    running[subprocess.Popen(command, env=environment)] = task
                done = next((process for process in running if process.poll() is not None), None)
                if done is None:
                    time.sleep(0.05)
                    continue
                task = running.pop(done)
                bar.update()
                if done.returncode:
                    failed.append(task)
        finally:  # Ctrl-C, too
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
    print("compiled kernels are kept in", folder())
    if failed:
        sys.exit(f"not compiled, for the reasons above: {', '.join(failed)}")


def folder():
    """Where the kernels lie: of the places where they may, the first that has some."""
    from tinynet.kernels.transpose import transpose

    places = transpose._cache._folders()
    return next((place for place in places if os.path.isdir(place)), places[0])


def main():
    parser = argparse.ArgumentParser(prog="python -m tinynet", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fill = commands.add_parser("warmup", help="compile the common layers' and losses' kernels, and keep them")
    fill.add_argument("--dtype", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    fill.add_argument("--layers", nargs="*", choices=list(layers()), default=list(layers()), metavar="NAME",
                      help=f"of {', '.join(layers())}; all of them by default")  # fmt: skip
    fill.add_argument("--losses", nargs="*", choices=list(losses()), default=list(losses()), metavar="NAME",
                      help=f"of {', '.join(losses())}; all of them by default")  # fmt: skip
    fill.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many compile at once")
    one = commands.add_parser("compile", help=argparse.SUPPRESS)  # what warmup starts
    one.add_argument("task")
    options = parser.parse_args()
    if options.command == "compile":
        compile_one(options.task)
        return
    if options.processes < 1:
        parser.error(f"--processes must be at least 1, got {options.processes}")
    try:
        warmup(options)
    except KeyboardInterrupt:
        sys.exit("interrupted; what is compiled so far is kept")


if __name__ == "__main__":
    main()
