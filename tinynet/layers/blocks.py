"""Residual, Concat and Parallel: layers side by side, over one x.

    Residual    y = x + f(x)                     f: layers in a row, whose output has x's shape
                y = s(x) + f(x)                  with layers s on the shortcut, where the shapes differ
    Concat      y = [x, f(x)]                    beside each other, along the last axis
    Parallel    y = [f1(x), f2(x), ..., fk(x)]   the same, of any number of branches

    x (N, ...), y (N, ...).  Beside each other: fi(x) (N, ..., Ci), y (N, ..., C1 + ... + Ck), all other axes alike.

Backward.  Ask first which y a branch's output touched, then which branches x touched.

    a sum      fi(x)[n,c] touched y[n,c], times 1:   every branch is given dy, whole
    beside     fi(x)[n,c] touched one y, times 1:    every branch is given the part of dy in its own columns

A branch turns what it is given into its share of dx as a model does, from its last layer to its first (in_a_row.py).  x
went into every branch, so its gradient is the sum of their shares; the share of x itself, a branch of no layers, is
just what it was given:

    Residual    dx = dy + df        df, ds: what f's and s's layers make of dy
                dx = ds + df
    Concat      dx = dy[x's columns] + df        df: what f's layers make of dy[f's columns]
    Parallel    dx = df1 + ... + dfk

That dy in Residual's sum is why deep stacks of them train: whatever f does to its share, dy reaches x undiminished.

Parallel is in parallel.py, for its branches may have an input each.

Sources: Residual, He et al. 2016, equations 1 and 2; Concat, Huang et al. 2017 (DenseNet), equation 2; branches of
several widths over one input, Kim 2014 (over words), Szegedy et al. 2015 (Inception).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels.columns import add_to, added, copy_columns
from tinynet.layers.base import Layer
from tinynet.layers.in_a_row import (
    backward_in_a_row,
    build_in_a_row,
    checked_layers,
    ending_in_a_row,
    forward_in_a_row,
    leave_unbuilt,
)
from tinynet.layers.options import copies, in_place_of_models


class _Branches(Layer):
    """What the three share.  `branches` are lists of layers, [] for x itself; a subclass joins what they return.

    In training it keeps the output's shape; all else is kept by the layers inside.
    """

    keeps_output = False  # joining copies

    def __init__(self, branches):
        super().__init__()
        branches = list(map(in_place_of_models, branches))
        layers = checked_layers([layer for branch in branches for layer in branch], type(self).__name__)
        self.layers, self._copies = copies(layers)
        layers = iter(self.layers)
        self.branches = tuple(tuple(islice(layers, len(branch))) for branch in branches)

    @property
    def takes_integers(self):
        return any(branch[0].takes_integers for branch in self.branches if branch)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        try:
            shapes, first = [], 0
            for branch, shape in zip(self.branches, self.of_branches(self.input_shape), strict=True):
                shapes.append(build_in_a_row(branch, shape, self.dtype, rng, self.place, first))
                first += len(branch)
            self.output_shape = self._joined_shape(shapes)
        except Exception:
            leave_unbuilt(self.walk())
            raise
        self.parameters = [parameter for layer in self.layers for parameter in layer.parameters]
        self.buffers = {
            f"{i}.{name}": array for i, layer in enumerate(self.layers) for name, array in layer.buffers.items()
        }
        self.flops = sum(layer.flops for layer in self.layers)
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        if not self.takes_integers:  # as floats, an Embedding refuses them
            x = self.checked(x)
        values = [
            forward_in_a_row(branch, x, training, lengths, state) if branch else self.checked(x)
            for branch in self.branches
        ]
        return self._side_by_side(values, np.shape(x), training)

    def of_branches(self, x):
        """What each branch is given of x, or of x's shape: all of it."""
        return [x] * len(self.branches)

    def _side_by_side(self, values, shape, training):
        ends = slice(1, None if self.joined == "sum" else -1)
        if any(value.shape[ends] != values[0].shape[ends] for value in values):  # at the length they were built for: no
            shapes = ", ".join(str(value.shape) for value in values)
            raise ValueError(f"{self.label}: of sequences {shape}, its branches make {shapes}, which don't fit")
        y = self._joined([np.ascontiguousarray(value, self.dtype) for value in values])
        if training:
            self._shape = y.shape
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        self.check_input_grad(input_grad)
        dy = self.checked_gradient(dy, *self.kept("_shape")[:2])
        shares = [
            backward_in_a_row(branch, self._share(dy, number), input_grad)
            for number, branch in enumerate(self.branches)
            if branch
        ]
        return self._sum_of(shares, dy) if input_grad else None

    # What others ask of it.

    @property
    def of_time(self):
        """Each of its layers must mind lengths, if it is to."""
        kinds = {layer.of_time for layer in self.layers}
        return None if None in kinds else "lengths" if "lengths" in kinds else "apart"

    def output_lengths(self, lengths):
        found = []
        for branch in self.branches:
            ends = lengths
            for layer in branch:
                ends = None if ends is None else layer.output_lengths(ends)
            found.append(ends)
        if not all(np.array_equal(ends, found[0]) for ends in found[1:]):
            raise ValueError(f"{self.label}: its branches make sequences of different lengths of one")
        return found[0]

    def onnx(self, graph, x):
        inputs = self.of_branches(x)
        values = [graph.through(branch, x) for branch, x in zip(self.branches, inputs, strict=True)]
        first = values[0]
        names = [value.named(first.layout) for value in values]
        if self.joined == "sum":
            y = graph.add("Add", *names)
        else:
            y = graph.add("Concat", *names, axis=first.channels())
        return graph.value(y, first.axes, first.layout)

    def _names(self):
        """The branches' layers in words, by their numbers inside: "x", "layer 0", "layers 1-3"."""
        first = 0
        for branch in self.branches:
            last = first + len(branch) - 1
            yield "x" if not branch else f"layer {first}" if len(branch) == 1 else f"layers {first}-{last}"
            first += len(branch)


