"""Optimizers: from the gradient g = dL/dw to a change of the weights w.

    SGD       v <- momentum v + g                    w <- w - lr v        with Nesterov: w <- w - lr (g + momentum v)
    RMSprop   s <- alpha s + (1 - alpha) g^2         w <- w - lr g / (sqrt(s) + eps)
    Adam      m <- beta1 m + (1 - beta1) g           a running mean of the gradient ...
              s <- beta2 s + (1 - beta2) g^2         ... and of its square; both start at 0, so after t steps they
                                                     are too small by 1 - beta^t: divide that out
              w <- w - lr m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps)
    AdamW     the same, with the weights shrunk directly:  w <- (1 - lr decay) w  first

Where all gradients so far were 0, and eps is 0, the quotient 0 / 0 counts as 0.

Weight decay adds decay w to g, the gradient of decay/2 |w|^2 (in AdamW it goes past the division by sqrt(s)).
Parameters whose `decay` is False, which are biases and the scales and shifts of normalisation layers, are left out.

All values of a model are views of one flat vector and all gradients of another, so that a step is one kernel
over both, whatever the number of layers.  The vectors are cut into pieces (P, 3): where a piece starts, where it
ends, and whether it decays.  A piece belongs to one parameter, and one thread updates it alone; nothing is
summed across pieces, so the result does not depend on who takes which.
"""

import math

import numba
import numpy as np

from tinynet.checks import copy_into, positive_int, view_of
from tinynet.kernels.compile import chunk_count, sized_kernel
from tinynet.layers.guarded import Guarded
from tinynet.layers.parameter import Parameter, vector_of_zeros
from tinynet.training.schedules import constant, cosine, number_within, one_cycle, step_decay

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "constant", "cosine", "one_cycle", "step_decay"]

PIECE = 4096  # elements: some microseconds of work
HEAVY = 16 * PIECE  # elements from which threads pay: SGD's whole step takes 7 us here, and starting them 2 to 6 us


@sized_kernel(HEAVY)
def sgd_update(grads, velocity, pieces, numbers, nesterov, values):
    """grads, velocity, values (S,); numbers (lr, momentum, decay, scale): grads are multiplied by `scale` first."""
    real = values.dtype.type
    lr, momentum, decay, scale = real(numbers[0]), real(numbers[1]), real(numbers[2]), real(numbers[3])
    for p in numba.prange(len(pieces)):
        start, stop = pieces[p, 0], pieces[p, 1]
        w, g, v = values[start:stop], grads[start:stop], velocity[start:stop]
        l2 = decay if pieces[p, 2] else real(0)
        if momentum == 0:
            for i in range(w.size):
                w[i] -= lr * (scale * g[i] + l2 * w[i])
        else:
            for i in range(w.size):
                d = scale * g[i] + l2 * w[i]
                v[i] = momentum * v[i] + d
                w[i] -= lr * (d + momentum * v[i] if nesterov else v[i])


@sized_kernel(HEAVY)
def rmsprop_update(grads, square, velocity, pieces, numbers, values):
    """grads, square, velocity, values (S,); numbers (lr, alpha, eps, momentum, decay, scale)."""
    real = values.dtype.type
    lr, alpha, rest, eps = real(numbers[0]), real(numbers[1]), real(1 - numbers[1]), real(numbers[2])
    momentum, decay, scale, zero = real(numbers[3]), real(numbers[4]), real(numbers[5]), real(0)
    for p in numba.prange(len(pieces)):
        start, stop = pieces[p, 0], pieces[p, 1]
        w, g, s, v = values[start:stop], grads[start:stop], square[start:stop], velocity[start:stop]
        l2 = decay if pieces[p, 2] else real(0)
        for i in range(w.size):
            d = scale * g[i] + l2 * w[i]
            s[i] = alpha * s[i] + rest * d * d
            root = np.sqrt(s[i]) + eps
            v[i] = momentum * v[i] + (d / root if root != zero else zero)
            w[i] -= lr * v[i]


