"""What all activations share: f as functions of arrays, for Dense and Conv2D, and as a layer of its own."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks.assignments import Guarded
from tinynet.layers.base import Layer

ONNX_NAMES = {"relu": "Relu", "leaky_relu": "LeakyRelu", "relu6": "Clip", "sigmoid": "Sigmoid", "tanh": "Tanh"}
ONNX_NAMES |= {"gelu": "Gelu", "gelu_tanh": "Gelu", "swish": "Sigmoid", "elu": "Elu", "selu": "Selu"}
ONNX_NAMES |= {"softplus": "Softplus"}


class Activation(Guarded):
    """An activation as functions of arrays of any shape, float32 or float64 and C-contiguous.

    torch      the class of torch.nn that computes the same
    forward    a kernel (x, *constants, y), and backward one (dy, y or x, *constants, dx)
    in_place   a kernel (*constants, x) that overwrites x with y, where backward needs no x; one of its own, since a
               loop from x to y that is given one array twice finds that they overlap, and takes number by number
    keeps      what backward needs: "output" or "input"
    init       how the weights before it start, a name of initialization.py
    constants  what the kernels take besides arrays
    """

    def __init__(
        self, name, torch, formula, backward_formula, forward, backward, in_place=None,
        *, keeps="output", init="glorot", constants=(),
    ):  # fmt: skip
        self.name, self.formula, self.backward_formula = name, formula, backward_formula
        self.keeps, self.init, self.constants, self.torch_names = keeps, init, constants, (torch,)
        self._forward, self._backward, self._in_place = forward, backward, in_place

    def forward(self, z):
        """y = f(z), a fresh array."""
        y = np.empty_like(z)
        self._forward(z.reshape(-1), *self.constants, y.reshape(-1))
        return y

    def forward_in_place(self, z):
        """Overwrite z with f(z)."""
        self._in_place(*self.constants, z.reshape(-1))

    def backward(self, dy, kept):
        """dz = f'(z) dy, a fresh array; `kept` is y or z, as `keeps` says."""
        dz = np.empty_like(dy)
        self._backward(dy.reshape(-1), kept.reshape(-1), *self.constants, dz.reshape(-1))
        return dz

    # PyTorch's, as of a layer (base.py).

    def torch_module(self, nn):
        if self.name == "gelu_tanh":
            return nn.GELU("tanh")
        return getattr(nn, self.torch_names[0])(*self.constants)

    def torch_options(self, module):
        if self.name == "leaky_relu":
            return [("slope", self.constants[0], module.negative_slope)]
        if self.name == "elu":
            return [("alpha", self.constants[0], module.alpha)]
        if self.name == "softplus":
            return [("beta", 1, module.beta)]
        approximate = {"gelu": "none", "gelu_tanh": "tanh"}.get(self.name)
        return [("approximate", approximate, module.approximate)] if approximate else []

    # ONNX's.

    def onnx(self, graph, x):
        if self.name not in ONNX_NAMES:
            raise ValueError(f"to_onnx: the activation {self.name!r} has no form in ONNX that tinynet knows of")
        if self.name == "swish":
            return x.map("Mul", x.map("Sigmoid").named(x.layout))
        if self.name == "relu6":
            return x.map("Clip", 0.0, 6.0)
        options = {"approximate": "tanh"} if self.name == "gelu_tanh" else {}
        if self.constants:
            (options["alpha"],) = self.constants
        return x.map(ONNX_NAMES[self.name], **options)


class ActivationLayer(Layer):
    """What these layers share; in training each keeps y, or x where its `activation` says so: no copy."""

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        self.flops = math.prod(output_shape)
        return output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        y = self.activation.forward(x)
        if training:
            self._kept = (y if self.activation.keeps == "output" else x).view()
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        kept = self.kept("_kept")
        dy = self.checked_gradient(dy, *kept.shape[:2])
        return self.activation.backward(dy, kept) if input_grad else None

    @property
    def keeps_output(self):
        return self.activation.keeps == "output"

    def formula(self):
        return self.activation.formula

    def backward_formula(self):
        return self.activation.backward_formula

    # What others ask of it.

    vector_order = "kept"
    of_time = "apart"

    @property
    def torch_names(self):
        """The class of torch.nn that computes the same, in a tuple."""
        return self.activation.torch_names

    def torch_module(self, nn):
        return self.activation.torch_module(nn)

    def torch_options(self, module):
        return self.activation.torch_options(module)

    def onnx(self, graph, x):
        return self.activation.onnx(graph, x)