class Beside(_Branches):
    """y = [f1(x), f2(x), ...] along the last axis: Concat, and Parallel, which parallel.py has."""

    def _joined_shape(self, shapes):
        if any(not shape or shape[:-1] != shapes[0][:-1] for shape in shapes):
            given = ", ".join(f"{shape} of {name}" for shape, name in zip(shapes, self._names(), strict=True))
            raise ValueError(
                f"{self.label}: what stands side by side must have one shape, but for the last axis; got {given}"
            )
        widths = [shape[-1] for shape in shapes]
        self._columns = [(sum(widths[:number]), width) for number, width in enumerate(widths)]  # first, how many
        return (*shapes[0][:-1], sum(widths))

    def _joined(self, values):
        y = np.empty((*values[0].shape[:-1], self.output_shape[-1]), self.dtype)
        for value, (first, width) in zip(values, self._columns, strict=True):
            copy_columns(value.reshape(-1, width), 0, _rows(y), first, width, False)
        return y

    def _share(self, dy, number):
        first, width = self._columns[number]
        share = np.empty((*dy.shape[:-1], width), self.dtype)
        copy_columns(_rows(dy), first, share.reshape(-1, width), 0, width, False)
        return share

    def _sum_of(self, shares, dy):
        dx = np.ascontiguousarray(shares[0])
        for share in shares[1:]:
            add_to(_flat(share), _flat(dx))
        for branch, (first, width) in zip(self.branches, self._columns, strict=True):
            if not branch:  # x itself
                copy_columns(_rows(dy), first, _rows(dx), 0, width, True)
        return dx

    # What others ask of it.

    joined = "beside"

    def ending(self, before):
        found = [ending_in_a_row(branch, before) for branch in self.branches]
        return found[0] if len({each and each[0] for each in found}) == 1 else None


class Concat(Beside):
    """y = [x, f(x)] along the last axis, f the layers in a row: x (N, ..., C) and f(x) (N, ..., G) -> (N, ..., C + G).

    As in DenseNet, where the layers after it still see x.  Raises ValueError when it is built where x and f(x) differ
    in more than their last axis: give a Conv2D padding="same".

    >>> model = tn.Sequential([tn.Concat([tn.Dense(1)])], input_shape=2)
    >>> model.flat_values[:] = 1  # so that f(x) is the sum of x, and 1
    >>> model.forward([[5, 6]])
    array([[ 5.,  6., 12.]], dtype=float32)
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__([[], checked_layers(layers, "Concat")])

    def formula(self):
        return "y = [x, f(x)]"

    def backward_formula(self):
        return "dx = dy[x's columns] + df, f's layers backward from dy[f's columns]"


class Residual(_Branches):
    """y = x + f(x), f the layers in a row, whose output must have x's shape; or y = s(x) + f(x), s those of `shortcut`.

    Where f changes the shape, the shortcut must too, as in He et al. 2016, section 3.3:

        Residual([Conv2D(64, 3, stride=2, padding="same"), ReLU(), Conv2D(64, 3, padding="same")],
                 shortcut=[Conv2D(64, 1, stride=2)])

    Inside, the shortcut's layers are numbered after f's.  Raises ValueError when it is built where the shapes differ.

    >>> model = tn.Sequential([tn.Residual([tn.Dense(2)])], input_shape=2)
    >>> model.flat_values[:] = 0  # so that f(x) = 0
    >>> model.forward([[5, 6]])
    array([[5., 6.]], dtype=float32)
    """

    def __init__(self, layers: Sequence[Layer], shortcut: Sequence[Layer] | None = None) -> None:
        layers = checked_layers(layers, "Residual")
        super().__init__([layers, [] if shortcut is None else checked_layers(shortcut, "Residual: shortcut")])

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        self.flops += math.prod(output_shape)
        return output_shape

    def _joined_shape(self, shapes):
        if shapes[0] != shapes[1]:
            layers, shortcut = self.branches
            other = f"the shortcut's last, {shortcut[-1].label}," if shortcut else "x"
            raise ValueError(
                f"{self.label}: what is added must have one shape, but its last layer, {layers[-1].label}, gives"
                f" {shapes[0]} and {other} {'gives' if shortcut else 'is'} {shapes[1]}"
                + ("" if shortcut else "; give it a shortcut=[...] of layers that change x alike")
            )
        return shapes[0]

    def _joined(self, values):
        y = np.empty_like(values[0])
        added(*map(_flat, (*values, y)))
        return y

    def _share(self, dy, number):
        return dy

    def _sum_of(self, shares, dy):
        dx, other = [*shares, dy][:2]
        if np.may_share_memory(dx, dy) or not dx.flags.c_contiguous:  # dy is the caller's
            dx = dx.copy()
        add_to(_flat(other), _flat(dx))
        return dx

    def formula(self):
        _, shortcut = self._names()
        return "y = x + f(x)" if shortcut == "x" else f"y = s(x) + f(x), s = {shortcut}"

    def backward_formula(self):
        return f"dx = {'ds' if self.branches[1] else 'dy'} + df, from dy through the layers"

    # What others ask of it.

    joined = "sum"

    def ending(self, before):
        """Whatever is added to logits, the sum is no probability."""
        found = (ending_in_a_row(branch) for branch in self.branches)
        return next((each for each in found if each and each[0] == "logits"), None)


def _rows(array):
    return array.reshape(-1, array.shape[-1])


def _flat(array):
    return np.ascontiguousarray(array).reshape(-1)
