"""Embedding: a vector for each word, looked up by the word's number.

    y[n,t,d] = w[x[n,t], d]           0 where x[n,t] is the padding, the number that fills up short texts
    x (N, T) whole numbers from 0 to V - 1   w (V, D)   y (N, T, D)      x may have any shape (...), then y is (..., D)

It is a Dense layer without bias on one-hot rows, o[n,t,v] = [v = x[n,t]], 1 where that is true and 0 elsewhere: of its
V products all but one are with 0.  So dw = o.T dy, which only adds rows of dy.

Backward.  w[v,d] touched y[n,t,d] wherever v is the word, times 1:

    dw[v,d] = sum of dy[n,t,d] over the positions (n, t) with x[n,t] = v        0 for words that don't occur
    x has no gradient: there is no moving from word 3 to word 3.00001.

Where a TiedDense later in the model uses w as well, w touched its output, too, and dw is the sum of both parts.  The
TiedDense has its backward pass first, and leaves its part in dw: the sum above then starts there and not at 0.

Sources: Bengio et al. 2003, section 2 (its matrix C); Mikolov et al. 2013.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import as_array, numbers, positive_int, without_objects
from tinynet.kernels import embedding as kernels
from tinynet.kernels.compile import either
from tinynet.layers.base import Layer
from tinynet.layers.parameter import Parameter


def embedding_forward_plain(x, w, padding):
    y = np.zeros((*x.shape, w.shape[1]), w.dtype)
    for position, v in np.ndenumerate(x):
        if v != padding:
            y[position] = w[v]
    return y


def embedding_backward_plain(dy, x, padding, start):
    dw = start.copy()  # 0, or a TiedDense's part
    for position, v in np.ndenumerate(x):
        if v != padding:
            dw[v] += dy[position]
    return dw


embedding_forward = either(embedding_forward_plain, kernels.embedding_forward)
embedding_backward = either(embedding_backward_plain, kernels.embedding_backward)


class Embedding(Layer):
    """A trained vector for each word, looked up by its number: x (N, ...) -> y (N, ..., dim).

    y = w[x], with w (vocabulary, dim) and whole numbers x from 0 to vocabulary - 1.

    padding   the number that fills up short texts, if there is one: its vector is 0, and its row of w, which starts
              at 0 and has a gradient of 0, is never read

    It can only be a model's first layer (or the first of a branch there), and has no gradient for x.  w starts normal
    with deviation 0.1, not 1: most words are rare, and what few examples teach them must not drown in their random
    start.  For vectors trained elsewhere, write them into the parameter: `model.parameters()[0].value[...] = vectors`.

    Raises TypeError for x of another dtype than integers, whole floats too, and ValueError for numbers out of range.

    >>> model = tn.Sequential([tn.Embedding(vocabulary=100, dim=3)], input_shape=4)
    >>> model.forward([[7, 0, 99, 7]]).shape
    (1, 4, 3)
    """

    keeps_output = False
    takes_integers = True

    def __init__(self, vocabulary: int, dim: int, padding: int | None = None):
        super().__init__()
        self.vocabulary = positive_int(vocabulary, "Embedding: vocabulary")
        self.dim = positive_int(dim, "Embedding: dim")
        self.padding = None if padding is None else positive_int(padding, "Embedding: padding", least=0)
        if padding is not None and self.padding >= self.vocabulary:
            raise ValueError(
                f"Embedding: padding must be below the vocabulary's size, {self.vocabulary}, got {self.padding}"
            )
        self._padding = -1 if padding is None else self.padding  # -1 is no word's number
        self._started = False  # whether a TiedDense has left its part of the gradient since the last backward

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        w = rng.normal(0, 0.1, (self.vocabulary, self.dim)).astype(self.dtype)
        if self.padding is not None:
            w[self.padding] = 0
        self.parameters = [Parameter("weight", w)]
        self.output_shape = (*self.input_shape, self.dim)
        return self.output_shape

    def checked(self, x):
        """x as a fresh array of int64: backward writes where it points, so it must not change after this check."""
        if self.dtype is None:
            raise RuntimeError(f"{self.label} is not built: put it in a Sequential, or call its build first")
        what = f"{self.label}: the input"
        x = without_objects(as_array(x, what))
        if x.dtype.kind not in "iu":
            if x.dtype.kind == "O":
                numbers(x, what, "must hold integers")  # says which is none
            hint = "; try .astype(int)" if x.dtype.kind == "f" else ""
            hint = "; number the words: tn.data.Vocabulary does" if x.dtype.kind in "SUT" else hint
            raise TypeError(f"{self.label}: the input must hold integers, got an array of dtype {x.dtype}{hint}")
        if not self.fits(x.shape):
            raise self.input_error(x.shape)
        if x.size and (x.min() < 0 or x.max() >= self.vocabulary):
            where = tuple(int(i) for i in np.argwhere((x < 0) | (x >= self.vocabulary))[0])
            raise ValueError(
                f"{self.label}: the number at position {where} is {x[where]}, but the {self.vocabulary} words are"
                f" numbered from 0 to {self.vocabulary - 1}"
            )
        return x.astype(np.int64, order="C")

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        y = np.empty((*x.shape, self.dim), self.dtype)
        embedding_forward(x, self.parameters[0]._value, self._padding, y)
        if training:
            self._x, self._started = x, False
        return y

    def gradient_of_head(self):
        """Where a TiedDense, in its backward pass, leaves its part of dw: backward, which comes after, adds to it."""
        self._started = True
        return self.parameters[0]._grad

    def backward(self, dy: ArrayLike, input_grad: bool = False) -> None:
        self.check_input_grad(input_grad)
        x, dw = self.kept("_x"), self.parameters[0]._grad
        dy = self.checked_gradient(dy, *x.shape[:2])
        start = dw if self._started else np.broadcast_to(self.dtype.type(0), dw.shape)
        embedding_backward(dy, x, self._padding, start, dw)
        self._started = False

    def formula(self):
        return "y = w[x]" if self.padding is None else f"y = w[x], 0 where x = {self.padding}"

    def backward_formula(self):
        return "dw[v] = sum of dy where x = v" + ("" if self.padding is None else f", 0 for v = {self.padding}")

    # What others ask of it.

    of_time = "apart"
    torch_names = ("Embedding",)
    torch_axes = MappingProxyType({"weight": (0, 1)})
    torch_channels = "last"

    @property
    def zero_row(self):
        """The number of the padding, if there is one."""
        return self.padding

    def torch_module(self, nn):
        return nn.Embedding(self.vocabulary, self.dim, self.padding)

    def onnx(self, graph, x):
        w = self.parameters[0]._value
        if self.padding is not None:
            w = w.copy()
            w[self.padding] = 0
        return graph.value(graph.add("Gather", w, x.last()), x.axes + 1)

    def torch_options(self, module):
        return [
            ("padding", self.padding, module.padding_idx),
            ("max_norm", None, module.max_norm),
            ("scale_grad_by_freq", False, module.scale_grad_by_freq),
        ]
