"""Conv2D: one small dense layer, applied at every position of an image.

    y = f(z)     z[n,p,q,k] = b[k] + sum_i sum_j sum_c x[n, p s + i d - top, q r + j e - left, c] w[i,j,c,k]

    x (N, H, W, C) images   w (I, J, C, K) K filters, each for a window of I x J pixels   b (K,)   z, y (N, P, Q, K)
    s and r the stride, down and to the right: how far the window moves from one position to the next
    top and left the padding: rows and columns of zeros there; x is 0 outside the image
    d and e the dilation: how far the pixels that a window looks at are apart, 1 for neighbours
    P = (H + padding above and below - (I - 1) d - 1) // s + 1, since a window spans (I - 1) d + 1 rows, and moves on by
    s while it fits; Q alike with W, J, e and r

Example 33 has all of it in numbers, for one image, one channel, one filter and a stride of 1.

With G groups the channels and the filters are cut into G parts, and each part of the filters looks at its own part of
the channels: w is (I, J, C / G, K), and it is as if G layers stood side by side.  With a group for each channel that is
a depthwise convolution, C times fewer multiplications; one of 1 x 1 after it, "pointwise", then mixes the channels.

Backward.  As in dense.py: given dy, dz[n,p,q,k] = f'(z[n,p,q,k]) dy[n,p,q,k].  Then ask of each number: which z did
it touch, and times what?

    w[i,j,c,k]  touched z[n,p,q,k] of every image and position, times the pixel under it there:
                    dw[i,j,c,k] = sum_n sum_p sum_q x[n, p s + i d - top, q r + j e - left, c] dz[n,p,q,k]
    b[k]        touched z[n,p,q,k] of every image and position, times 1:
                    db[k] = sum_n sum_p sum_q dz[n,p,q,k]
    x[n,h,g,c]  the pixel in row h, column g: touched z[n,p,q,k] once for each offset (i, j) with p s + i d - top = h
                and q r + j e - left = g, times w[i,j,c,k]:
                    dx[n,h,g,c] = sum of dz[n,p,q,k] w[i,j,c,k] over those p, q, i, j, and all k

The loops below go over all positions (n, p, q) and offsets (i, j), as forward does, and scatter w dz to the pixel that
met w there.  To gather instead, go over the pixels and solve for the position.  For stride 1 and neighbouring pixels,
with dz = 0 outside 0 <= p < P and 0 <= q < Q:

    dx[n,h,g,c] = sum_i sum_j sum_k dz[n, h + top - i, g + left - j, k] w[i,j,c,k]

Count i and j from the window's other end, that is, put I-1-i in the place of i and J-1-j in that of j:

    dx[n,h,g,c] = sum_i sum_j sum_k dz[n, h + i - (I-1-top), g + j - (J-1-left), k] w[I-1-i, J-1-j, c, k]

That is the forward formula with stride 1, input dz, padding I-1-top and J-1-left, and w turned by 180 degrees, with C
and K exchanged.  (For a larger stride, dz first gets s - 1 rows and r - 1 columns of zeros between its own.)

Sources: LeCun et al. 1989 and 1998; groups, Krizhevsky et al. 2012; depthwise, Sifre 2014; dilation, Yu and Koltun
2016.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import pair, positive_int
from tinynet.checks.padding import checked_padding
from tinynet.kernels import grouped
from tinynet.kernels.compile import either
from tinynet.kernels.grouped import parts_of
from tinynet.layers.activated import Weighted, through_relu
from tinynet.layers.padding import output_size


def conv2d_forward_plain(x, w, b, stride, before, dilation, groups, size, floor):
    (N, H, W, _), (I, J, _, K) = x.shape, w.shape
    (s, r), (top, left), (d, e), (P, Q) = stride, before, dilation, size
    z = np.zeros((N, P, Q, K), x.dtype) + b
    for n, p, q in np.ndindex(N, P, Q):
        for i, j in np.ndindex(I, J):
            h, g = p * s + i * d - top, q * r + j * e - left
            if 0 <= h < H and 0 <= g < W:
                for c, k in parts_of(groups, x, w):  # c and k: all channels and filters of a group, as slices
                    z[n, p, q, k] += x[n, h, g, c] @ w[i, j, :, k]  # @ sums over c
    return np.maximum(z, floor)  # f: ReLU for floor 0, identity for -inf; other activations are applied afterwards


def conv2d_backward_plain(x, w, dz, stride, before, dilation, groups):
    (_, H, W, _), (I, J, _, _) = x.shape, w.shape
    (s, r), (top, left), (d, e) = stride, before, dilation
    dw, db, dx = np.zeros_like(w), dz.sum(axis=(0, 1, 2)), np.zeros_like(x)
    for n, p, q in np.ndindex(dz.shape[:3]):
        for i, j in np.ndindex(I, J):
            h, g = p * s + i * d - top, q * r + j * e - left
            if 0 <= h < H and 0 <= g < W:
                for c, k in parts_of(groups, x, w):
                    dw[i, j, :, k] += np.outer(x[n, h, g, c], dz[n, p, q, k])  # w[i,j] touched this z, times this x,
                    dx[n, h, g, c] += w[i, j, :, k] @ dz[n, p, q, k]  # and this x touched it, times this w; over k
    return dw, db, dx


# As in dense.py, the backward kernel makes a ReLU's dz itself, and leaves out dx if not input_grad.
conv2d_forward = either(conv2d_forward_plain, grouped.conv2d_forward)
conv2d_backward = either(
    conv2d_backward_plain,
    grouped.conv2d_backward,
    lambda x, w, grad, y, is_relu, stride, before, dilation, groups, _: (
        *(x, w, through_relu(grad, y, is_relu)),
        *(stride, before, dilation, groups),
    ),
)


conv2d_backward_input = either(lambda *given: conv2d_backward_plain(*given)[2], grouped.conv2d_backward_input)


class Conv2D(Weighted):
    """Filters that look for a pattern everywhere in an image: x (N, H, W, C) -> y (N, P, Q, filters).

    A window of I x J pixels moves over the image, to P x Q positions.  At each, every filter makes a weighted sum of
    the window's I J C numbers, with the same weights everywhere; then come its bias and the activation:

        y[n,p,q] = activation(sum of x w over the window at (p, q), + b)         w (I, J, C, filters)   b (filters,)

    filters      how many; each makes one channel of y
    kernel_size  the window, a whole number or a pair (I, J)
    stride       how far it moves from one position to the next, a whole number or a pair
    padding      "valid": only positions where the whole window is inside; "same": zeros around, so that the output has
                 ceil(H / stride) rows; an odd row or column of zeros goes below or to the right; a whole number: that
                 many on every side; two: above and below, left and right; or ((above, below), (left, right))
    dilation     how far the pixels are apart that the window looks at, a whole number or a pair
    groups       into how many parts channels and filters are cut, each part of the filters for its own part of the
                 channels; it must divide the numbers of both, and w is (I, J, C / groups, filters)
    activation   a bend of each sum, by its name in activations.py ("relu", "tanh", ...), or None
    bias         False leaves b out
    init         how w starts, as in Dense; b starts at 0

    As is usual in the field this is a cross-correlation: the filters aren't flipped.

    Raises ValueError for inputs that are not images (N, H, W, C), and where the window does not fit into them.

    >>> tn.Sequential([tn.Conv2D(8, 3)], (28, 28, 1)).output_shape
    (26, 26, 8)
    >>> tn.Sequential([tn.Conv2D(8, 3, stride=2, padding="same")], (28, 28, 1)).output_shape
    (14, 14, 8)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] = "valid",
        activation: str | None = None,
        bias: bool = True,
        init=None,
        *,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
    ):
        self.filters = positive_int(filters, "Conv2D: filters")
        self.kernel_size, self.stride = pair(kernel_size, "Conv2D: kernel_size"), pair(stride, "Conv2D: stride")
        self.padding, self.dilation = checked_padding(padding, "Conv2D: padding"), pair(dilation, "Conv2D: dilation")
        self.groups = positive_int(groups, "Conv2D: groups")
        if self.filters % self.groups:
            raise ValueError(f"Conv2D: groups must divide the {filters} filters, got {groups!r}")
        super().__init__(activation, bias, init)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 3:
            raise ValueError(f"{self.label}: expected images, input shape (H, W, C), got {self.input_shape}")
        (I, J), C, K = self.kernel_size, self.input_shape[2], self.filters
        if C % self.groups:
            raise ValueError(f"{self.label}: expected channels that {self.groups} groups divide, got {C}")
        window, C = (self.kernel_size, self.stride, self.padding, self.dilation), C // self.groups
        self._size, self._around = output_size(self.label, self.input_shape, *window)
        self._before = tuple(before for before, _ in self._around)
        P, Q = self._size
        self._start_parameters((I, J, C, K), I * J * C, I * J * K // self.groups, rng)
        self.output_shape = (P, Q, K)
        self.flops = 2 * P * Q * I * J * C * K
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x, (w, b) = self.checked(x), self._values()
        z = np.empty((len(x), *self.output_shape), self.dtype)
        windows = self.stride, self._before, self.dilation, self.groups
        conv2d_forward(x, w, b, *windows, self._size, self._floor, z)
        y, kept = (z, None) if self.activation is None else self._activated(z)
        if training:
            self._keep(x, kept)
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        (x, kept), (w, _), (dw, db) = self.kept("_kept"), self._values(), self._gradients()
        dy = self.checked_gradient(dy, len(x))
        dx = np.empty_like(x) if input_grad else np.empty((0, 0, 0, 0), self.dtype)
        grad, y, is_relu = self._through_activation(dy, kept)  # grad is dz; a ReLU's is dy, and the kernel makes dz
        windows = self.stride, self._before, self.dilation, self.groups
        if self.trains:
            conv2d_backward(x, w, grad, y, is_relu, *windows, input_grad, dw, db, dx)
        elif input_grad:
            conv2d_backward_input(x, w, through_relu(grad, y, is_relu), *windows, dx)
        return dx if input_grad else None

    def formula(self):
        return self._formula_of("conv(x, w)")

    def backward_formula(self):
        spread = "" if self.stride == (1, 1) else ", dz spread by the stride"
        return self._backward_formula_of("conv(x, dz)", "conv(dz, w flipped)" + spread)

    # What others ask of it.

    torch_names = ("Conv2d",)
    torch_axes = MappingProxyType({"weight": (3, 2, 0, 1), "bias": (0,)})

    def weight_images(self, shape):
        return self.parameters[0].value.transpose(3, 0, 1, 2)

    @property
    def zeros_around(self):
        """((top, bottom), (left, right))."""
        return self._around

    def torch_module(self, nn):
        (top, bottom), (left, right) = self.zeros_around
        around, padding = {}, (top, left)
        if (top, left) != (bottom, right):  # PyTorch's own padding is symmetrical
            around, padding = {"_padding": nn.ZeroPad2d((left, right, top, bottom))}, 0
        C, K = self.input_shape[-1], self.filters
        options = self.stride, padding, self.dilation, self.groups, self.bias
        return {**around, "": nn.Conv2d(C, K, self.kernel_size, *options)}

    def torch_options(self, module):
        return [
            ("stride", self.stride, module.stride),
            ("dilation", self.dilation, module.dilation),
            ("groups", self.groups, module.groups),
        ]

    def onnx(self, graph, x):
        w, b = self._values()
        w = w.transpose(self.torch_axes["weight"])
        pads = [zeros for side in zip(*self.zeros_around, strict=True) for zeros in side]
        options = {"strides": self.stride, "dilations": self.dilation, "group": self.groups}
        return self._onnx_activated(graph, graph.add("Conv", x.first(), w, b, pads=pads, **options), "first")
