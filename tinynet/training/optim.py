"""Optimizers: from the gradient g = dL/dw to a change of the weights w.

    SGD       v <- momentum v + g                    w <- w - lr v        with Nesterov: w <- w - lr (g + momentum v)
              v <- momentum v + (1 - dampening) g    where that is not 0, from the second step on
    Adagrad   s <- s + g^2                           w <- w - lr g / (sqrt(s) + eps)
    RMSprop   s <- alpha s + (1 - alpha) g^2         w <- w - lr g / (sqrt(s) + eps)
              centered: s is the variance of the gradient, its mean square less the square of its mean m, see below
    Adam      m <- beta1 m + (1 - beta1) g           a running mean of the gradient ...
              s <- beta2 s + (1 - beta2) g^2         ... and of its square; both start at 0, so after t steps they
                                                     are too small by 1 - beta^t: divide that out
              w <- w - lr m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps)
              AMSGrad: the highest s so far in place of s, so that a weight's rate never grows again
    AdamW     the same, with the weights shrunk directly:  w <- (1 - lr decay) w  first

Where all gradients so far were 0, and eps is 0, the quotient 0 / 0 counts as 0.

The variance.  With q the running mean of g^2 and m that of g, q - m^2 could fall below 0 by rounding, and has no root
then.  But put both new means into it, and of the old ones only their own variance s = q - m^2 is left:

    alpha q + (1 - alpha) g^2 - (alpha m + (1 - alpha) g)^2 = alpha (s + (1 - alpha) (g - m)^2)

So s itself is kept, which is a sum of squares.

Weight decay adds decay w to g, the gradient of decay/2 |w|^2 (in AdamW it goes past the division by sqrt(s)).
Parameters whose `decay` is False, which are biases and the scales and shifts of normalisation layers, are left out.
With maximize=True the weights climb: g is -dL/dw.

The loops below are these formulas, for one piece of the model's flat vector after the other: optimizer.py says what a
piece is.  In each, g is the gradient with the decay added, and `scale` what clipping multiplies it by.  On x86, numbers
below the smallest normal one, such as squares below 1e-38, count as 0 meanwhile: kernels/denormals.py says why.

Sources: momentum, Polyak 1964, and Nesterov 1983, as in Sutskever et al. 2013; Adagrad, Duchi et al. 2011; RMSprop,
Tieleman and Hinton 2012, lecture 6.5, centered in Graves 2013; Adam, Kingma and Ba 2015, algorithm 1; AMSGrad, Reddi et
al. 2018; AdamW, Loshchilov and Hutter 2019, algorithm 2.
"""

import math
from typing import Any

import numba
import numpy as np

from tinynet.kernels.aligned import fetch_to_write
from tinynet.kernels.compile import sized_kernel
from tinynet.kernels.denormals import flush_denormals, restore_denormals
from tinynet.training.optimizer import HEAVY, Optimizer
from tinynet.training.schedules import constant, cosine, exponential, one_cycle, polynomial, sequence, step_decay

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "constant",
    "cosine",
    "exponential",
    "one_cycle",
    "polynomial",
    "sequence",
    "step_decay",
]


@sized_kernel(HEAVY)
def sgd_update(grads, velocity, pieces, factors, numbers, values):
    """grads, velocity, values (S,); pieces (P, 3); factors (P,); numbers (lr, momentum, nesterov, rest, decay, scale).

    rest is 1 - dampening, and 1 in the first step.
    """
    real, nesterov = values.dtype.type, numbers[2]
    momentum, rest, decay, scale = real(numbers[1]), real(numbers[3]), real(numbers[4]), real(numbers[5])
    for p in numba.prange(len(pieces)):
        start, stop, before = pieces[p, 0], pieces[p, 1], flush_denormals()
        fetch_to_write(values, start, stop)  # the other rules divide, which takes longer than memory
        w, dw, v = values[start:stop], grads[start:stop], velocity[start:stop]
        l2, lr = decay if pieces[p, 2] else real(0), real(numbers[0] * factors[p])
        if momentum == 0:
            for i in range(w.size):
                w[i] -= lr * (scale * dw[i] + l2 * w[i])
        else:
            for i in range(w.size):
                g = scale * dw[i] + l2 * w[i]
                v[i] = momentum * v[i] + rest * g
                w[i] -= lr * (g + momentum * v[i] if nesterov else v[i])
        restore_denormals(before)


@sized_kernel(HEAVY)
def adagrad_update(grads, square, pieces, factors, numbers, values):
    """As in sgd_update; square (S,); numbers (lr, eps, decay, scale)."""
    real = values.dtype.type
    eps, decay, scale, zero = real(numbers[1]), real(numbers[2]), real(numbers[3]), real(0)
    for p in numba.prange(len(pieces)):
        start, stop, before = pieces[p, 0], pieces[p, 1], flush_denormals()
        w, dw, s = values[start:stop], grads[start:stop], square[start:stop]
        l2, lr = decay if pieces[p, 2] else zero, real(numbers[0] * factors[p])
        for i in range(w.size):
            g = scale * dw[i] + l2 * w[i]
            s[i] += g * g
            root = np.sqrt(s[i]) + eps
            w[i] -= lr * g / root if root != zero else zero
        restore_denormals(before)


