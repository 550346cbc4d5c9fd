"""Parallel: branches side by side, over one x or over an input each.

    y = [f1(x), f2(x), ..., fk(x)]        x (N, ...)
    y = [f1(x1), f2(x2), ..., fk(xk)]     as the first layer of a model that takes several inputs: xi (N, ...)

    fi: layers in a row, fi(x) (N, ..., Ci), beside each other along the last axis: y (N, ..., C1 + ... + Ck).

Backward.  Which y did a branch's output touch?  Those of its own columns, times 1, so it is given these columns of dy,
and makes dfi of them, its share of the gradient (blocks.py).  Which branches did an input touch?

    one x          all of them:     dx = df1 + ... + dfk
    an input each  xi only fi:      dx1 = df1, ..., dxk = dfk

So a network of two inputs, an image and what else is known of it, needs no more than this: until the branches' outputs
lie side by side, nothing of one has to do with the other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet.layers.along_time import padded
from tinynet.layers.base import Layer
from tinynet.layers.blocks import Beside
from tinynet.layers.in_a_row import backward_in_a_row, forward_in_a_row
from tinynet.layers.inputs import Entry, about, checked_inputs, takes_several


class Parallel(Beside):
    """y = [f1(x), f2(x), ...] along the last axis.  branches: a list of lists of layers, each list over the same x.

    [] is a branch too, x itself.  The layers are numbered through from the first branch to the last.  Words seen
    through windows of several widths (Kim 2014, section 2):

        Embedding(vocabulary, 64), Reshape((words, 1, 64)),
        Parallel([[Conv2D(100, (width, 1), activation="relu"), GlobalMaxPool2D()] for width in (3, 4, 5)])

    Several inputs.  In a model whose input_shape is a tuple of shapes, one for each branch, a Parallel comes first, and
    each branch has an input of its own: x is a tuple (x1, x2, ...) then, and so is dx, with None for one of whole
    numbers.  Categories beside floats:

        Sequential([Parallel([[Embedding(50, 4), Flatten()], []]), Dense(3)], input_shape=((2,), (8,)))

    Raises ValueError when it is built where the branches' outputs differ in more than their last axis, or are not as
    many as the inputs.

    >>> model = tn.Sequential([tn.Parallel([[tn.MaxPool2D(2)], [tn.AvgPool2D(2)]])], input_shape=(2, 2, 1))
    >>> model.forward(np.arange(4).reshape(1, 2, 2, 1))
    array([[[[3. , 1.5]]]], dtype=float32)
    >>> model = tn.Sequential([tn.Parallel([[tn.Flatten()], []])], input_shape=((2, 1, 1), (1,)))
    >>> model.forward(([[[[5]], [[6]]]], [[7]]))
    array([[5., 6., 7.]], dtype=float32)
    """

    _lengths = None  # of several inputs, what the last forward(x, training=True) cut: (lengths, T) or None for each

    def __init__(self, branches: Sequence[Sequence[Layer]]) -> None:
        if isinstance(branches, Layer) or not isinstance(branches, (list, tuple)):
            raise TypeError(f"Parallel: branches must be a list of lists of layers, got {branches!r}")
        for index, branch in enumerate(branches):
            if not isinstance(branch, (list, tuple)):
                raise TypeError(f"Parallel: branch {index} must be a list of layers, got {branch!r}")
        super().__init__([list(branch) for branch in branches])

    @property
    def entries(self):
        if not takes_several(self.input_shape):
            return super().entries
        inputs = enumerate(zip(self.input_shape, self.branches, strict=True))
        return tuple(Entry(f"{self.label}: input {number}", *of_input) for number, of_input in inputs)

    @property
    def takes_integers(self):
        return (
            all(e.takes_integers for e in self.entries) if takes_several(self.input_shape) else super().takes_integers
        )

    def checked_parts(self, shape):
        if len(shape) != len(self.branches) or any(
            isinstance(n, (tuple, list)) for part in shape for n in _sizes(part)
        ):
            raise ValueError(
                f"{self.label}: its {len(self.branches)} branches take as many inputs, each of a shape such as (28, 28,"
                f" 1), got {tuple(shape)}"
            )
        return shape

    def forward(self, x: Any, training: bool = False, lengths=None, state=None) -> np.ndarray:
        if not takes_several(self.input_shape):
            return super().forward(x, training, lengths, state)
        values, cut, shapes, entries = [], [], [], self.entries
        for entry, xi in zip(entries, checked_inputs(x, entries, self.dtype, self.label), strict=True):
            xi, ends = xi if type(xi) is tuple else (xi, None)
            shapes.append(xi.shape)
            cut.append(None if ends is None else (ends, xi.shape[1]))
            xi = xi if ends is None else padded(xi, ends, max(1, ends.max(initial=0)))
            with about(entry.label):
                values.append(forward_in_a_row(entry.layers, xi, training, ends))
        if training:
            self._lengths = cut
        return self._side_by_side(values, tuple(shapes), training)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> Any:
        if not takes_several(self.input_shape):
            return super().backward(dy, input_grad)
        self.check_input_grad(input_grad)
        dy, dx = self.checked_gradient(dy, *self.kept("_shape")[:2]), []
        for number, (entry, cut) in enumerate(zip(self.entries, self._lengths, strict=True)):
            wanted = input_grad and not entry.takes_integers
            share = backward_in_a_row(entry.layers, self._share(dy, number), wanted)
            dx.append(padded(share, *cut) if wanted and cut else share)
        return tuple(dx) if input_grad else None

    def _of_branches(self, x):
        return x if takes_several(self.input_shape) else super()._of_branches(x)

    def formula(self):
        several = takes_several(self.input_shape)
        names = [(name, f"x{number}" if several else "x") for number, name in enumerate(self._names())]
        return f"y = [{', '.join(x if name == 'x' else f'{name} of {x}' for name, x in names)}]"

    def backward_formula(self):
        if takes_several(self.input_shape):
            return "dxi = what branch i makes of its columns of dy"
        return "dx = sum of what the branches make of their columns of dy"


def _sizes(shape):
    return shape if isinstance(shape, (tuple, list)) else (shape,)