@sized_kernel(HEAVY)
def adam_update(grads, mean, square, pieces, numbers, values):
    """grads, mean, square, values (S,); numbers (rate, beta1, beta2, grow, eps, decay, shrink, scale).

    The divisions by 1 - beta^t are the same for every weight: rate = lr / (1 - beta1^t) holds the first, and
    grow = 1 / sqrt(1 - beta2^t) the second.  Adam has shrink = 0, and AdamW decay = 0 and shrink = lr decay.
    """
    real = values.dtype.type
    rate, beta1, rest1 = real(numbers[0]), real(numbers[1]), real(1 - numbers[1])
    beta2, rest2, grow, eps = real(numbers[2]), real(1 - numbers[2]), real(numbers[3]), real(numbers[4])
    decay, shrink, scale, zero = real(numbers[5]), real(numbers[6]), real(numbers[7]), real(0)
    for p in numba.prange(len(pieces)):
        start, stop = pieces[p, 0], pieces[p, 1]
        w, g, m, s = values[start:stop], grads[start:stop], mean[start:stop], square[start:stop]
        l2 = decay if pieces[p, 2] else real(0)
        keep = real(1) - shrink if pieces[p, 2] else real(1)
        for i in range(w.size):
            d = scale * g[i] + l2 * w[i]
            m[i] = beta1 * m[i] + rest1 * d
            s[i] = beta2 * s[i] + rest2 * d * d
            root = np.sqrt(s[i]) * grow + eps
            w[i] = keep * w[i] - (rate * m[i] / root if root != zero else zero)


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


RANGES = {  # what a setting may be: from the least, to just below the most
    "lr": (0, math.inf),
    "momentum": (0, 1),
    "alpha": (0, 1),
    "beta1": (0, 1),
    "beta2": (0, 1),
    "eps": (0, math.inf),
    "weight_decay": (0, math.inf),
    "clip_norm": (0, math.inf),
}


