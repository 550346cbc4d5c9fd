"""Flatten and Reshape: the same numbers under another shape.

    y = x, read as (N, F) or (N, *shape)          x (N, ...)

Backward.  Each x touched one y, times 1:  dx = dy, read as x's shape.

In C order the numbers lie in memory as before, so y is a view: nothing is copied, forward or backward.  Of an
image (N, H, W, C), Flatten puts the C numbers of a pixel next to each other.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.layers.base import Layer


class Reshape(Layer):
    """Give each sample another shape; one size may be -1, and is then what makes the count right.

    forward returns a view of x, and backward a view of dy.

    >>> tn.Sequential([tn.Reshape((4, -1, 1))], 12).output_shape
    (4, 3, 1)
    """

    def __init__(self, shape: int | tuple[int, ...]):
        super().__init__()
        name = type(self).__name__
        shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
        self.shape = tuple(-1 if size == -1 else positive_int(size, f"{name}: a size of shape") for size in shape)
        if self.shape.count(-1) > 1:
            raise ValueError(f"{name}: only one size of shape may be -1, got {shape}")

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        count, known = math.prod(input_shape), math.prod(size for size in self.shape if size != -1)
        if count % known or (-1 not in self.shape and count != known):
            raise ValueError(
                f"{self.label}: the input shape {input_shape} has {count} numbers, which don't fit shape {self.shape}"
            )
        self.output_shape = tuple(count // known if size == -1 else size for size in self.shape)
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        if training:
            self._batch = len(x)
        return x.reshape(len(x), *self.output_shape)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        batch = self.kept("_batch")
        dy = self.checked_gradient(dy, batch)
        return dy.reshape(batch, *self.input_shape) if input_grad else None

    def formula(self):
        return f"y = x as (N, {', '.join(map(str, self.output_shape or self.shape))})"

    def backward_formula(self):
        return "dx = dy as " + (f"(N, {', '.join(map(str, self.input_shape))})" if self.input_shape else "x's shape")

    # What others ask of it.

    vector_order, same_numbers = "reshaped", True

    def ending(self, before):
        return before

    def onnx(self, graph, x):
        return graph.value(graph.add("Reshape", x.last(), [0, *self.output_shape]), len(self.output_shape) + 1)


class Flatten(Reshape):
    """Give each sample one axis: (N, H, W, C) becomes (N, H * W * C).  Returns views, as Reshape does.

    >>> tn.Sequential([tn.Flatten()], (8, 8, 3)).output_shape
    (192,)
    """

    def __init__(self):
        super().__init__(-1)
