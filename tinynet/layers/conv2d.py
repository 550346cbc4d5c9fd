"""Conv2D: one small dense layer, applied at every place of an image.

    y = f(z)     z[n,p,q,k] = b[k] + sum_i sum_j sum_c x[n, p s + i - t, q r + j - l, c] w[i,j,c,k]

    x (N, H, W, C) images   w (I, J, C, K) the kernel: I x J its window, K filters   b (K,)   y (N, P, Q, K)
    s and r the stride, down and to the right; t and l the rows and columns of zeros above and to the left
    P = (H + padding above and below - I) // s + 1, and Q alike with W, J and r; x is 0 outside the image

Backward.  Given dy = dL/dy, the activation's backward pass gives dz = f'(z) dy.  Then ask of each number: which z
did it touch, and times what?

    w[i,j,c,k]  touched z[n,p,q,k] of every image and place, times the pixel under it there:
                    dw[i,j,c,k] = sum_n sum_p sum_q x[n, p s + i - t, q r + j - l, c] dz[n,p,q,k]
    b[k]        touched all z[..,k], times 1:
                    db[k] = sum_n sum_p sum_q dz[n,p,q,k]
    x[n,h,g,c]  touched z[n,p,q,k] wherever p s + i - t = h and q r + j - l = g for an (i, j), times w[i,j,c,k]:
                    dx[n,h,g,c] = sum_(i,p: p s + i - t = h) sum_(j,q: q r + j - l = g) sum_k dz[n,p,q,k] w[i,j,c,k]

All three run on the SIMD tile, with no matrix of windows ("im2col") in memory.  With channels last, row i of a window
is one contiguous run of J C numbers, so on an image with its zeros around it, (U, V, C),

    z of a row p:    Q places x K filters, summed over I rows of J C numbers       a step to the right is r C numbers
    dw of a row i:   J C numbers x K filters, summed over P x Q places             a step to the right is r C numbers
    dx of a row h:   its pixels g = q r + j - l for one j at a time, x C channels, summed over i and k; no zeros needed

A vector holds the filters of a place, and six of them fill 6 lanes of 16: few filters are done in few_filters.py, where
a vector holds places.

A 3 x 3 window with stride 1, at least 32 channels and filters, and P and Q that 4 divides is done with 4 times fewer
multiplications, in winograd.py.

One image's zeros, dz and sums stay in a core's L2 cache from one step to the next: the whole backward pass goes over
memory once, in one launch (of few filters, dx is another).
"""

from types import MappingProxyType

import numba
import numpy as np

from tinynet.checks import pair, positive_int
from tinynet.kernels import few_filters, winograd
from tinynet.kernels.conv2d import conv2d_backward, conv2d_forward
from tinynet.layers import activations
from tinynet.layers.base import Layer
from tinynet.layers.initialization import initial_weights
from tinynet.layers.padding import checked_padding, places
from tinynet.layers.parameter import Parameter


