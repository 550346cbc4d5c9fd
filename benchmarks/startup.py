"""From the start of Python to the end of the first training step: tinynet beside PyTorch.

    python benchmarks/startup.py [--rounds 9] [--vectors both] [--threads both] [--quick] [--json PATH]

The network is that of examples/01_train_digits.py without its dropout, so that both sides' losses can be compared; the
batch is 32 digits, the optimizer Adam.  Every measurement is a process of its own:

    warm    tinynet's machine code is on disk, from an earlier process
    cold    it is not: every kernel that the step needs is compiled, in a cache folder of its own
    eight   as many processes as that start at once on one empty cache: all must end with the same loss, to the bit
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import side_by_side as side
from side_by_side import agree, torch

import tinynet as tn

# Each prints when it was done, by the clock that the parent reads too, and its loss.

TINYNET = """
import time
import tinynet as tn

(x, y), _ = tn.data.digits()
layers = [tn.Conv2D(16, 3, padding="same", activation="relu"), tn.Conv2D(32, 3, padding="same", activation="relu")]
model = tn.Sequential([*layers, tn.MaxPool2D(2), tn.Flatten(), tn.Dense(10)], input_shape=(8, 8, 1), seed=0)
optimizer = tn.Adam(model)
logits = model.forward(x[:32], training=True)
loss, dlogits = tn.softmax_cross_entropy(logits, y[:32])
model.backward(dlogits)
optimizer.step()
print(time.time(), loss.hex())
"""

PYTORCH = """
import sys, time
import numpy as np
import torch
from torch import nn

given = np.load(sys.argv[1])
x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding="same"), nn.ReLU(), nn.Conv2d(16, 32, 3, padding="same"), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10),
)
weights = (torch.from_numpy(given[name]) for name in given.files[2:])
network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
optimizer = torch.optim.Adam(network.parameters())
loss = nn.functional.cross_entropy(network(x), y)
loss.backward()
optimizer.step()
loss = loss.item()
print(time.time(), loss.hex())
"""


def start(code, *arguments, cache=None):
    """The started process, and when it was started."""
    environment = {**os.environ, **({"NUMBA_CACHE_DIR": str(cache)} if cache else {})}
    root = str(Path(tn.__file__).parent.parent)
    environment.pop("TINYNET_COMPILE_AHEAD", None)  # which side_by_side.py sets: here two processes compile, as they do
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else tinynet's source is compiled at each start, PyTorch's not
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    began = time.time()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **pipes), began


def finish(started, what):
    """Seconds from the start of a process to the end of its step, and the loss."""
    process, began = started
    output, errors = process.communicate()
    if process.returncode:
        sys.exit(f"{what} failed:\n{errors}")
    ended, loss = output.split()
    return float(ended) - began, float.fromhex(loss)


def save_for_pytorch(path):
    """Write the batch and the weights that tinynet's process starts from, as PyTorch orders them."""
    (x, y), _ = tn.data.digits()
    layers = [tn.Conv2D(16, 3, padding="same", activation="relu"), tn.Conv2D(32, 3, padding="same", activation="relu")]
    model = tn.Sequential([*layers, tn.MaxPool2D(2), tn.Flatten(), tn.Dense(10)], input_shape=(8, 8, 1), seed=0)
    weights = tn.interop.to_torch(model)
    np.savez(path, x=x[:32].transpose(0, 3, 1, 2).copy(), y=y[:32], **weights)


def warm(options, folder):
    """Rows for a process that finds its machine code on disk."""
    cache = None if options.quick else folder / "warm"
    sides = {"tinynet": lambda: finish(start(TINYNET, cache=cache), "tinynet's process")}
    if torch:
        save_for_pytorch(folder / "start.npz")
        sides["PyTorch eager"] = lambda: finish(start(PYTORCH, folder / "start.npz"), "PyTorch's process")
    losses = {name: run()[1] for name, run in sides.items()}  # these fill the cache, and the disk's
    for peer in list(losses)[1:]:
        agree(losses["tinynet"], losses[peer], 1e-5, f"loss of the first step against {peer}")
    times = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, run in sides.items():
            times[name].append(run()[0])
    return [side.report("process start to the first training step, warm", times, headline=True)], losses["tinynet"]


def cold(options, folder, expected):
    """Rows for processes that compile everything, one alone and eight at once."""
    times = []
    for attempt in range(min(3, options.rounds)):
        taken, loss = finish(start(TINYNET, cache=folder / f"cold {attempt}"), "a cold process")
        agree(loss, expected, 0, "loss of a process that compiled everything, against one that loaded it")
        times.append(taken)
    rows = [side.report("process start to the first training step, cold", {"tinynet": times}, headline=True)]
    started = [start(TINYNET, cache=folder / "shared") for _ in range(8)]
    # Read one after the other: what they print fits in their pipes, so none waits for its reader.
    ended = [finish(one, "one of eight cold processes on one cache") for one in started]
    for _, loss in ended:
        agree(loss, expected, 0, "loss of one of eight cold processes on one cache, against one that loaded it")
    last = max(taken for taken, _ in ended)
    rows.append(side.report("the last of eight cold starts at once on one cache", {"tinynet": [last]}))
    taken, loss = finish(start(TINYNET, cache=folder / "shared"), "a process on the cache that eight have written")
    agree(loss, expected, 0, "loss from the cache that eight processes have written")
    rows.append(side.report("a start on the cache that these eight left", {"tinynet": [taken]}))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options = side.options(parser)
    print(side.machine(), side.setting(), sep=", ")
    with tempfile.TemporaryDirectory() as folder:
        rows, loss = warm(options, Path(folder))
        if not options.quick:
            rows += cold(options, Path(folder), loss)
    side.save(options.json, rows)


if __name__ == "__main__":
    main()
