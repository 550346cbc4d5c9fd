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
import os
from typing import Any

from tinynet.checkpoint import save
from tinynet.checks import number_within, positive_int
from tinynet.data.writing import absolute, naming, opened_through, target, write_whole
from tinynet.training.history import Training
from tinynet.training.watching import Mode, Watching

Path = str | bytes | os.PathLike


class EarlyStopping(Watching):
    """A callback: stop once history[monitor] has not improved for `patience` epochs.

    restore_best   whether the model has the weights (and buffers) of the best epoch when fit returns
    mode           "max" if higher is better, "min" if lower is.  fit knows it of losses and of this package's metrics;
                   for a function of your own it must be given.  (maximize=True or False says the same.)
    min_delta      by how much a value must be better than the best so far: less is no improvement

    `best` and `best_epoch` are the best value and the epoch that had it.  Prechelt 1998, "Early stopping - but when?".

    >>> x, y, model = np.eye(4), np.arange(4) % 2, tn.Sequential([tn.Dense(2)], 4)
    >>> stop = tn.EarlyStopping("loss", patience=3)
    >>> history = tn.fit(
    ...     model, x, y, loss="cross_entropy", optimizer=tn.SGD(model, lr=0.0), epochs=50, callbacks=[stop],
    ...     progress=False,
    ... )
    >>> len(history["loss"]), stop.best_epoch  # nothing improves after the first epoch
    (4, 1)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        maximize: bool | None = None,
        restore_best: bool = True,
        mode: Mode = None,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(monitor, maximize, mode, min_delta)
        self.patience = positive_int(patience, "EarlyStopping: patience")
        self.restore_best = restore_best
        self._values: Any = None
        self._buffers: Any = None

    def start(self, training: Training) -> None:
        super().start(training)
        if self.best_epoch is None:
            self._values = self._buffers = None

    @property
    def sets_weights(self) -> bool:
        """Whether it sets the model's weights at the end of fit."""
        return self.restore_best

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


class Checkpoint(Watching):
    """A callback: save the model to `path` after every epoch, or where history[monitor] improved, if that is given.

    mode   "max" if higher is better, "min" if lower is, as in EarlyStopping

    tn.load reads the file.  It holds the model alone; to resume a run, give fit a `checkpoint`.

    >>> import tempfile
    >>> x, y, model = np.eye(4), np.arange(4) % 2, tn.Sequential([tn.Dense(2)], 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keep = tn.Checkpoint(f"{folder}/best.safetensors", monitor="loss")
    ...     history = tn.fit(
    ...         model, x, y, loss="cross_entropy", optimizer=tn.SGD(model), epochs=2, callbacks=[keep], progress=False
    ...     )
    ...     again = tn.load(f"{folder}/best.safetensors")
    >>> bool((again.predict(x) == model.predict(x)).all())
    True
    """

    writes_path = True

    def __init__(self, path: Path, monitor: str | None = None, maximize: bool | None = None, mode: Mode = None) -> None:
        self.path, self.always = absolute(path, "Checkpoint"), monitor is None
        if "{epoch" in self.path:
            raise ValueError(
                f"Checkpoint: path is taken as it is, got {path!r}; for a file an epoch, give fit a function: "
                'lambda training: tn.save(training.model, f"{training.epoch}.safetensors")'
            )
        if monitor is None:
            for name, given in (("mode", mode), ("maximize", maximize)):
                if given is not None:
                    raise ValueError(
                        f"Checkpoint: {name}={given!r} needs a monitor, the name in the history to look at"
                    )
            monitor = "loss"
        super().__init__(monitor, maximize, mode)

    def start(self, training: Training) -> None:
        super().start(training)
        target(self.path, "Checkpoint")  # finds now what would fail after an epoch

    def __call__(self, training: Training) -> None:
        if self.improved(training) or self.always:
            save(training.model, self.path)


class ReduceOnPlateau(Watching):
    """A callback: multiply the learning rate by `factor` once history[monitor] has not improved for `patience` epochs.

    The epochs are counted anew after that.  It does not fall below `least`.  fit refuses it together with a `schedule`,
    which sets the rate before every step.  mode and min_delta as in EarlyStopping.

    >>> x, y, model = np.eye(4), np.arange(4) % 2, tn.Sequential([tn.Dense(2)], 4)
    >>> slower, still = tn.ReduceOnPlateau("loss", factor=0.5, patience=2, min_delta=9.0), tn.SGD(model, lr=1.0)
    >>> history = tn.fit(
    ...     model, x, y, loss="cross_entropy", optimizer=still, epochs=6, callbacks=[slower], progress=False
    ... )
    >>> history["lr"]
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 5,
        least: float = 0.0,
        mode: Mode = None,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(monitor, None, mode, min_delta)
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

    >>> import tempfile
    >>> x, y, model = np.eye(4), np.arange(4) % 2, tn.Sequential([tn.Dense(2)], 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = tn.CSVLog(f"{folder}/log.csv")
    ...     history = tn.fit(
    ...         model, x, y, loss="cross_entropy", optimizer=tn.SGD(model), epochs=2, callbacks=[log], progress=False
    ...     )
    ...     lines = np.loadtxt(f"{folder}/log.csv", dtype=str)
    >>> len(lines), str(lines[0])
    (3, 'epoch,loss,lr,seconds')
    """

    writes_path = True

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
            with naming(self.path, "CSVLog"), through as file:
                file.write(_lines(training, written))
            return
        path, status = target(self.path, "CSVLog")
        if self._left is None or self._left != _mark(status):
            write_whole(path, _lines(training, 0).encode(), who="CSVLog")
        else:
            with naming(path, "CSVLog"), open(path, "a", encoding="utf-8", newline="") as file:
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