@sized_kernel(HEAVY)
def rmsprop_update(grads, square, velocity, mean, pieces, factors, numbers, values):
    """As in sgd_update; square, velocity, mean (S,); numbers (lr, alpha, eps, momentum, decay, scale).

    mean is empty unless square is to be the variance.
    """
    real = values.dtype.type
    alpha, rest, eps = real(numbers[1]), real(1 - numbers[1]), real(numbers[2])
    momentum, decay, scale, zero = real(numbers[3]), real(numbers[4]), real(numbers[5]), real(0)
    for p in numba.prange(len(pieces)):
        start, stop, before = pieces[p, 0], pieces[p, 1], flush_denormals()
        w, dw, s, v = values[start:stop], grads[start:stop], square[start:stop], velocity[start:stop]
        m = mean[start:stop]
        l2, lr = decay if pieces[p, 2] else zero, real(numbers[0] * factors[p])
        for i in range(w.size):
            g = scale * dw[i] + l2 * w[i]
            if mean.size:
                d = g - m[i]
                s[i] = alpha * (s[i] + rest * d * d)
                m[i] = alpha * m[i] + rest * g
            else:
                s[i] = alpha * s[i] + rest * g * g
            root = np.sqrt(s[i]) + eps
            v[i] = momentum * v[i] + (g / root if root != zero else zero)
            w[i] -= lr * v[i]
        restore_denormals(before)


@sized_kernel(HEAVY)
def adam_update(grads, mean, square, highest, pieces, factors, numbers, values):
    """As in sgd_update; mean, square, highest (S,); numbers (rate, beta1, beta2, grow, eps, decay, shrink, scale).

    highest is empty unless it is to stand in for square.  The divisions by 1 - beta^t are the same for every weight:
    rate = lr / (1 - beta1^t) holds the first, and grow = 1 / sqrt(1 - beta2^t) the second.  Adam has shrink = 0, and
    AdamW decay = 0 and shrink = lr decay.
    """
    real = values.dtype.type
    beta1, rest1 = real(numbers[1]), real(1 - numbers[1])
    beta2, rest2, grow, eps = real(numbers[2]), real(1 - numbers[2]), real(numbers[3]), real(numbers[4])
    decay, scale, zero = real(numbers[5]), real(numbers[7]), real(0)
    for p in numba.prange(len(pieces)):
        start, stop, before = pieces[p, 0], pieces[p, 1], flush_denormals()
        w, dw, m, s = values[start:stop], grads[start:stop], mean[start:stop], square[start:stop]
        h = highest[start:stop]
        l2, rate = decay if pieces[p, 2] else zero, real(numbers[0] * factors[p])
        keep = real(1) - real(numbers[6] * factors[p]) if pieces[p, 2] else real(1)
        for i in range(w.size):
            g = scale * dw[i] + l2 * w[i]
            m[i] = beta1 * m[i] + rest1 * g
            s[i] = beta2 * s[i] + rest2 * g * g
            top = s[i]
            if highest.size:
                top = h[i] = h[i] if h[i] >= top else top
            root = np.sqrt(top) * grow + eps
            w[i] = keep * w[i] - (rate * m[i] / root if root != zero else zero)
        restore_denormals(before)


class SGD(Optimizer):
    """Stochastic gradient descent; with momentum, or Nesterov's, which looks ahead along it.

    model         a Sequential, whose parameters each step() changes
    lr            the learning rate; may be set at any time
    momentum      in [0, 1): how much of the last step is kept; nesterov=True looks ahead along it
    weight_decay  adds weight_decay w to the gradient, except for biases, and whatever else has Parameter.decay = False
    dampening     in [0, 1): how much of each gradient but the first is left out of the momentum; not with nesterov
    clip_norm     the most that the norm of the whole gradient may be; it is scaled down to that
    maximize      True to climb, against the gradient's sign

    Raises ValueError or TypeError for settings out of their range.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 2
    >>> tn.SGD(model, lr=0.1).step()
    >>> model.flat_values.round(4)
    array([0.8, 0.8], dtype=float32)
    """

    vectors = ("velocity",)
    _kernel = sgd_update

    momentum: float
    nesterov: bool
    dampening: float

    def __init__(
        self,
        model: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        dampening: float = 0.0,
        clip_norm: float | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            model, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, dampening=dampening,
            clip_norm=clip_norm, maximize=maximize,
        )  # fmt: skip

    def _numbers(self, scale):
        rest = 1.0 - self.dampening if self.steps > 1 else 1.0
        return self.lr, self.momentum, self.nesterov, rest, self.weight_decay, scale


