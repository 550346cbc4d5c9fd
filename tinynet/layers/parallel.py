"""Parallel: branches side by side, over one x or over an input each.

    y = [f0(x), f1(x), ...]       over one x (N, ...)
    y = [f0(x0), f1(x1), ...]     over several inputs x0 (N, ...), x1 (N, ...), ...: as a model's first layer

    f0, f1, ...: layers in a row, f0(x) (N, ..., C0), beside each other along the last axis: y (N, ..., C0 + C1 + ...).

Backward.  Which y did a branch's output touch?  Those of its own columns, times 1.  So branch i is given these columns
of dy, and makes dfi of them, its share of the gradient (blocks.py).  Which branches did an input touch?

    one x             all of them:   dx = df0 + df1 + ...
    several inputs    xi only fi:    dx0 = df0, dx1 = df1, ...

So a network of two inputs, an image and what else is known of it, needs no more than this: until the branches' outputs
lie side by side, nothing of one has to do with the other.
"""

from __future__ import annotations

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

    Several inputs.  A model whose input_shape is a tuple of shapes begins with a Parallel, which has a branch for each:
    x is a tuple (x0, x1, ...) then, of arrays or pairs (x, lengths), and so is dx, with None for what is whole numbers.
    A branch whose input has lengths must end the axis of time.  Several outputs, of a Parallel at the end, are columns
    of y: examples/README.md has a loss of them.  Categories beside floats:

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

    _padding: Any = None  # of several inputs, of the last forward(x, training=True): (lengths, T), or None, for each

    def __init__(self, branches: Sequence[Sequence[Layer]]) -> None:
        if isinstance(branches, Layer) or not isinstance(branches, (list, tuple)):
            raise TypeError(f"Parallel: branches must be a list of lists of layers, got {branches!r}")
        for index, branch in enumerate(branches):
            if not isinstance(branch, (list, tuple)):
                raise TypeError(f"Parallel: branch {index} must be a list of layers, got {branch!r}")
        super().__init__([list(branch) for branch in branches])

    @property
    def several(self):
        """Whether each branch has an input of its own."""
        return takes_several(self.input_shape)

    def forward(self, x: Any, training: bool = False, lengths=None, state=None) -> np.ndarray:
        if not self.several:
            return super().forward(x, training, lengths, state)
        values, shapes, padding, entries = [], [], [], self.entries
        for entry, xi in zip(entries, checked_inputs(x, entries, self.dtype, self.label), strict=True):
            xi, ends = xi if type(xi) is tuple else (xi, None)
            shapes.append(xi.shape)
            padding.append(None if ends is None else (ends, xi.shape[1]))
            xi = xi if ends is None else padded(xi, ends, max(1, ends.max(initial=0)))
            with about(entry.label):
                values.append(forward_in_a_row(entry.layers, xi, training, ends))
        if training:
            self._padding = padding
        return self._side_by_side(values, tuple(shapes), training)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> Any:
        if not self.several:
            return super().backward(dy, input_grad)
        self.check_input_grad(input_grad)
        dy, dx = self.checked_gradient(dy, *self.kept("_shape")[:2]), []
        for number, (entry, padding) in enumerate(zip(self.entries, self._padding, strict=True)):
            wanted = input_grad and not entry.takes_integers
            share = backward_in_a_row(entry.layers, self._share(dy, number), wanted)
            dx.append(padded(share, *padding) if wanted and padding else share)
        return tuple(dx) if input_grad else None

    def formula(self):
        names = [(name, f"x{number}" if self.several else "x") for number, name in enumerate(self._names())]
        return f"y = [{', '.join(x if name == 'x' else f'{name} of {x}' for name, x in names)}]"

    def backward_formula(self):
        if self.several:
            return "dxi = what branch i makes of its columns of dy"
        return "dx = sum of what the branches make of their columns of dy"

    # What others ask of it.

    @property
    def entries(self):
        if not self.several:
            return super().entries
        inputs = enumerate(zip(self.input_shape, self.branches, strict=True))
        return tuple(Entry(f"{self.label}: input {number}", *of_input) for number, of_input in inputs)

    @property
    def takes_integers(self):
        return all(entry.takes_integers for entry in self.entries) if self.several else super().takes_integers

    def checked_parts(self, shape):
        sizes = [size for part in shape if isinstance(part, (tuple, list)) for size in part]
        if len(shape) != len(self.branches) or any(isinstance(size, (tuple, list)) for size in sizes):
            raise ValueError(
                f"{self.label}: its {len(self.branches)} branches take as many inputs, each of a shape such as (28, 28,"
                f" 1), got {tuple(shape)}"
            )
        return shape

    def output_lengths(self, lengths):
        return None if self.several else super().output_lengths(lengths)

    def of_branches(self, x):
        return x if self.several else super().of_branches(x)
