"""Callbacks: what fit calls after every epoch, as callback(training).

A function will do.  An object may have more, each of which fit uses if it is there:

    start(training)          called before the first step, and in a resumed run after all was restored
    finish(training)         called before fit returns, after Ctrl-C too
    monitor                  the name in the history that it reads: fit refuses one that the run won't have
    state_dict()             dicts and lists of arrays, numbers, strings and None, which fit's checkpoint then holds ...
    load_state_dict(state)   ... and a resumed run gives back
"""

import csv
import io
import math
import os

from tinynet.checkpoint import save, write_whole
from tinynet.layers.base import positive_int


class _Watching:
    """What remembers the best value of history[monitor], and the epoch that had it.

    `maximize` None takes the highest for best where the name ends in "accuracy" or "f1", and the lowest elsewhere.  A
    value that is NaN is never the best.
    """

    def __init__(self, monitor, maximize):
        if not isinstance(monitor, str):
            raise TypeError(f"{type(self).__name__}: monitor must be a name in the history, got {monitor!r}")
        if maximize is not None and not isinstance(maximize, bool):
            raise TypeError(f"{type(self).__name__}: maximize must be True, False or None, got {maximize!r}")
        self.monitor = monitor
        self.maximize = monitor.endswith(("accuracy", "f1")) if maximize is None else maximize
        self.best = self.best_epoch = None

    def start(self, training):
        """Called by fit before the first step: a new training has no best value yet."""
        if training.epoch == 0:
            self.best = self.best_epoch = None

    def improved(self, training):
        """Whether history[monitor] of the last epoch is the best so far, which is noted."""
        value = training.history[self.monitor][-1]
        if math.isnan(value):
            return False
        if self.best is not None and not (value > self.best if self.maximize else value < self.best):
            return False
        self.best, self.best_epoch = value, training.epoch
        return True

    def state_dict(self):
        """What a resumed run needs to go on from here."""
        return {
            "monitor": self.monitor,
            "maximize": self.maximize,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }

    def load_state_dict(self, state):
        """Go on from a state_dict(); a ValueError refuses that of a callback with other settings."""
        for name in ("monitor", "maximize"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"{type(self).__name__}: {name} was {state[name]!r} and is {getattr(self, name)!r} here"
                )
        self.best, self.best_epoch = state["best"], state["best_epoch"]


class EarlyStopping(_Watching):
    """A callback: stop once history[monitor] has not improved for `patience` epochs.

    maximize       whether higher is better; None: only where the name ends in "accuracy" or "f1"
    restore_best   whether the model has the weights (and buffers) of the best epoch when fit returns

    `best` and `best_epoch` are the best value and the epoch that had it.  Prechelt 1998, "Early stopping - but when?".
    """

    def __init__(self, monitor="val_loss", patience=5, maximize=None, restore_best=True):
        super().__init__(monitor, maximize)
        self.patience = positive_int(patience, "EarlyStopping: patience")
        self.restore_best = restore_best
        self._values = self._buffers = None

    def start(self, training):
        super().start(training)
        if self.best_epoch is None:
            self._values = self._buffers = None

    def __call__(self, training):
        if self.improved(training) and self.restore_best:
            self._values = training.model.flat_values.copy()
            self._buffers = {name: array.copy() for name, array in training.model.buffers().items()}
        training.stop |= training.epoch - (self.best_epoch or 0) >= self.patience

    def finish(self, training):
        """Called by fit before it returns: brings back the best epoch, if that was asked for."""
        if self._values is not None:
            training.model.flat_values[...] = self._values
            for name, array in training.model.buffers().items():
                array[...] = self._buffers[name]

    def state_dict(self):
        return {**super().state_dict(), "values": self._values, "buffers": self._buffers}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self._values, self._buffers = state["values"], state["buffers"]


class Checkpoint(_Watching):
    """A callback: save the model to `path` after every epoch, or where history[monitor] improved, if that is given.

    maximize   whether higher is better; None: only where the name ends in "accuracy" or "f1"

    tn.load reads the file.  It holds the model alone; to resume a run, give fit a `checkpoint`.
    """

    def __init__(self, path, monitor=None, maximize=None):
        super().__init__("loss" if monitor is None else monitor, maximize)
        self.path, self.always = os.fspath(path), monitor is None

    def start(self, training):
        super().start(training)
        _check_folder(self, self.path)

    def __call__(self, training):
        if self.improved(training) or self.always:
            save(training.model, self.path)


class CSVLog:
    """A callback: the history as a file, a line an epoch under a line of names, there as soon as the epoch is over.

    A run that is resumed goes on with its own file, and no epoch stands in it twice: the lines are those of the history
    that was restored, and then new ones.  Any other run starts the file anew.
    """

    def __init__(self, path):
        self.path = os.fspath(path)

    def start(self, training):
        """Called by fit before the first step: begins the file, with the epochs of the history if a run is resumed."""
        _check_folder(self, self.path)
        history = training.history
        rows = [["epoch", *history]] if history else []
        rows += [[epoch + 1, *(values[epoch] for values in history.values())] for epoch in range(training.epoch)]
        write_whole(self.path, _lines(rows).encode())

    def __call__(self, training):
        rows = [[training.epoch, *(values[-1] for values in training.history.values())]]
        if training.epoch == 1:
            rows.insert(0, ["epoch", *training.history])
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(_lines(rows))


def _lines(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _check_folder(callback, path):
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{type(callback).__name__}: there is no folder {folder} to write {path} in")
