"""What fit shows while it trains, and how Ctrl-C ends it.

Neither may end a training by itself: standard output may be a pipe whose reader is gone, the terminal of a connection
that broke, closed, None, or an object of the user's with hardly more than a `write`.
"""

import contextlib
import os
import signal
import sys
import threading
import time

from tinynet.notebook import progress_bar, seconds_to_show, shows_bars

HEARD = (
    "\nCtrl-C: the training stops after the current step (while kernels are compiled, that can take a minute); "
    "Ctrl-C again stops it at once\n"
)


class Progress:
    """A line for each epoch, and on a terminal or in a notebook a bar in its place until then; or nothing.

    Where it can't be shown, standard error says so once, and the training goes on without.
    """

    def __init__(self, wanted, epochs, samples):
        self.wanted, self.epochs, self.samples = bool(wanted) and sys.stdout is not None, epochs, samples
        self.bar, self.bars, self.first, self.wait = None, False, True, 0.0
        if self.wanted:
            with self._showing():
                self.bars, self.wait = shows_bars(sys.stdout), seconds_to_show(sys.stdout)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @contextlib.contextmanager
    def _showing(self):
        try:
            yield
        except Exception as error:
            if self.bar is not None:
                self.bar.disable = True  # it would try to write once more when it is collected
            self.wanted, self.bars, self.bar = False, False, None
            reason = f"{type(error).__name__}: {error}"
            _say(f"fit: the progress can't be shown any more, and the training goes on ({reason})\n")

    def close(self):
        bar, self.bar = self.bar, None
        if bar is not None:
            with self._showing():
                bar.close()

    def start(self, epoch, seen):
        """`seen` samples of the epoch are done already, in a run that was resumed."""
        self.title = f"epoch {epoch:{len(str(self.epochs))}}/{self.epochs}"
        self.seen, self.drawn = seen, time.perf_counter()
        if self.first or not self.wait:
            self._draw()

    def _draw(self):
        if self.bars:
            with self._showing():
                self.bar = progress_bar(
                    sys.stdout,
                    total=self.samples,
                    initial=self.seen,
                    desc=self.title,
                    unit=" samples",
                    leave=False,
                    bar_format="{desc} {bar:20} {n_fmt}/{total_fmt} {rate_noinv_fmt}{postfix}",
                )

    def advance(self, n, means):
        """After a batch of n samples; means() are those of the epoch so far."""
        self.seen += n
        if self.bar is None:
            if self.bars and time.perf_counter() - self.drawn > self.wait:
                self._draw()
        else:
            with self._showing():
                now = time.perf_counter()
                if self.first:  # it may have compiled kernels, so the rate is that of the steps after it
                    self.first = False
                    self.bar.n = self.bar.initial = self.bar.last_print_n = self.bar.n + n
                    self.bar.start_t = self.bar.last_print_t = self.bar._time()
                    self.bar.refresh()
                    return
                if now - self.drawn > 0.1:  # writing the numbers takes as long as a step of a small model
                    self.drawn = now
                    self.bar.set_postfix_str(_written(means()), refresh=False)
                self.bar.update(n)

    def finish(self, results, rate):
        self.say(f"{self.title}  {_written(results)}  {rate:,.0f} samples/s")

    def say(self, line):
        self.close()
        if self.wanted and sys.stdout is not None:
            with self._showing():
                _put(sys.stdout, f"{line}\n")


def _written(numbers):
    return "  ".join(f"{name} {_short(number)}" for name, number in numbers.items())


def _short(number):
    return f"{number:.4f}" if 1e-3 <= abs(number) < 1e4 or number == 0 else f"{number:.3e}"


def _put(stream, text):
    """Write the text at once.  A letter that the stream can't encode, in a metric's name, say, is written as \\xf6."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode("ascii", "backslashreplace").decode())
    if hasattr(stream, "flush"):
        stream.flush()


def _say(text):
    """Write the text to standard error, from a signal handler too, or not at all: it is no reason to fail."""
    with contextlib.suppress(Exception):
        try:
            _put(sys.stderr, text)
        except RuntimeError:  # the signal came while the stream was being written to
            os.write(sys.stderr.fileno(), text.encode("ascii", "backslashreplace"))


class Interrupt:
    """Ctrl-C while fit runs: the first one sets `asked` and says so, the second raises KeyboardInterrupt as ever.

    The step that has begun is finished first; where it compiles kernels that may take a minute, in which nothing else
    shows that the key was heard.

    Python's signals arrive in the main thread, so elsewhere nothing changes; nor does it where Ctrl-C means something
    else already: a handler of the caller's own, or none (a job in the background).
    """

    asked = False

    def __init__(self, telling=True):
        self.telling = telling

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
        if self.telling:
            _say(HEARD)
