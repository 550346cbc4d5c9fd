"""What callbacks share that remember the best value of the history: EarlyStopping, Checkpoint, ReduceOnPlateau."""

import math
import warnings
from typing import Any, Literal

from tinynet.checks import real_number
from tinynet.training.history import Training

Mode = Literal["min", "max"] | None


class Watching:
    """What remembers the best value of history[monitor], and the epoch that had it.

    mode       "max" if higher is better, "min" if lower is; None where fit knows it: for a loss and for this package's
               metrics, whatever their name in the history.  A function of one's own says nothing about it
    maximize   True or False: another word for "max" or "min"

    min_delta  by how much a value must be better than the best so far to be the best

    A value that is NaN is never the best.
    """

    best: float | None
    best_epoch: int | None

    def __init__(self, monitor: str, maximize: bool | None, mode: Mode, min_delta: float = 0.0) -> None:
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
        self.min_delta = real_number(min_delta, name, "min_delta", zero=True)
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
            warnings.warn(
                f"{type(self).__name__}: {self.monitor!r} is NaN, which is never an improvement", stacklevel=3
            )
            return False
        least = self.min_delta
        if self.best is not None and not (
            value > self.best + least if self._way == "max" else value < self.best - least
        ):
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
