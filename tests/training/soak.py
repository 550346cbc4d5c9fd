"""Hours of training in one process: memory must stay where it is, and a step must take as long as at the start.

    python tests/training/soak.py --minutes 60

Rounds of the same work follow each other: steps of a small CNN, forward and backward passes of batches of changing
sizes, a `fit` with a checkpoint that is then resumed, and tiny calls of softmax_cross_entropy.  Before them, a million
of those calls alone.  Ends with status 1 where memory grew.  Times are printed only: others may use the machine.

Two measures of memory: what the process occupies (RSS), where a leak in compiled code shows; and what Python's own
allocator knows of (tracemalloc), exact to the byte, but slow, so only for a round at the start and one at the end.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

import tinynet as tn

MOST_GROWTH = 0.02  # of the RSS
MOST_TRACED = 16384  # bytes that a round may leave behind, where each of its 4,000 calls would leave 50 or more
TINY_CALLS = 2000  # in a round


class Work:
    """A model in training, and a round of work on it."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.images = rng.standard_normal((256, 12, 12, 2)).astype(np.float32)
        self.labels = rng.integers(0, 10, 256)
        self.model = cnn()
        self.optimizer = tn.Adam(self.model, lr=1e-4)
        self.path = Path(folder) / "run.safetensors"
        self.rng = rng

    def round(self):
        """All of it once; returns the seconds of a training step, the median of its 16."""
        seconds = []
        for step in range(16):
            batch = slice(32 * (step % 8), 32 * (step % 8) + 32)
            began = time.perf_counter()
            logits = self.model.forward(self.images[batch], training=True)
            _, dlogits = tn.softmax_cross_entropy(logits, self.labels[batch])
            self.model.backward(dlogits)
            self.optimizer.step()
            seconds.append(time.perf_counter() - began)
        for size in (*self.rng.permutation([0, 1, 2, 7, 33, 100]), 256):  # what the last one keeps is always the same
            logits = self.model.forward(self.images[:size], training=True)
            self.model.backward(np.ones_like(logits), input_grad=True)
            self.model.predict(self.images[:size], batch_size=64)
        self.fit()
        tiny_calls(TINY_CALLS)
        return statistics.median(seconds)

    def fit(self):
        """A training run of its own, with a checkpoint, and another that goes on from there."""
        for epochs, resume in ((1, False), (2, True)):
            model = cnn()
            tn.fit(
                model, self.images[:96], self.labels[:96], loss="softmax_cross_entropy", optimizer=tn.Adam(model),
                epochs=epochs, batch_size=32, metrics="accuracy", validation=(self.images[96:128], self.labels[96:128]),
                checkpoint=self.path, resume=resume, progress=False,
            )  # fmt: skip


def cnn():
    layers = [
        tn.Conv2D(8, 3, padding="same", activation="relu"),
        tn.BatchNorm(),
        tn.MaxPool2D(2),
        tn.Dropout(0.25),
        tn.Conv2D(8, 3, activation="tanh"),
        tn.Flatten(),
        tn.Dense(10),
    ]
    return tn.Sequential(layers, input_shape=(12, 12, 2))


def tiny_calls(count):
    logits, labels = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])
    for _ in range(count):
        tn.softmax_cross_entropy(logits, labels)


def resident():
    """Bytes of memory that the process occupies; where the system does not say, the most that it ever did."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def left_behind(work):
    """Bytes of Python's that a call of work() leaves allocated; two come before it, and replace what is kept."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        work()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def soak(seconds, calls, say=print):
    """Work for so many seconds, after `calls` tiny calls; returns the failures, each a line of text."""
    failures = []

    def judge(what, found, most, text):
        say(f"{what}: {text}")
        if found > most:
            failures.append(f"{what}: {text}, more than {most:g}")

    with tempfile.TemporaryDirectory() as folder:
        work = Work(folder)
        for _ in range(3):  # compiles what is not compiled, and fills what is kept
            work.round()
        grown = left_behind(work.round)
        judge("a round at the start", grown, MOST_TRACED, f"left {grown} bytes behind")
        tiny_calls(1000)
        before = resident()
        tiny_calls(calls)
        growth = resident() / before - 1
        judge(f"{calls:,} tiny calls", growth, MOST_GROWTH, f"RSS {before / 1e6:.1f} MB grew by {growth:.2%}")

        began = told = time.monotonic()
        rounds, sizes, times = 0, [], []
        while (now := time.monotonic() - began) < seconds or len(sizes) < 20:
            step = work.round()
            rounds += 1
            if len(sizes) <= 1000 * now / seconds:  # a thousand notes in all: one a round would itself be a leak
                sizes.append(resident())
                times.append(step)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                say(f"{now / 60:.0f} min, {rounds} rounds: RSS {resident() / 1e6:.1f} MB, step {step * 1e6:.0f} us")
        grown = left_behind(work.round)
    judge("a round at the end", grown, MOST_TRACED, f"left {grown} bytes behind")
    sizes, times = sizes[len(sizes) // 10 :], times[len(times) // 10 :]  # the first are for warming up
    tenth = max(1, len(sizes) // 10)
    first, last = statistics.median(sizes[:tenth]), statistics.median(sizes[-tenth:])
    growth = last / first - 1
    judge(f"{rounds} rounds", growth, MOST_GROWTH, f"RSS {first / 1e6:.1f} MB grew by {growth:.2%}")
    first, last = statistics.median(times[:tenth]), statistics.median(times[-tenth:])
    say(f"a training step took {first * 1e6:.0f} us at first, {last * 1e6:.0f} us at last: {last / first - 1:+.1%}")
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--calls", type=int, default=1_000_000, help="tiny calls before the rounds")
    arguments = parser.parse_args()
    found = soak(60 * arguments.minutes, arguments.calls, lambda text: print(text, flush=True))
    print(*(f"FAILED: {text}" for text in found), sep="\n") if found else print("passed: memory did not grow")
    sys.exit(bool(found))