class Optimizer(Guarded):
    """What all optimizers share.  A subclass gives its settings to __init__, names its vectors, and has _update.

    steps  how many there were so far

    Settings, steps and vectors may be set at any time, and are checked as at the start; a vector is copied into.
    """

    vectors = ()  # the names of what it remembers, each shaped like model.flat_values

    def __init__(self, model, **settings):
        for needed in ("flat_values", "flat_grads", "parameters"):
            if not hasattr(model, needed):
                raise TypeError(
                    f"{type(self).__name__} takes a model such as tinynet.Sequential, got {type(model).__name__}"
                )
        if model.flat_values.size == 0:
            raise ValueError(f"{type(self).__name__}: the model has no parameters to train")
        values, grads = _flat(model)
        alike = values.shape == grads.shape == (values.size,) and values.dtype == grads.dtype
        if not alike or not (values.flags.carray and grads.flags.carray):
            raise ValueError(
                f"{type(self).__name__}: flat_values and flat_grads must be vectors alike, got {values.dtype}"
                f" {values.shape} and {grads.dtype} {grads.shape}"
            )
        self.model = model
        vars(self).update(self._checked(settings), _settings=tuple(settings))
        self.steps = 0
        self._vectors = {name: vector_of_zeros(values.size, values.dtype) for name in self.vectors}
        self._flat = _flat(model)
        self._pieces, self._pieces_of = _pieces(model), Parameter.changes
        self._sums = np.empty(chunk_count(model.flat_values.size, PIECE))

    def __setattr__(self, name, value):
        if name in self.vectors:
            copy_into(self._vectors[name], value, f"{type(self).__name__}: {name}")
        elif name == "steps":
            vars(self)[name] = positive_int(value, f"{type(self).__name__}: steps", 0)
        elif name in vars(self).get("_settings", ()):
            vars(self)[name] = self._checked({name: value})[name]
        else:
            super().__setattr__(name, value)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_flat"}

    def __setstate__(self, state):  # a copy's model has vectors of its own, perhaps not yet
        vars(self).update(state, _flat=None, _pieces_of=None)

    def __getattr__(self, name):  # asked for what is no attribute
        if name in type(self).vectors and "_vectors" in vars(self):
            return view_of(self._vectors[name])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def step(self):
        """Change model.flat_values, once, by what model.flat_grads says."""
        if self._pieces_of != Parameter.changes:  # some parameter's decay was set, or this is a copy
            self._flat, self._pieces, self._pieces_of = _flat(self.model), _pieces(self.model), Parameter.changes
        scale = 1.0 if self.clip_norm is None else self._clipping()
        vars(self)["steps"] += 1
        self._update(scale)

    def _clipping(self):
        """What to multiply the gradient by, so that its norm is at most clip_norm."""
        grads = self._flat[1]
        sums_of_squares(grads, self._sums)
        size, norm = 1.0, math.sqrt(sum(self._sums.tolist()))  # the gradient's norm is size * norm
        if not 1e-150 < norm < math.inf:  # squares left the range of float64, where the numbers need not have
            size, norm = float(np.abs(grads).max()), 1.0
            if 0 < size < math.inf:
                norm = float(np.linalg.norm(grads / size))
        most = self.clip_norm / size if size else math.inf
        return most / norm if norm > most else 1.0

    def state_dict(self):
        """All that a later run needs to go on from here: settings, the count of steps, copies of the vectors."""
        vectors = {name: vector.copy() for name, vector in self._vectors.items()}
        settings = {name: getattr(self, name) for name in self._settings}
        return {"optimizer": type(self).__name__, "steps": self.steps, **settings, **vectors}

    def load_state_dict(self, state):
        """Go on from a state_dict() of the same optimizer on a model of the same size.

        Everything is checked before anything changes: a ValueError or TypeError leaves the optimizer as it was.
        """
        name = type(self).__name__
        if not isinstance(state, dict):
            raise TypeError(f"{name}: load_state_dict takes what state_dict() returned, got {type(state).__name__}")
        if state.get("optimizer") != name:
            raise ValueError(f"{name}: the state is that of {state.get('optimizer')!r}")
        expected = {"optimizer", "steps", *self._settings, *self.vectors}
        if set(state) != expected:
            wrong = ", ".join(sorted(map(str, set(state) ^ expected)))
            raise ValueError(f"{name}: the state lacks, or has too many, of these entries: {wrong}")
        settings = self._checked({key: state[key] for key in self._settings})
        steps = state["steps"]
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
            raise ValueError(f"{name}: the state's count of steps must be a whole number >= 0, got {steps!r}")
        for key, mine in self._vectors.items():
            other = np.asarray(state[key])
            if other.shape != mine.shape or other.dtype != mine.dtype:
                raise ValueError(
                    f"{name}: the state's {key} is {other.dtype} of shape {other.shape}; "
                    f"the model has {mine.dtype} of shape {mine.shape}"
                )
        vars(self).update(settings)
        self.steps = steps
        for key, mine in self._vectors.items():
            mine[...] = state[key]

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._settings)})"

    def _checked(self, settings):
        """The settings as Python numbers; TypeError or ValueError for what is not in its range."""
        result = {}
        for name, value in settings.items():
            what = f"{type(self).__name__}: {name}"
            if name == "nesterov":
                if not isinstance(value, (bool, np.bool_)):
                    raise TypeError(f"{what} must be True or False, got {value!r}")
                result[name] = bool(value)
            elif name == "clip_norm" and value is None:
                result[name] = None
            else:
                result[name] = number_within(value, what, *RANGES[name])
        if result.get("clip_norm") == 0:
            raise ValueError(f"{type(self).__name__}: clip_norm must be above 0, or None for no clipping")
        nesterov, momentum = (result.get(name, vars(self).get(name)) for name in ("nesterov", "momentum"))
        if nesterov and momentum == 0:
            raise ValueError(f"{type(self).__name__}: nesterov=True needs a momentum above 0")
        return result


class SGD(Optimizer):
    """Stochastic gradient descent; momentum after Polyak (1964), or Nesterov (1983, as in Sutskever et al. 2013).

    model         a Sequential, whose parameters each step() changes
    lr            the learning rate; may be set at any time
    momentum      in [0, 1): how much of the last step is kept; nesterov=True looks ahead along it
    weight_decay  adds weight_decay w to the gradient, except for biases, and whatever else has Parameter.decay = False
    clip_norm     the most that the norm of the whole gradient may be; it is scaled down to that

    Raises ValueError or TypeError for settings out of their range.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 2
    >>> tn.SGD(model, lr=0.1).step()
    >>> model.flat_values.round(4)
    array([0.8, 0.8], dtype=float32)
    """

    vectors = ("velocity",)

    def __init__(self, model, lr, momentum=0.0, nesterov=False, weight_decay=0.0, *, clip_norm=None):
        super().__init__(
            model, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, clip_norm=clip_norm
        )

    def _update(self, scale):
        numbers = self.lr, self.momentum, self.weight_decay, scale
        values, grads = self._flat
        sgd_update(grads, self._vectors["velocity"], self._pieces, numbers, self.nesterov, values)