class Conv2D(Layer):
    """y = activation(conv(x, w) + b): x (N, H, W, C) -> y (N, P, Q, filters), with w (I, J, C, filters), b (filters,).

    kernel_size  the window, a whole number or a pair (I, J)
    stride       how far it moves from one place to the next, a whole number or a pair
    padding      "valid": only places where the whole window is inside; "same": zeros around, so that the output has
                 ceil(H / stride) rows, the odd one below and to the right; a whole number: that many on every side
    activation   None, "relu", "leaky_relu", "sigmoid", "tanh" or "gelu"; ReLU is done before the sums leave the
                 registers, and its backward pass as the gradient is read
    bias         False leaves b out
    init         how w starts, as in Dense

    As is usual in the field this is a cross-correlation: the kernel isn't flipped.  w starts with He's variance for
    ReLU-like activations, Glorot's otherwise (initialization.py), b at 0.

    >>> tn.Sequential([tn.Conv2D(8, 3)], (28, 28, 1)).output_shape
    (26, 26, 8)
    >>> tn.Sequential([tn.Conv2D(8, 3, stride=2, padding="same")], (28, 28, 1)).output_shape
    (14, 14, 8)
    """

    def __init__(self, filters, kernel_size, stride=1, padding="valid", activation=None, bias=True, init=None):
        super().__init__()
        self.filters = positive_int(filters, "Conv2D: filters")
        self.kernel_size, self.stride = pair(kernel_size, "Conv2D: kernel_size"), pair(stride, "Conv2D: stride")
        self.padding = checked_padding(padding, "Conv2D: padding")
        self.activation_name, self.activation = activation, activations.activation(activation, "Conv2D")
        self.bias, self.init = bool(bias), init
        self._kept = None

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 3:
            raise ValueError(f"{self.label}: expected images, input shape (H, W, C), got {self.input_shape}")
        C, K = self.input_shape[2], self.filters
        (P, Q), self._before = places(self.label, self.input_shape, self.kernel_size, self.stride, self.padding)
        I, J = self.kernel_size
        w = initial_weights(
            self.init, self.activation_name, (I, J, C, K), I * J * C, I * J * K, self.dtype, rng, self.label
        )
        self.parameters = [Parameter("weight", w)]
        self._no_bias = np.zeros(K, self.dtype)
        if self.bias:
            self.parameters.append(Parameter("bias", np.zeros(K, self.dtype), decay=False))
        self.flops = 2 * P * Q * I * J * C * K
        self.output_shape = (P, Q, K)
        self._few_filters = few_filters.fits((I, J, C, K), self.stride, self._before, Q, self.dtype)
        self._by_winograd = winograd.fits(self.kernel_size, self.stride, self.output_shape, C)
        return self.output_shape

    def forward(self, x, training=False):
        x = self.checked(x)
        w = self.parameters[0]._value
        b = self.parameters[1]._value if self.bias else self._no_bias
        y = np.empty((len(x), *self.output_shape), self.dtype)
        floor = self.dtype.type(0 if self.activation_name == "relu" else -np.inf)
        if self._by_winograd:
            winograd.winograd_forward(x, w, b, self._before, floor, numba.get_num_threads(), y)
        elif self._few_filters:
            few_filters.few_filters_forward(x, w, b, self._before, floor, y)
        else:
            conv2d_forward(x, w, b, self.stride, self._before, floor, y)
        kept = y if self.activation is not None else None
        if self.activation is not None and self.activation_name != "relu":
            if self.activation.keeps == "input":
                y = self.activation.forward(y)
            else:
                self.activation.forward_in_place(y)
        if training:
            self._kept = x.view(), None if kept is None else kept.view()  # no one else can reshape these
        return y

    @property
    def keeps_output(self):
        return self.activation is not None and self.activation.keeps == "output"

    def backward(self, dy, input_grad=True):
        (x, kept), w = self.kept("_kept"), self.parameters[0]._value
        dz = self.checked_gradient(dy, len(x))
        is_relu = self.activation_name == "relu"
        if self.activation is not None and not is_relu:
            dz = self.activation.backward(dz, kept)
        db = self.parameters[1]._grad if self.bias else np.empty_like(self._no_bias)
        dx = np.empty_like(x) if input_grad else np.empty((0, 0, 0, 0), self.dtype)
        y = kept if is_relu else dz
        results = self.parameters[0]._grad, db, dx
        if self._by_winograd:
            winograd.winograd_backward(x, w, dz, y, is_relu, self._before, input_grad, *results)
        elif self._few_filters:
            if input_grad and is_relu:
                dz, is_relu = self.activation.backward(dz, y), False
            few_filters.few_filters_backward(x, dz, y, is_relu, self._before, *results[:2])
            if input_grad:
                self._backward_input(dz, w, dx)
        else:
            conv2d_backward(x, w, dz, y, is_relu, self.stride, self._before, input_grad, *results)
        return dx if input_grad else None

    def _backward_input(self, dz, w, dx):
        """dx of few filters: the convolution of dz by the kernel turned around, with its last two axes swapped."""
        turned = np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))
        (I, J, _, C), (top, left) = turned.shape, self._before
        before, nothing, none = (I - 1 - top, J - 1 - left), np.zeros(C, self.dtype), self.dtype.type(-np.inf)
        if few_filters.fits(turned.shape, self.stride, before, dx.shape[2], self.dtype):
            few_filters.few_filters_forward(dz, turned, nothing, before, none, dx)
        else:
            conv2d_forward(dz, turned, nothing, self.stride, before, none, dx)

    def formula(self):
        sums = "conv(x, w) + b" if self.bias else "conv(x, w)"
        return f"y = {self.activation_name}({sums})" if self.activation else f"y = {sums}"

    def backward_formula(self):
        dz = "dz" if self.activation else "dy"
        first = f"dz = {self.activation_name}'(z) dy, " if self.activation else ""
        db = f"db = sum {dz}, " if self.bias else ""
        spread = "" if self.stride == (1, 1) else f", {dz} spread by the stride"
        return f"{first}dw = conv(x, {dz}), {db}dx = conv({dz}, w flipped){spread}"

    # What others ask of it.

    torch_names = ("Conv2d",)
    torch_axes = MappingProxyType({"weight": (3, 2, 0, 1), "bias": (0,)})

    def ending(self, before):
        return activations.ending(self)

    def weight_images(self, shape):
        return self.parameters[0].value.transpose(3, 0, 1, 2)

    @property
    def zeros_around(self):
        places, first = zip(self.output_shape, self._before, strict=False), []
        for axis, (P, before) in enumerate(places):
            covered = (P - 1) * self.stride[axis] + self.kernel_size[axis]  # the last zeros of "same" are as it needs
            behind = before if self.padding != "same" else max(covered - self.input_shape[axis], 0) - before
            first.append((before, behind))
        return tuple(first)

    def torch_module(self, nn):
        (top, bottom), (left, right) = self.zeros_around
        around, padding = {}, (top, left)
        if (top, left) != (bottom, right):  # PyTorch's own padding is symmetrical
            around, padding = {"_padding": nn.ZeroPad2d((left, right, top, bottom))}, 0
        C, K = self.input_shape[-1], self.filters
        return {**around, "": nn.Conv2d(C, K, self.kernel_size, self.stride, padding, bias=self.bias)}

    def torch_options(self, module):
        return [
            ("stride", self.stride, module.stride),
            ("dilation", (1, 1), module.dilation),
            ("groups", 1, module.groups),
        ]
