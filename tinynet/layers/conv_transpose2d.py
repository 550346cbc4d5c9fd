"""ConvTranspose2D: a convolution's backward pass, as a layer.  It makes images larger, as strides make them smaller.

    y = f(z)     z[n,h,g,k] = b[k] + sum of x[n,p,q,c] w[i,j,k,c] over all c and those p, q, i, j with
                              p s + i - top = h and q r + j - left = g

    x (N, P, Q, C)   w (I, J, K, C), K filters   b (K,)   z, y (N, H, W, K)   stride (s, r)
    H = (P - 1) s + I - 2 top + more rows below, if asked for (output_padding); W likewise
    top, left: how many rows and columns are cut off on each side (padding)

So each x scatters its C numbers over a window of z, times w; where windows overlap, they add up.  That is how conv2d.py
finds dx from dz, with x here for dz there, and z here for dx.  As matrices: a convolution is z = x A, with the numbers
of w, and many zeros, in A; its gradient is dx = dz A.T, "transposed".  It isn't the inverse: it gives an image's shape
back, and not its numbers.

Backward.  The transpose of A.T is A, so what was backward is forward now.  Given dz[n,h,g,k] = f'(z) dy, which
is 0 outside of the image:

    x[n,p,q,c]  touched z[n, p s + i - top, q r + j - left, k] for all i, j, k, times w[i,j,k,c]:
                    dx[n,p,q,c] = sum_i sum_j sum_k dz[n, p s + i - top, q r + j - left, k] w[i,j,k,c]
                a convolution of dz by w, which has K channels and C filters for it
    w[i,j,k,c]  touched the same z of every image and position, times x[n,p,q,c]:
                    dw[i,j,k,c] = sum_n sum_p sum_q dz[n, p s + i - top, q r + j - left, k] x[n,p,q,c]
    b[k]        touched z[n,h,g,k] of every pixel, times 1:
                    db[k] = sum_n sum_h sum_g dz[n,h,g,k]

Sources: Zeiler et al. 2010; Dumoulin and Visin 2016, which draws every case.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import pair, positive_int
from tinynet.kernels import conv_transpose2d as kernels
from tinynet.kernels.compile import either
from tinynet.layers.activated import Weighted
from tinynet.layers.parameter import Parameter


def conv_transpose2d_forward_plain(x, w, b, stride, before, size, floor):
    (N, P, Q, _), (I, J, K, _), (H, W) = x.shape, w.shape, size
    (s, r), (top, left) = stride, before
    z = np.zeros((N, H, W, K), x.dtype) + b
    for n, p, q in np.ndindex(N, P, Q):
        for i, j in np.ndindex(I, J):
            h, g = p * s + i - top, q * r + j - left
            if 0 <= h < H and 0 <= g < W:
                z[n, h, g] += w[i, j] @ x[n, p, q]  # @ sums over c
    return np.maximum(z, floor)


def conv_transpose2d_backward_plain(x, w, dz, stride, before):
    (_, H, W, _), (I, J, _, _) = dz.shape, w.shape
    (s, r), (top, left) = stride, before
    dw, db, dx = np.zeros_like(w), dz.sum(axis=(0, 1, 2)), np.zeros_like(x)
    for n, p, q in np.ndindex(x.shape[:3]):
        for i, j in np.ndindex(I, J):
            h, g = p * s + i - top, q * r + j - left
            if 0 <= h < H and 0 <= g < W:
                dw[i, j] += np.outer(dz[n, h, g], x[n, p, q])  # w[i,j] touched this z, times this x,
                dx[n, p, q] += dz[n, h, g] @ w[i, j]  # and this x touched it, times this w; @ sums over k
    return dw, db, dx


conv_transpose2d_forward = either(conv_transpose2d_forward_plain, kernels.conv_transpose2d_forward)
conv_transpose2d_backward = either(
    conv_transpose2d_backward_plain,
    kernels.conv_transpose2d_backward,
    lambda x, w, dz, stride, before, input_grad: (x, w, dz, stride, before),
)


class ConvTranspose2D(Weighted):
    """A convolution's backward pass, as a layer that makes images larger: x (N, P, Q, C) -> y (N, H, W, filters).

    Every pixel of x adds its numbers, times w (I, J, filters, C), to a window of y; then come b and the activation.

    kernel_size     the window, a whole number or a pair (I, J)
    stride          how far apart the windows of neighbouring x lie in y, a whole number or a pair
    padding         how many rows and columns of y are cut off on every side, a whole number or a pair
    output_padding  how many there are more below and on the right, fewer than the stride: of the images that a
                    convolution with this stride makes so large, it chooses one
    activation, bias, init   as in Conv2D

    H = (P - 1) stride + I - 2 padding + output_padding.

    Raises ValueError for inputs that are not images (N, H, W, C), and where nothing is left of y.

    >>> tn.Sequential([tn.ConvTranspose2D(3, 4, stride=2, padding=1)], (14, 14, 8)).output_shape
    (28, 28, 3)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        activation: str | None = None,
        bias: bool = True,
        init=None,
    ):
        self.filters = positive_int(filters, "ConvTranspose2D: filters")
        self.kernel_size = pair(kernel_size, "ConvTranspose2D: kernel_size")
        self.stride = pair(stride, "ConvTranspose2D: stride")
        self.padding = pair(padding, "ConvTranspose2D: padding", least=0)
        self.output_padding = pair(output_padding, "ConvTranspose2D: output_padding", least=0)
        if any(more >= step for more, step in zip(self.output_padding, self.stride, strict=True)):
            raise ValueError(
                f"ConvTranspose2D: output_padding must be less than the stride {self.stride}, got {output_padding!r}"
            )
        super().__init__(activation, bias, init)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 3:
            raise ValueError(f"{self.label}: expected images, input shape (H, W, C), got {self.input_shape}")
        (P, Q, C), (I, J), K = self.input_shape, self.kernel_size, self.filters
        axes = zip((P, Q), self.stride, (I, J), self.padding, self.output_padding, strict=True)
        self._size = H, W = tuple((n - 1) * step + size - 2 * cut + more for n, step, size, cut, more in axes)
        if H < 1 or W < 1:
            raise ValueError(f"{self.label}: padding {self.padding} leaves nothing of images of {P} x {Q}")
        self._start_parameters((I, J, K, C), I * J * C, I * J * K, rng)
        self._no_bias = np.zeros(K, self.dtype)
        if self.bias:
            self.parameters[1] = Parameter("bias", np.zeros(K, self.dtype), decay=False)
        self.output_shape = H, W, K
        self.flops = 2 * P * Q * I * J * C * K
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x, (w, b) = self.checked(x), self._values()
        z = np.empty((len(x), *self.output_shape), self.dtype)
        conv_transpose2d_forward(x, w, b, self.stride, self.padding, self._size, self._floor, z)
        y, kept = (z, None) if self.activation is None else self._activated(z)
        if training:
            self._keep(x, kept)
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        (x, kept), (w, _), (dw, db) = self.kept("_kept"), self._values(), self._gradients()
        dy = self.checked_gradient(dy, len(x))
        dx = np.empty_like(x) if input_grad else np.empty((0, 0, 0, 0), self.dtype)
        dz = dy if self.activation is None else self.activation.backward(dy, kept)
        if not self.trains:
            dw = db = dw[:0]
        conv_transpose2d_backward(x, w, dz, self.stride, self.padding, input_grad, dw, db, dx)
        return dx if input_grad else None

    def formula(self):
        return self._formula_of("conv_transpose(x, w)")

    def backward_formula(self):
        return self._backward_formula_of("conv(dz, x)", "conv(dz, w)")

    # What others ask of it.

    torch_names = ("ConvTranspose2d",)
    torch_axes = MappingProxyType({"weight": (3, 2, 0, 1), "bias": (0,)})

    def torch_module(self, nn):
        options = self.kernel_size, self.stride, self.padding, self.output_padding
        return nn.ConvTranspose2d(self.input_shape[-1], self.filters, *options, bias=self.bias)

    def torch_options(self, module):
        ours = [(name, getattr(self, name)) for name in ("stride", "padding", "output_padding")]
        others = [("dilation", (1, 1), module.dilation), ("groups", 1, module.groups)]
        return [*((name, value, getattr(module, name)) for name, value in ours), *others]

    def onnx(self, graph, x):
        w, b = self._values()
        options = {"strides": self.stride, "pads": self.padding * 2, "output_padding": self.output_padding}
        z = graph.add("ConvTranspose", x.first(), w.transpose(self.torch_axes["weight"]), b, **options)
        return self._onnx_activated(graph, z, "first")
