"""A training step on a machine that others use too: alone, beside a busy process, and beside a second training.

    python benchmarks/busy.py [--only NAME ...] [--rounds 5] [--quick] [--json PATH]

Each training is a process of its own, on all threads, and so is what keeps it company: a loop that uses one processor
and no memory.  A row says how many times longer a step takes than alone.  A second training is no loss below 2: then
both are finished no later than one after the other.
"""

import itertools
import subprocess
import sys
import time

BUSY = "while True: pass"
SIDES = ("tinynet", "PyTorch")


class Training:
    """A process that takes training steps whenever it is told to."""

    def __init__(self, side, workload, **environment):
        command = [sys.executable, __file__, "--train", side, workload]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **environment
        )
        self.answer()  # it has compiled its kernels

    def begin(self, seconds):
        print(seconds, file=self.process.stdin, flush=True)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a training ended early")
        return float(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def seconds_a_step(trainings, seconds):
    """How long a step took in each of them, while all of them were at work."""
    for training in trainings:
        training.begin(seconds)
    return [training.answer() for training in trainings]


def train(side, workload):
    """The other process: for each line of standard input, so many seconds of steps, and how long one took."""
    import numpy as np
    import training
    from side_by_side import torch

    build, batch = training.WORKLOADS[workload]
    shape, _ = build()
    rng = np.random.default_rng(0)
    batches = [(rng.random((batch, *shape), np.float32), rng.integers(0, 10, batch)) for _ in range(4)]
    model, step = training.tinynet_step(build, batches)
    if side != "tinynet":
        inputs = [(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y)) for x, y in batches]
        network = training.torch_twin(model)
        optimizer = torch.optim.SGD(network.parameters(), lr=training.LR)
        step = training.torch_step(network, optimizer, itertools.cycle(inputs))
    for _ in range(3):
        step()
    for line in itertools.chain(["0"], sys.stdin):
        step()
        start, steps, taken = time.perf_counter(), 0, 0.0
        while taken <= float(line):
            step()
            steps += 1
            taken = time.perf_counter() - start
        print(taken / steps, flush=True)


if __name__ == "__main__" and sys.argv[1:2] == ["--train"]:
    train(*sys.argv[2:])
