"""What all optimizers share: their settings, the model's flat vectors, clipping, and a state to go on from.

All values of a model are views of one flat vector and all gradients of another, so that a step is one kernel
over both, whatever the number of layers.  The vectors are cut into pieces (P, 3): where a piece starts, where it
ends, and whether it decays; and (P,) holds what the learning rate is multiplied by there.  A piece belongs to one
parameter that is trained, and one thread updates it alone; nothing is summed across pieces, so the result does not
depend on which thread takes which.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numba
import numpy as np

from tinynet.checks import copy_into, number_within, positive_int, view_of
from tinynet.checks.assignments import AssignmentError, Guarded
from tinynet.kernels.aligned import vector_of_zeros
from tinynet.kernels.compile import chunk_count, sized_kernel
from tinynet.layers.parameter import Parameter

PIECE = 2048  # elements: in float32, with their gradients and means, 16 to 40 KB
HEAVY = 32 * PIECE  # elements from which threads pay: SGD's whole step takes 7 us here, and starting them 2 to 6 us

RANGES = {  # what a setting may be: from the least, to just below the most
    "lr": (0, math.inf),
    "momentum": (0, 1),
    "dampening": (0, 1),
    "alpha": (0, 1),
    "beta1": (0, 1),
    "beta2": (0, 1),
    "eps": (0, math.inf),
    "weight_decay": (0, math.inf),
    "clip_norm": (0, math.inf),
}
FLAGS = {"nesterov", "centered", "amsgrad", "maximize"}
# Settings that states of version 0.1 lack, and what they are there.  As long as they are that, no state has them.
SINCE = {"dampening": 0.0, "centered": False, "amsgrad": False, "maximize": False}


@sized_kernel(HEAVY // PIECE, fast=True)
def sums_of_squares(grads, sums):
    """sums[c], float64 (C,), gets the sum of the squares of chunk c of grads (S,)."""
    chunks = len(sums)
    for c in numba.prange(chunks):
        chunk = grads[c * grads.size // chunks : (c + 1) * grads.size // chunks]
        total = 0.0
        for i in range(chunk.size):
            total += np.float64(chunk[i]) * np.float64(chunk[i])
        sums[c] = total


class Optimizer(Guarded):
    """What all optimizers share.  A subclass gives its settings to __init__, and has

    vectors           the names of what it remembers, each shaped like model.flat_values
    optional          of some of them, the setting that must be True; else they are empty
    _kernel           a function (gradients, *vectors, pieces, factors, numbers, values) that changes the values ...
    _numbers(scale)   ... and the numbers that it takes, of which the last is what to multiply the gradients by

    `steps` is how many there were so far.  Settings, steps and vectors may be set at any time, and are checked as at
    the start; a vector is copied into.

    >>> model = tn.Sequential([tn.Dense(2, bias=False)], 1)
    >>> optimizer = tn.SGD(model, lr=0.5)
    >>> model.flat_values, model.flat_grads = [1.0, 2.0], [1.0, -1.0]
    >>> optimizer.step()
    >>> model.flat_values.tolist(), optimizer.steps
    ([0.5, 2.5], 1)
    """

    vectors: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[dict[str, str]] = {}
    _kernel: ClassVar[Callable[..., None]]

    lr: float
    weight_decay: float
    clip_norm: float | None
    maximize: bool = False
    steps: int

    def __init__(self, model: Any, **settings: Any) -> None:
        who = type(self).__name__
        if not all(hasattr(model, needed) for needed in ("flat_values", "flat_grads", "parameters")):
            raise TypeError(f"{who} takes a model such as tinynet.Sequential, got {type(model).__name__}")
        values, grads = _flat(model)
        if values.size == 0:
            raise ValueError(f"{who}: the model has no parameters to train")
        alike = values.shape == grads.shape == (values.size,) and values.dtype == grads.dtype
        if not alike or not (values.flags.carray and grads.flags.carray):
            raise ValueError(
                f"{who}: flat_values and flat_grads must be vectors alike, got {values.dtype} {values.shape}"
                f" and {grads.dtype} {grads.shape}"
            )
        self.model = model
        vars(self).update(self._checked(settings), _settings=tuple(settings))
        self.steps = 0
        self._vectors = {}
        for name in self.vectors:
            needed = name not in self.optional or getattr(self, self.optional[name])
            self._vectors[name] = vector_of_zeros(values.size if needed else 0, values.dtype)
        self._look_at(model)
        self._sums = np.empty(chunk_count(values.size, PIECE))

    def _numbers(self, scale: float) -> tuple:
        """What the rule's kernel takes behind the vectors; `scale` multiplies the gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no _numbers(scale)")

    def step(self) -> None:
        """Change model.flat_values, once, by what model.flat_grads says."""
        if self._pieces_of != Parameter.changes:  # some parameter's decay, say, was set, or this is a copy
            self._look_at(self.model)
        scale = 1.0 if self.clip_norm is None else self._clipping()
        scale = -scale if self.maximize else scale
        vars(self)["steps"] += 1
        values, grads = self._flat
        type(self)._kernel(grads, *self._vectors.values(), *self._pieces, self._numbers(scale), values)

    def _look_at(self, model):
        self._flat, self._pieces, self._pieces_of = _flat(model), _pieces(model), Parameter.changes
        self._all_trained = all(parameter.trainable for parameter in model.parameters())

    def _clipping(self):
        """What to multiply the gradient by, so that its norm, frozen parameters apart, is at most clip_norm."""
        grads = self._flat[1]
        if not self._all_trained:
            grads = np.concatenate([grads[:0], *(grads[start:stop] for start, stop, _ in self._pieces[0])])
        sums_of_squares(grads, self._sums)
        size, norm = 1.0, math.sqrt(sum(self._sums.tolist()))  # the gradient's norm is size * norm
        if not 1e-150 < norm < math.inf:  # squares left the range of float64, where the numbers need not have
            size, norm = float(np.abs(grads).max(initial=0)), 1.0
            if 0 < size < math.inf:
                norm = float(np.linalg.norm(grads / size))
        most = self.clip_norm / size if size else math.inf
        return most / norm if norm > most else 1.0

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs to go on from here: settings, the count of steps, copies of the vectors."""
        vectors = {name: vector.copy() for name, vector in self._vectors.items() if vector.size}
        return {"optimizer": type(self).__name__, "steps": self.steps, **self._told(), **vectors}

    def _told(self):
        """The settings, but for later ones that are as they were before there was a choice."""
        settings = {name: getattr(self, name) for name in self._settings}
        return {name: value for name, value in settings.items() if name not in SINCE or value != SINCE[name]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict() of the same optimizer on a model of the same size.

        Everything is checked before anything changes: a ValueError or TypeError leaves the optimizer as it was.
        """
        who = type(self).__name__
        if not isinstance(state, dict):
            raise TypeError(f"{who}: load_state_dict takes what state_dict() returned, got {type(state).__name__}")
        if state.get("optimizer") != who:
            raise ValueError(f"{who}: the state is that of {state.get('optimizer')!r}")
        state = {**{name: SINCE[name] for name in self._settings if name in SINCE}, **state}
        for flag in self.optional.values():
            if state[flag] != getattr(self, flag):
                raise ValueError(f"{who}: the state is that of {flag}={state[flag]}; make the optimizer with it, too")
        kept = {name: vector for name, vector in self._vectors.items() if vector.size}
        expected = {"optimizer", "steps", *self._settings, *kept}
        if set(state) != expected:
            wrong = ", ".join(sorted(map(str, set(state) ^ expected)))
            raise ValueError(f"{who}: the state lacks, or has too many, of these entries: {wrong}")
        settings = self._checked({key: state[key] for key in self._settings})
        settings["steps"] = positive_int(state["steps"], f"{who}: the state's count of steps", 0)
        for key, mine in kept.items():
            other = np.asarray(state[key])
            if other.shape != mine.shape or other.dtype != mine.dtype:
                raise ValueError(
                    f"{who}: the state's {key} is {other.dtype} of shape {other.shape}; "
                    f"the model has {mine.dtype} of shape {mine.shape}"
                )
        vars(self).update(settings)
        for key, mine in kept.items():
            mine[...] = state[key]

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._told().items())})"

    # --- attributes: settings, steps and vectors are checked when they are set ------------------------------

    def __setattr__(self, name, value):
        if name in self.vectors:
            copy_into(self._vectors[name], value, f"{type(self).__name__}: {name}")
        elif name == "steps":
            vars(self)[name] = positive_int(value, f"{type(self).__name__}: steps", 0)
        elif name in self.optional.values():
            who = type(self).__name__
            raise AssignmentError(f"{who}: {name} can't be set any more; make a new {who} with another {name}")
        elif name in vars(self).get("_settings", ()):
            vars(self)[name] = self._checked({name: value})[name]
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name):  # asked for what is no attribute
        if name in type(self).vectors and "_vectors" in vars(self):
            return view_of(self._vectors[name])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_flat"}

    def __setstate__(self, state):  # a copy's model has vectors of its own, perhaps not yet
        vars(self).update(state, _flat=None, _pieces_of=None)

    def _checked(self, settings):
        """The settings as Python numbers; TypeError or ValueError for what is not in its range."""
        who, result = type(self).__name__, {}
        for name, value in settings.items():
            what = f"{who}: {name}"
            if name in FLAGS:
                if not isinstance(value, (bool, np.bool_)):
                    raise TypeError(f"{what} must be True or False, got {value!r}")
                result[name] = bool(value)
            elif name == "clip_norm" and value is None:
                result[name] = None
            else:
                result[name] = number_within(value, what, *RANGES[name])
        if result.get("clip_norm") == 0:
            raise ValueError(f"{who}: clip_norm must be above 0, or None for no clipping")
        nesterov, momentum, dampening = (
            result.get(name, vars(self).get(name)) for name in ("nesterov", "momentum", "dampening")
        )
        if nesterov and momentum == 0:
            raise ValueError(f"{who}: nesterov=True needs a momentum above 0")
        if nesterov and dampening:
            raise ValueError(f"{who}: nesterov=True needs a dampening of 0, got {dampening}")
        return result


def _flat(model):
    """The model's two vectors themselves, of which flat_values and flat_grads are views."""
    try:
        return model._flat_values, model._flat_grads
    except AttributeError:  # no Sequential
        return model.flat_values, model.flat_grads


def _pieces(model):
    """What is trained of the flat vector, rows (start, stop, whether it decays), int64 (P, 3), and its factors (P,)."""
    values, grads = _flat(model)
    rows, factors = [], []
    for parameter in model.parameters():
        start, at = (
            (own.ctypes.data - flat.ctypes.data) // flat.itemsize
            for own, flat in ((parameter._value, values), (parameter._grad, grads))
        )
        stop = start + parameter._value.size
        if start != at or start < 0 or stop > values.size or parameter._value.dtype != values.dtype:
            raise ValueError(
                f"{parameter.name}: value and gradient must be views of the model's flat_values and flat_grads, at one"
                " place in both"
            )
        if parameter.trainable:
            rows += [(s, min(s + PIECE, stop), parameter.decay) for s in range(start, stop, PIECE)]
            factors += [parameter.lr_factor] * (len(rows) - len(factors))
    return np.array(rows, np.int64).reshape(-1, 3), np.array(factors, np.float64)
