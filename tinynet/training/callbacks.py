"""Callbacks: what fit calls after every epoch, as callback(training).

A function will do.  An object may have more, each of which fit uses if it is there:

    step(training)           called after each step; training.loss is that of its batch
    start(training)          called before the first step, and in a resumed run after all was restored
    finish(training)         called before fit returns, after Ctrl-C too
    monitor                  the name in the history that it reads: fit refuses one that the run won't have
    watch(better)            called with a monitor, before anything is trained: better[name] is "max" or "min" for what
                             the history will have, or None, where nobody but the user knows which way is better
    state_dict()             dicts and lists of arrays, numbers, strings and None, which fit's checkpoint then holds ...
    load_state_dict(state)   ... and a resumed run sets again
"""

import csv
import io
import math
import os
import warnings
from typing import Any, Literal

from tinynet.checkpoint import save
from tinynet.checks import number_within, positive_int
from tinynet.data.writing import absolute, opened_through, target, write_whole
from tinynet.training.history import Training

Mode = Literal["min", "max"] | None
Path = str | bytes | os.PathLike


class _Watching:
    """What remembers the best value of history[monitor], and the epoch that had it.

    mode       "max" if higher is better, "min" if lower is; None where fit knows it: for a loss and for this package's
               metrics, whatever their name in the history.  A function of one's own says nothing about it
    maximize   True or False: another word for "max" or "min"

    A value that is NaN is never the best.
    """

    best: float | None
    best_epoch: int | None

    def __init__(self, monitor: str, maximize: bool | None, mode: Mode) -> None:
        name = type(self).__name__
        if not isinstance(monitor, str):
            raise TypeError(f"{name}: monitor must be a name in the history, got {monitor!r}")
        if maximize is not None and not isinstance(maximize, bool):
            raise TypeError(f"{name}: maximize must be True, False or None, got {maximize!r}")
        if mode not in (None, "min", "max"):
            raise ValueError(f'{name}: mode must be "min", "max" or None, got {mode!r}')
        if maximize is not None:
            if mode == ("min" if maximize else "max"):
                raise ValueError(f"{name}: mode={mode!r} and maximize={maximize} contradict each other; leave one out")
            mode = "max" if maximize else "min"
        self.monitor, self.mode = monitor, mode
        self._way = mode or ("min" if monitor in ("loss", "val_loss") else None)
        self.best = self.best_epoch = None

    def watch(self, better: dict[str, Mode]) -> None:
        """Called by fit, as this module says; a ValueError where nobody knows which way is better, or all but mode."""
        name, known = type(self).__name__, better.get(self.monitor)
        if known is None and self.mode is None:
            raise ValueError(f"fit: {self._asking()}")
        if known is not None and self.mode not in (None, known):
            raise ValueError(
                f"fit: {name} has mode={self.mode!r}, but {self.monitor!r} is better the "
                f"{'higher' if known == 'max' else 'lower'} it is: leave mode out, or watch a function of your own"
            )
        self._way = self.mode or known

    def _asking(self):
        """The message that asks for a mode."""
        return (
            f"{type(self).__name__} watches {self.monitor!r} and must know which of its values is the best: write "
            'mode="max" if higher is better, mode="min" if lower is.  Losses and the metrics of tinynet say so '
            "themselves; a function of your own does not, whatever its name"
        )

    def start(self, training: Training) -> None:
        """Called by fit before the first step: a new training has no best value yet."""
        if training.epoch == 0:
            self.best = self.best_epoch = None

    def improved(self, training: Training) -> bool:
        """Whether history[monitor] of the last epoch is the best so far, which is noted."""
        if self._way is None:
            raise ValueError(self._asking())
        value = training.history[self.monitor][-1]
        if math.isnan(value):
            return False
        if self.best is not None and not (value > self.best if self._way == "max" else value < self.best):
            return False
        self.best, self.best_epoch = value, training.epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on from here."""
        return {
            "monitor": self.monitor,
            "mode": self._way,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict(); a ValueError refuses that of a callback with other settings.

        Version 0.1 knew which way is better by the monitor's name alone.  Where it was wrong, what it kept is the
        worst: it is forgotten, with a warning, and the best is looked for from here.
        """
        name, best = type(self).__name__, (state["best"], state["best_epoch"])
        if state["monitor"] != self.monitor:
            raise ValueError(f"{name}: monitor was {state['monitor']!r} and is {self.monitor!r} here")
        way = state["mode"] if "mode" in state else "max" if state["maximize"] else "min"
        if None not in (way, self._way) and way != self._way:
            if "mode" in state:
                raise ValueError(f"{name}: mode was {way!r} and is {self._way!r} here")
            warnings.warn(
                f"{name}: tinynet 0.1 took {'higher' if way == 'max' else 'lower'} values of {self.monitor!r} for "
                "better; what it kept as the best is forgotten, and the best is looked for from here on",
                stacklevel=2,
            )
            best = None, None
        self.best, self.best_epoch = best


