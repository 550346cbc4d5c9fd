"""TiedDense: a language model ends in scores for words, made with the very vectors that it began with.

    z[n,v] = b[v] + sum_d h[n,d] E[v,d]        z = h E.T + b
    h (N, D), or (..., D)   E (V, D), an Embedding's   b (V,)   z (N, V), or (..., V)

A word's score is the product of h with the word's own vector: words of like meaning have like vectors, so they get like
scores, and what one of them teaches E serves it as an input, too.  It also saves V D numbers, in GPT-2 39 of 163
million.

Backward.  Ask of each number: which z did it touch, and times what?

    b[v]    touched z[n,v] of every n, times 1:        db[v]   = sum_n dz[n,v]
    h[n,d]  touched z[n,v] of every v, times E[v,d]:   dh[n,d] = sum_v dz[n,v] E[v,d]
    E[v,d]  touched z[n,v] of every n, times h[n,d]    ...
            and y[m,d], the Embedding's output, wherever v is the word x[m], times 1 (embedding.py):

                dE[v,d] = sum_n dz[n,v] h[n,d] + sum of dy[m,d] over the positions m with x[m] = v

As matrices:  dh = dz E     dE = dz.T h + what the lookups scatter

One parameter, one gradient, two sums.  E belongs to the Embedding.  Backward runs from the last layer to the first: so
this layer's sum is there first, written into the Embedding's gradient, and the Embedding adds its own.

Sources: Press and Wolf 2017; Inan, Khosravi and Socher 2017.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels import tied_dense as kernels
from tinynet.kernels.compile import either
from tinynet.layers.base import Layer
from tinynet.layers.embedding import Embedding
from tinynet.layers.parameter import Parameter


def tied_dense_forward_plain(h, E, b):
    return h @ E.T + b


def tied_dense_backward_plain(h, E, dz):
    return dz.T @ h, dz.sum(axis=0), dz @ E  # this layer's part of dE, db, dh


tied_dense_forward = either(tied_dense_forward_plain, kernels.tied_dense_forward)
tied_dense_backward = either(
    tied_dense_backward_plain,
    kernels.tied_dense_backward,
    lambda h, E, dz, input_grad: (h, E, dz),
)


class TiedDense(Layer):
    """z = h E.T + b, with the vectors E (V, D) of an Embedding earlier in the model: h (N, ..., D) -> z (N, ..., V).

    embedding   that layer; it has no `padding`, whose vector is never read there
    bias        True adds b (V,), which starts at 0 (BERT has it, GPT-2 not)

    E stays the Embedding's parameter, and is there once in the model's: its gradient is the sum of both layers'.

    Raises ValueError where the model is built and the embedding is not in it, or comes later, or has vectors of another
    length than h; or where another TiedDense has it already.

    >>> words = tn.Embedding(vocabulary=100, dim=8)
    >>> model = tn.Sequential([words, tn.LayerNorm(), tn.TiedDense(words)], input_shape=5)
    >>> model.forward([[7, 0, 99, 7, 1]]).shape, len(model.parameters())
    ((1, 5, 100), 3)
    """

    keeps_output = False

    def __init__(self, embedding: Embedding, bias: bool = False) -> None:
        super().__init__()
        if not isinstance(embedding, Embedding):
            raise TypeError(f"TiedDense: embedding must be an Embedding, the layer itself, got {embedding!r}")
        if embedding.padding is not None:
            raise ValueError(
                f"TiedDense: {embedding.label} has padding={embedding.padding}, whose vector is never read, so there is"
                " no score for it; make the Embedding without, and leave the padding out of the loss by ignore_index"
            )
        self.tied, self.bias = embedding, bool(bias)
        self._kept = None

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if self.tied.dtype is None:
            raise ValueError(
                f"{self.label}: its Embedding is not built: it must be a layer of the same model, before this one"
            )
        V, D = self.tied.vocabulary, self.tied.dim
        if not input_shape or input_shape[-1] != D:
            given = ", ".join(map(str, ("N", *input_shape)))
            raise ValueError(
                f"{self.label}: expected input (N, ..., {D}), as the vectors of {self.tied.label} have, got ({given})"
            )
        if self.bias:
            self.parameters = [Parameter("bias", np.zeros(V, self.dtype), decay=False)]
        self._no_bias = np.zeros(0 if self.bias else V, self.dtype)
        self.output_shape = (*input_shape[:-1], V)
        self.flops = 2 * D * math.prod(self.output_shape)
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        h = self.checked(x)
        z = np.empty((*h.shape[:-1], self.tied.vocabulary), self.dtype)
        b = self.parameters[0]._value if self.bias else self._no_bias
        tied_dense_forward(_rows(h), self.tied.parameters[0]._value, b, _rows(z))
        if training:
            self._kept = h.view()
        return z

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        h, E, dE = self.kept("_kept"), self.tied.parameters[0], self.tied.gradient_of_head()
        dz = self.checked_gradient(dy, *h.shape[:-1][:2])
        dh = np.empty_like(h if input_grad else h[:0])
        db = self.parameters[0]._grad if self.trains else self._no_bias[:0]
        tied_dense_backward(_rows(h), E._value, _rows(dz), input_grad, dE if E.trainable else dE[:0], db, _rows(dh))
        return dh if input_grad else None

    def formula(self):
        return f"z = h E.T{' + b' if self.bias else ''}, E of {self.tied.label}"

    def backward_formula(self):
        return f"dE = dz.T h + what lookups scatter, {'db = sum dz, ' if self.bias else ''}dh = dz E"

    # What others ask of it.

    of_time = "apart"

    torch_names = ("Linear",)
    torch_axes = MappingProxyType({"weight": (0, 1), "bias": (0,)})

    def linear(self):
        return self.tied.parameters[0]._value.T, self.parameters[0]._value if self.bias else None

    def linear_gradients(self):
        return self.tied.gradient_of_head().T, self.parameters[0]._grad if self.bias else None

    def ending(self, before):
        return "logits", self.label

    def torch_module(self, nn):
        return nn.Linear(self.tied.dim, self.tied.vocabulary, self.bias)

    def onnx(self, graph, x):
        name, layout = x.rows()
        z = graph.add("MatMul", name, graph.add("Transpose", self.tied.parameters[0]._value, perm=[1, 0]))
        z = graph.add("Add", z, self.parameters[0]._value) if self.bias else z
        return graph.value(z, x.axes, layout)


def _rows(array):
    return array.reshape(-1, array.shape[-1])
