"""What fit records, and what its callbacks are given of it."""

import math
import os
from typing import Any

from tinynet.notebook import table


class History(dict[str, list[float]]):
    """What fit recorded: a name -> a list with one number an epoch.

    "loss" and each metric are means over the epoch's batches, as they were while the model was changing; "val_loss"
    and "val_" + metric are of the whole validation set after the epoch; "lr" is the learning rate of the last
    step; "seconds" is how long the epoch took.  `interrupted` is whether Ctrl-C ended the training.

    >>> x, y, model = np.eye(4), np.arange(4) % 2, tn.Sequential([tn.Dense(2)], 4)
    >>> history = tn.fit(model, x, y, loss="cross_entropy", optimizer=tn.SGD(model), epochs=3, progress=False)
    >>> list(history), len(history["loss"])
    (['loss', 'lr', 'seconds'], 3)
    """

    interrupted = False

    def __missing__(self, name: str) -> list[float]:
        if self:
            raise KeyError(f"the history has no {name!r}; it has {', '.join(self)}")
        why = ": Ctrl-C ended the training in the first" if self.interrupted else ""
        raise KeyError(f"the history has no {name!r}, for no epoch was finished{why}")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the curves; returns the matplotlib Figure, and saves it if there is a path."""
        from tinynet.plots import training_curves

        return training_curves(self, path)

    def _repr_html_(self):
        epochs = max(map(len, self.values()), default=0)
        rows = [
            (epoch + 1, *(f"{values[epoch]:.4g}" if epoch < len(values) else "" for values in self.values()))
            for epoch in range(epochs)
        ]
        return table("", ("epoch", *self), rows, words=0, after="ended by Ctrl-C" if self.interrupted else "")


class Training:
    """What a callback is given after each epoch.  Set `stop` to True, and the training ends there.

    model, optimizer, history    as given to fit, and as it will return
    epoch, step                  how many of each are done
    loss                         of the last step's batch, before that step; NaN where there was none yet
    """

    epoch: int
    step: int
    loss: float
    stop: bool

    def __init__(self, model: Any, optimizer: Any) -> None:
        self._model, self._optimizer, self._history = model, optimizer, History()
        self.epoch = self.step = 0
        self.loss = math.nan
        self.stop = False

    @property
    def model(self) -> Any:
        """The model that is trained."""
        return self._model

    @property
    def optimizer(self) -> Any:
        """Its optimizer."""
        return self._optimizer

    @property
    def history(self) -> History:
        """The History that fit will return."""
        return self._history