class EarlyStopping(_Watching):
    """A callback: stop once history[monitor] has not improved for `patience` epochs.

    restore_best   whether the model has the weights (and buffers) of the best epoch when fit returns
    mode           "max" if higher is better, "min" if lower is.  fit knows it of losses and of this package's metrics;
                   for a function of your own it must be given.  (maximize=True or False says the same.)

    `best` and `best_epoch` are the best value and the epoch that had it.  Prechelt 1998, "Early stopping - but when?".
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        maximize: bool | None = None,
        restore_best: bool = True,
        mode: Mode = None,
    ) -> None:
        super().__init__(monitor, maximize, mode)
        self.patience = positive_int(patience, "EarlyStopping: patience")
        self.restore_best = restore_best
        self._values: Any = None
        self._buffers: Any = None

    def start(self, training: Training) -> None:
        super().start(training)
        if self.best_epoch is None:
            self._values = self._buffers = None

    def __call__(self, training: Training) -> None:
        if self.improved(training) and self.restore_best:
            self._values = training.model.flat_values.copy()
            self._buffers = {name: array.copy() for name, array in training.model.buffers().items()}
        training.stop |= training.epoch - (self.best_epoch or 0) >= self.patience

    def finish(self, training: Training) -> None:
        """Called by fit before it returns: brings back the best epoch, if that was asked for."""
        if self._values is not None:
            training.model.flat_values[...] = self._values
            for name, array in training.model.buffers().items():
                array[...] = self._buffers[name]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "values": self._values, "buffers": self._buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        kept = self.best_epoch is not None
        self._values, self._buffers = (state["values"], state["buffers"]) if kept else (None, None)


class Checkpoint(_Watching):
    """A callback: save the model to `path` after every epoch, or where history[monitor] improved, if that is given.

    mode   "max" if higher is better, "min" if lower is, as in EarlyStopping

    tn.load reads the file.  It holds the model alone; to resume a run, give fit a `checkpoint`.
    """

    def __init__(self, path: Path, monitor: str | None = None, maximize: bool | None = None, mode: Mode = None) -> None:
        self.path, self.always = absolute(path, "Checkpoint"), monitor is None
        if monitor is None:
            if mode is not None:
                raise ValueError(f"Checkpoint: mode={mode!r} needs a monitor, the name in the history to look at")
            monitor, maximize = "loss", None
        super().__init__(monitor, maximize, mode)

    def start(self, training: Training) -> None:
        super().start(training)
        target(self.path, "Checkpoint")  # finds now what would fail after an epoch

    def __call__(self, training: Training) -> None:
        if self.improved(training) or self.always:
            save(training.model, self.path)


class ReduceOnPlateau(_Watching):
    """A callback: multiply the learning rate by `factor` once history[monitor] has not improved for `patience` epochs.

    The epochs are counted anew after that.  It does not fall below `least`.  fit refuses it together with a `schedule`,
    which sets the rate before every step.  mode as in EarlyStopping.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 5,
        least: float = 0.0,
        mode: Mode = None,
    ) -> None:
        super().__init__(monitor, None, mode)
        self.factor = number_within(factor, "ReduceOnPlateau: factor", 0, 1)
        self.patience = positive_int(patience, "ReduceOnPlateau: patience")
        self.least = number_within(least, "ReduceOnPlateau: least")
        self._since = 0  # the last epoch that improved, or that reduced
        self.sets_lr = True

    def start(self, training: Training) -> None:
        super().start(training)
        if training.epoch == 0:
            self._since = 0

    def __call__(self, training: Training) -> None:
        if self.improved(training):
            self._since = training.epoch
        elif training.epoch - self._since >= self.patience:
            optimizer = training.optimizer
            optimizer.lr = min(optimizer.lr, max(optimizer.lr * self.factor, self.least))
            self._since = training.epoch

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._since = state["since"]


class CSVLog:
    """A callback: the history as a file, a line an epoch under a line of names, there as soon as the epoch is over.

    A run that is resumed goes on with its own file, and no epoch stands in it twice: the lines are those of the history
    that was restored, and then new ones.  Any other run starts the file anew; and a file that is not as this callback
    left it, removed or replaced meanwhile, is written anew as well.  To a terminal, another character device or
    /dev/stdout, whatever that is, lines are written through.
    """

    def __init__(self, path: Path) -> None:
        self.path = absolute(path, "CSVLog")
        self._left = None

    def start(self, training: Training) -> None:
        """Called by fit before the first step: begins the file, with the epochs of the history if a run is resumed."""
        self._left = None
        self._write(training, 0)

    def __call__(self, training: Training) -> None:
        self._write(training, training.epoch - 1)

    def _write(self, training, written):
        """Bring the file to the end of the history, if `written` epochs are in it."""
        through = opened_through(self.path)
        if through is not None:
            with through as file:
                file.write(_lines(training, written))
            return
        path, status = target(self.path, "CSVLog")
        if self._left is None or self._left != _mark(status):
            write_whole(path, _lines(training, 0).encode(), who="CSVLog")
        else:
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(_lines(training, written))
        self._left = _mark(os.stat(path))


def _lines(training, written):
    """The history from epoch `written` on, counted from 0, and the line of names if that is the first."""
    history, last = training.history, training.epoch
    rows = [["epoch", *history]] if history and written == 0 else []
    first = max(written, last - min(map(len, history.values()), default=0))  # a loop of one's own may have no more
    rows += [[epoch + 1, *(values[epoch - last] for values in history.values())] for epoch in range(first, last)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _mark(status):
    """What tells a file from another and from itself with other content."""
    return status and (status.st_dev, status.st_ino, status.st_size)
