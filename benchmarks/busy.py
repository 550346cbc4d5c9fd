"""A training step on a machine that others use too: alone, beside a busy process, and beside a second training.

    python benchmarks/busy.py [--only NAME ...] [--rounds 5] [--quick] [--json PATH]

Each training is a process of its own, on all threads.  The busy process is a loop that uses one processor and no
memory.  A figure "1.50x" says that a step takes 1.5 times as long as alone.  Two trainings at once lose nothing below
2x: both are finished no later than if they had run one after the other.  Each side gets a second to find out what is
going on before it is timed.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time

import numpy as np
import side_by_side as side
import training
from side_by_side import duration, torch

BUSY = "while True: pass"
COMPANY = ("alone", "beside a busy process", "two trainings at once")
NETWORKS = ("MLP 784-128-10, batch 64", "LeNet-like, 28x28, batch 64", "VGG-like, CIFAR-10, batch 64")


class Training:
    """A process that takes training steps whenever it is told to."""

    def __init__(self, name, workload):
        command = [sys.executable, __file__, "--train", name, workload]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
    for each in trainings:
        each.begin(seconds)
    return [each.answer() for each in trainings]


def train(name, workload):
    """The other process: for each line of standard input, so many seconds of steps, and how long one took."""
    build, batch = training.WORKLOADS[workload]
    shape, _ = build()
    rng = np.random.default_rng(0)
    batches = [(rng.random((batch, *shape), np.float32), rng.integers(0, 10, batch)) for _ in range(4)]
    model, step = training.tinynet_step(build, batches)
    if name != "tinynet":
        step, _ = training.torch_steps(model, batches, modes=["eager"])["PyTorch eager"]
    for line in itertools.chain(["0"], sys.stdin):
        step()
        start, steps, taken = time.perf_counter(), 0, 0.0
        while taken <= float(line):
            step()
            steps += 1
            taken = time.perf_counter() - start
        print(taken / steps, flush=True)


def run(workload, options):
    """A row: seconds a step of each side in each company, the median over the rounds."""
    settle, timed = (0.02, 0.02) if options.quick else (1.0, 0.5)
    sides = ["tinynet", "PyTorch eager"] if torch else ["tinynet"]
    trainings = {name: [Training(name, workload) for _ in range(2)] for name in sides}
    times = {name: {company: [] for company in COMPANY} for name in sides}
    for _, company, name in itertools.product(range(options.rounds), COMPANY, sides):
        busy = subprocess.Popen([sys.executable, "-c", BUSY]) if company == COMPANY[1] else None
        at_work = trainings[name] if company == COMPANY[2] else trainings[name][:1]
        seconds_a_step(at_work, settle)
        times[name][company].append(max(seconds_a_step(at_work, timed)))  # the slower of the two
        if busy:
            busy.kill()
            busy.wait()
    for name in sides:
        for each in trainings[name]:
            each.end()
    row = {"what": f"{workload}, training step", "sides": {}}
    for name in sides:
        medians = {company: statistics.median(taken) for company, taken in times[name].items()}
        row["sides"][name] = medians
        figures = [f"{company} {duration(t)} ({t / medians['alone']:.2f}x)" for company, t in medians.items()]
        print(f"{workload:30} {name:14} " + ", ".join(figures), flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="networks whose name contains one of these")
    parser.set_defaults(rounds=5)
    options = side.options(parser)
    print(side.machine())
    found = [name for name in NETWORKS if any(part.lower() in name.lower() for part in options.only)]
    side.save(options.json, [run(name, options) for name in found])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*sys.argv[2:])
    else:
        main()
