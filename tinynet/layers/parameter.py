"""Parameters and buffers: the arrays of a layer.  Whoever assigns to one copies into it.

A kernel is compiled for arrays of one dtype and layout and trusts their shapes.  So a layer's arrays never change
places: outside, one sees views of them, and what is assigned is checked and copied.

    p.value = w                      copies w into the parameter: the same shape, real numbers
    p.value[0] = 1                   writes into it, as through any view
    layer.buffers["mean"] = m        likewise
    p.value.shape = (2, 3)           gives another shape to that view, and to nothing else
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import copy_into, number_within, view_of


class Parameter:
    """A trained array and its gradient, dL/dvalue, of the same shape.

    value    a float32 or float64 array, of its layer's dtype
    decay    False where weight decay does not belong by default: biases, and the scales and shifts of normalisation
    trainable  False freezes it: no optimizer, decay or clipping touches it, and its gradient is 0
    lr_factor  multiplies the learning rate of this one: 0.1 for what was trained before, say
    grad     the array for the gradient, like value; a new one of zeros if it isn't given.  Both are kept, not copied: a
             model that is no Sequential gives views of its flat vectors

    `value` and `grad` are views into the model's flat vectors: write into them, or assign, which copies.  `name` is the
    layer's index in its model and the parameter's name there: "0.weight".  Raises TypeError and ValueError for what
    does not fit.

    >>> model = tn.Sequential([tn.Dense(3)], input_shape=2)
    >>> model.parameters()
    [Parameter('0.weight', shape=(2, 3), dtype=float32), Parameter('0.bias', shape=(3,), dtype=float32)]
    >>> model.parameters()[0].value = [[1, 2, 3], [4, 5, 6]]
    >>> model.flat_values
    array([1., 2., 3., 4., 5., 6., 0., 0., 0.], dtype=float32)
    """

    __slots__ = ("_name", "_value", "_grad", "_decay", "_trainable", "_lr_factor", "_in_model")

    changes = 0  # how often some parameter's decay, trainable or lr_factor was set, so that optimizers notice

    def __init__(self, name: str, value: np.ndarray, decay: bool = True, grad: np.ndarray | None = None) -> None:
        if getattr(self, "_in_model", False):
            raise TypeError(f"Parameter {self._name!r}: it is part of a model; make a new one")
        if not isinstance(name, str) or not name:
            raise TypeError(f"Parameter: the name must be a text, got {name!r}")
        for what, array in (("value", value), ("gradient", value if grad is None else grad)):
            if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
                given = f"one of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
                raise TypeError(f"Parameter {name!r}: the {what} must be an array of float32 or float64, got {given}")
        self._name, self._decay, self._in_model = name, _flag(decay, f"Parameter {name!r}: decay"), False
        self._trainable, self._lr_factor = True, 1.0
        self._value = _plain(value)
        self._grad = np.zeros_like(self._value) if grad is None else _plain(grad)
        if (self._grad.shape, self._grad.dtype) != (self._value.shape, self._value.dtype):
            raise ValueError(
                f"Parameter {name!r}: the value is {self._value.dtype} of shape {self._value.shape}, and the gradient"
                f" {self._grad.dtype} of shape {self._grad.shape}"
            )

    @property
    def name(self) -> str:
        """Its name, unique in its layer, and in its model once it is part of one."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if self._in_model:
            raise TypeError(f"Parameter {self._name!r}: it is part of a model, whose files know it by that name")
        if not isinstance(name, str) or not name:
            raise TypeError(f"Parameter {self._name!r}: the name must be a text, got {name!r}")
        self._name = name

    @property
    def value(self) -> np.ndarray:
        """The array, as a view.  Assigning copies into it."""
        return view_of(self._value)

    @value.setter
    def value(self, given: ArrayLike) -> None:
        copy_into(self._value, given, f"Parameter {self._name!r}: the value")

    @property
    def grad(self) -> np.ndarray:
        """dL/dvalue, as a view.  Assigning copies into it."""
        return view_of(self._grad)

    @grad.setter
    def grad(self, given: ArrayLike) -> None:
        copy_into(self._grad, given, f"Parameter {self._name!r}: the gradient")

    @property
    def decay(self) -> bool:
        """Whether an optimizer's weight_decay is for this one, too."""
        return self._decay

    @decay.setter
    def decay(self, decay: bool) -> None:
        self._decay = _flag(decay, f"Parameter {self._name!r}: decay")
        Parameter.changes += 1

    @property
    def trainable(self) -> bool:
        """Whether it is trained; where it is not, it is frozen: backward leaves out what only its gradient needs."""
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self._trainable = _flag(trainable, f"Parameter {self._name!r}: trainable")
        if not self._trainable:
            self._grad[...] = 0
        Parameter.changes += 1

    @property
    def lr_factor(self) -> float:
        """What the optimizer's learning rate is multiplied by for this one, a number of at least 0."""
        return self._lr_factor

    @lr_factor.setter
    def lr_factor(self, factor: float) -> None:
        self._lr_factor = number_within(factor, f"Parameter {self._name!r}: lr_factor")
        Parameter.changes += 1

    def __getstate__(self):
        return self._name, self._value, self._grad, self._decay, self._trainable, self._lr_factor

    def __setstate__(self, state):
        self._name, self._value, self._grad, self._decay, self._trainable, self._lr_factor = state
        self._in_model = False  # until the copy of its model joins it

    def __repr__(self):
        return f"Parameter({self._name!r}, shape={self._value.shape}, dtype={self._value.dtype})"


def _plain(array):
    """The same memory where it can be used as it is, under a shape that no one else can set."""
    return np.require(array, requirements=("C_CONTIGUOUS", "ALIGNED", "WRITEABLE", "ENSUREARRAY")).view()


def _flag(flag, what):
    if not isinstance(flag, (bool, np.bool_)):
        raise TypeError(f"{what} must be True or False, got {flag!r}")
    return bool(flag)


class Buffers(Mapping):
    """Arrays by name, that a layer or a model keeps beside its parameters.  Views; assigning copies into the array.

    owner   whose they are, for messages: "BatchNorm (layer 1)"
    """

    def __init__(self, arrays, owner):
        self._arrays, self._owner = dict(arrays), owner

    def __getitem__(self, name):
        return view_of(self._arrays[name])

    def __setitem__(self, name, given):
        if name not in self._arrays:
            there = ", ".join(self._arrays) or "none"
            raise ValueError(f"{self._owner}: it has no buffer {name!r} to assign to; there are {there}")
        copy_into(self._arrays[name], given, f"{self._owner}: the buffer {name!r}")

    def update(self, *given, **named):
        """Assign to several, as a dict's update does."""
        for name, array in dict(*given, **named).items():
            self[name] = array

    def copy(self):
        """A dict of copies."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def __or__(self, other):
        return {**self, **other}

    def __ror__(self, other):
        return {**other, **self}

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self):
        return len(self._arrays)

    def __repr__(self):
        return repr(self._arrays)
