"""MovingAverage: the mean of the weights over the last steps is often better than the last weights.

Each step of stochastic gradient descent follows the gradient of another batch, so that the weights wander around where
they should be; a mean over many steps is nearer.  Kept running, it needs one copy of the weights:

    mean <- decay mean + (1 - decay) value = mean + (1 - decay) (value - mean)

Sources: Polyak and Juditsky 1992; of deep networks, Tan and Le 2019, and He et al. 2020 (MoCo's second network).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from tinynet.checks import number_within
from tinynet.training.history import Training


class MovingAverage:
    """A callback: a running mean of the model's parameters and buffers over the steps, which it has when fit returns.

    decay   in [0, 1): 0.999 means about the last 1000 steps.  In the first steps (1 + steps) / (10 + steps) stands in
            for a decay above it, so that the start, which is random, is soon forgotten

    It starts at the first step's values.  While the training goes on, `validation` and metrics are those of the model
    as it is trained; `with average.swapped(model):` puts the mean in its place for a while.

    At its end fit gives the model the mean, so EarlyStopping beside it needs restore_best=False.

    >>> x, y, model = np.eye(4), np.arange(4) % 2, tn.Sequential([tn.Dense(2)], 4, seed=0)
    >>> average = tn.MovingAverage(0.99)
    >>> history = tn.fit(
    ...     model, x, y, loss="cross_entropy", optimizer=tn.SGD(model, 0.1), epochs=9, callbacks=[average],
    ...     progress=False,
    ... )
    >>> loss, _ = tn.softmax_cross_entropy(model.predict(x), y)
    >>> loss < history["loss"][0]
    True
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = number_within(decay, "MovingAverage: decay", 0, 1)
        self._steps = 0
        self._means: Any = None

    sets_weights = True  # at the end of fit

    def start(self, training: Training) -> None:
        """Called by fit before the first step."""
        if training.step == 0:
            self._steps, self._means = 0, None

    def step(self, training: Training) -> None:
        """Called by fit after every step."""
        arrays = _arrays_of(training.model)
        if self._means is None:
            self._means = [array.copy() for array in arrays]
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        for mean, array in zip(self._means, arrays, strict=True):
            mean += (1 - decay) * (array - mean)
        self._steps += 1

    def __call__(self, training: Training) -> None:
        """Nothing happens at the end of an epoch."""

    def finish(self, training: Training) -> None:
        """Called by fit before it returns: gives the model the mean."""
        self._swap(training.model)

    @contextlib.contextmanager
    def swapped(self, model: Any) -> Iterator[None]:
        """Within `with average.swapped(model):` the model has the mean."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def _swap(self, model):
        if self._means is not None:
            for mean, array in zip(self._means, _arrays_of(model), strict=True):
                mean[...], array[...] = array, mean.copy()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on from here."""
        return {"decay": self.decay, "steps": self._steps, "means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict(); a ValueError refuses that of another decay."""
        if state["decay"] != self.decay:
            raise ValueError(f"MovingAverage: decay was {state['decay']} and is {self.decay} here")
        self._steps, self._means = state["steps"], state["means"]


def _arrays_of(model):
    """The arrays of real numbers that a step or a batch changes."""
    return [model.flat_values, *(array for array in model.buffers().values() if array.dtype.kind == "f")]
