"""What fit shows while it trains, and how Ctrl-C ends it."""

import signal
import sys
import threading
import time


class Progress:
    """A line for each epoch, and on a terminal a bar in its place until then; or nothing."""

    def __init__(self, wanted, epochs, samples):
        self.wanted, self.epochs, self.samples = wanted, epochs, samples
        self.bar = None
        self.terminal = bool(wanted) and sys.stdout is not None and sys.stdout.isatty()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def start(self, epoch, seen):
        """`seen` samples of the epoch are done already, in a run that was resumed."""
        self.title = f"epoch {epoch:{len(str(self.epochs))}}/{self.epochs}"
        if self.terminal:
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.samples,
                initial=seen,
                desc=self.title,
                unit=" samples",
                leave=False,
                file=sys.stdout,
                bar_format="{desc} {bar:20} {n_fmt}/{total_fmt} {rate_noinv_fmt}{postfix}",
            )
            self.drawn = time.perf_counter()

    def advance(self, n, totals, seen):
        if self.bar is not None:
            now = time.perf_counter()
            if now - self.drawn > 0.1:  # writing the numbers takes as long as a step of a small model
                self.drawn = now
                self.bar.set_postfix_str(_written(totals, seen), refresh=False)
            self.bar.update(n)

    def finish(self, results, rate):
        self.say(f"{self.title}  {_written(results)}  {rate:,.0f} samples/s")

    def say(self, line):
        self.close()
        if self.wanted:
            print(line, flush=True)


def _written(numbers, divisor=1):
    return "  ".join(f"{name} {_short(number / divisor)}" for name, number in numbers.items())


def _short(number):
    return f"{number:.4f}" if 1e-3 <= abs(number) < 1e4 or number == 0 else f"{number:.3e}"


class Interrupt:
    """Ctrl-C while fit runs: the first one only sets `asked`, the second raises KeyboardInterrupt as ever.

    Python's signals arrive in the main thread, so elsewhere nothing changes; nor does it where Ctrl-C means something
    else already: a handler of the caller's own, or none (a job in the background).
    """

    asked = False

    def __enter__(self):
        main = threading.current_thread() is threading.main_thread()
        self._mine = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._mine:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exception):
        if self._mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, number, frame):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