class RMSprop(Optimizer):
    """Each weight's step is divided by the root of its recent mean square gradient (Tieleman and Hinton 2012).

    alpha         in [0, 1): how much of that mean is kept in each step
    eps           is added to the root
    momentum      works on the divided steps, as in PyTorch

    lr, weight_decay, clip_norm, and what is raised, are as in SGD.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 2
    >>> tn.RMSprop(model, lr=0.01).step()  # by 0.01 * 2 / sqrt(0.01 * 2^2)
    >>> model.flat_values.round(4)
    array([0.9, 0.9], dtype=float32)
    """

    vectors = ("square", "velocity")

    def __init__(self, model, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0, *, clip_norm=None):
        super().__init__(
            model, lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay, clip_norm=clip_norm
        )

    def _update(self, scale):
        numbers = self.lr, self.alpha, self.eps, self.momentum, self.weight_decay, scale
        values, grads = self._flat
        rmsprop_update(grads, *self._vectors.values(), self._pieces, numbers, values)


class Adam(Optimizer):
    """Each weight's step is the mean of its recent gradients, divided by the root of their mean square.

    betas         two numbers in [0, 1): how much of the two means is kept in each step
    eps           is added to the root

    lr, weight_decay, clip_norm, and what is raised, are as in SGD.  (Kingma and Ba 2015, algorithm 1.)

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 2, -300
    >>> tn.Adam(model, lr=0.1).step()  # the first step is lr, whatever the gradient's size
    >>> model.flat_values.round(4)
    array([0.9, 1.1], dtype=float32)
    """

    vectors = ("mean", "square")
    decoupled = False

    def __init__(self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, *, clip_norm=None):
        beta1, beta2 = _pair(betas, self)
        super().__init__(
            model, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, clip_norm=clip_norm
        )

    @property
    def betas(self):
        """The pair (beta1, beta2); may be set at any time."""
        return self.beta1, self.beta2

    @betas.setter
    def betas(self, betas):
        vars(self).update(self._checked(dict(zip(("beta1", "beta2"), _pair(betas, self), strict=True))))

    def _update(self, scale):
        rate = self.lr / (1 - self.beta1**self.steps)
        grow = 1 / math.sqrt(1 - self.beta2**self.steps)
        decay, shrink = (0.0, self.lr * self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
        numbers = rate, self.beta1, self.beta2, grow, self.eps, decay, shrink, scale
        values, grads = self._flat
        adam_update(grads, *self._vectors.values(), self._pieces, numbers, values)


class AdamW(Adam):
    """Adam with decoupled weight decay: weights shrink by lr weight_decay w (Loshchilov and Hutter 2019, algorithm 2).

    All settings, and what is raised, are as in Adam; biases and whatever else has Parameter.decay = False stay.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 0
    >>> tn.AdamW(model, lr=0.1, weight_decay=0.5).step()
    >>> model.flat_values.round(4)
    array([0.95, 1.  ], dtype=float32)
    """

    decoupled = True

    def __init__(self, model, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, *, clip_norm=None):
        super().__init__(model, lr, betas, eps, weight_decay, clip_norm=clip_norm)


def _pair(betas, optimizer):
    try:
        beta1, beta2 = betas
    except (TypeError, ValueError):
        raise ValueError(f"{type(optimizer).__name__}: betas must be a pair of numbers, got {betas!r}") from None
    return beta1, beta2


def _flat(model):
    """The model's two vectors themselves, of which flat_values and flat_grads are views."""
    try:
        return model._flat_values, model._flat_grads
    except AttributeError:  # no Sequential
        return model.flat_values, model.flat_grads


def _pieces(model):
    """The model's flat vector as rows (start, stop, whether it decays): int64 (P, 3)."""
    values, grads = _flat(model)
    rows = []
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
        rows += [(s, min(s + PIECE, stop), parameter.decay) for s in range(start, stop, PIECE)]
    return np.array(rows, np.int64)