class Adagrad(Optimizer):
    """Each weight's step is divided by the root of the sum of all its squared gradients: what is rare keeps its rate.

    So rates only fall, at a weight that has gradients often the fastest: for the words of a text, say.

    eps           is added to the root

    lr, weight_decay, clip_norm, maximize, and what is raised, are as in SGD.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 2, -300
    >>> tn.Adagrad(model, lr=0.1).step()  # the first step is lr, whatever the gradient's size
    >>> model.flat_values.round(4)
    array([0.9, 1.1], dtype=float32)
    """

    vectors = ("square",)
    _kernel = adagrad_update

    eps: float

    def __init__(
        self,
        model: Any,
        lr: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(model, lr=lr, eps=eps, weight_decay=weight_decay, clip_norm=clip_norm, maximize=maximize)

    def _numbers(self, scale):
        return self.lr, self.eps, self.weight_decay, scale


class RMSprop(Optimizer):
    """Each weight's step is divided by the root of its recent mean square gradient.

    alpha         in [0, 1): how much of that mean is kept in each step
    eps           is added to the root
    momentum      works on the divided steps, as in PyTorch
    centered      True to divide by the root of the gradient's variance

    lr, weight_decay, clip_norm, maximize, and what is raised, are as in SGD.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 2
    >>> tn.RMSprop(model, lr=0.01).step()  # by 0.01 * 2 / sqrt(0.01 * 2^2)
    >>> model.flat_values.round(4)
    array([0.9, 0.9], dtype=float32)
    """

    vectors = ("square", "velocity", "mean")
    optional = {"mean": "centered"}  # noqa: RUF012
    _kernel = rmsprop_update

    alpha: float
    eps: float
    momentum: float
    centered: bool

    def __init__(
        self,
        model: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        centered: bool = False,
        clip_norm: float | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            model, lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay, centered=centered,
            clip_norm=clip_norm, maximize=maximize,
        )  # fmt: skip

    def _numbers(self, scale):
        return self.lr, self.alpha, self.eps, self.momentum, self.weight_decay, scale


class Adam(Optimizer):
    """Each weight's step is the mean of its recent gradients, divided by the root of their mean square.

    betas         two numbers in [0, 1): how much of the two means is kept in each step
    eps           is added to the root
    amsgrad       True to divide by the root of the highest mean square so far

    lr, weight_decay, clip_norm, maximize, and what is raised, are as in SGD.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 2, -300
    >>> tn.Adam(model, lr=0.1).step()  # the first step is lr, whatever the gradient's size
    >>> model.flat_values.round(4)
    array([0.9, 1.1], dtype=float32)
    """

    vectors = ("mean", "square", "highest")
    optional = {"highest": "amsgrad"}  # noqa: RUF012
    _kernel = adam_update
    decoupled = False  # whether the decay shrinks the weights directly

    beta1: float
    beta2: float
    eps: float
    amsgrad: bool

    def __init__(
        self,
        model: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        clip_norm: float | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            model, lr=lr, **self._as_pair(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad,
            clip_norm=clip_norm, maximize=maximize,
        )  # fmt: skip

    @property
    def betas(self) -> tuple[float, float]:
        """The pair (beta1, beta2); may be set at any time."""
        return self.beta1, self.beta2

    @betas.setter
    def betas(self, betas):
        vars(self).update(self._checked(self._as_pair(betas)))

    def _as_pair(self, betas):
        try:
            beta1, beta2 = betas
        except (TypeError, ValueError):
            raise ValueError(f"{type(self).__name__}: betas must be a pair of numbers, got {betas!r}") from None
        return {"beta1": beta1, "beta2": beta2}

    def _numbers(self, scale):
        rate = self.lr / (1 - self.beta1**self.steps)
        grow = 1 / math.sqrt(1 - self.beta2**self.steps)
        decay, shrink = (0.0, self.lr * self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
        return rate, self.beta1, self.beta2, grow, self.eps, decay, shrink, scale


class AdamW(Adam):
    """Adam with decoupled weight decay: weights shrink by lr weight_decay w.

    All settings, and what is raised, are as in Adam; biases and whatever else has Parameter.decay = False stay.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=1)
    >>> model.flat_values[:] = 1  # w and b
    >>> model.flat_grads[:] = 0
    >>> tn.AdamW(model, lr=0.1, weight_decay=0.5).step()
    >>> model.flat_values.round(4)
    array([0.95, 1.  ], dtype=float32)
    """

    decoupled = True

    def __init__(
        self,
        model: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        amsgrad: bool = False,
        clip_norm: float | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(model, lr, betas, eps, weight_decay, amsgrad=amsgrad, clip_norm=clip_norm, maximize=maximize)
