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

import numba
import numpy as np
from numba import prange

from tinynet import simd
from tinynet.checks import pair, positive_int
from tinynet.layers import activations, few_filters, winograd
from tinynet.layers.activations import rectified
from tinynet.layers.base import Layer
from tinynet.layers.initialization import initial_weights
from tinynet.layers.padding import checked_padding, places, with_zeros_around
from tinynet.layers.parameter import Parameter
from tinynet.tile import THREADS_FROM, tile
from tinynet.transpose import transpose
from tinynet.vectors import load, store, store_some, width

# So many sums, of the rows of dz that fit into the L1 cache for dw, of images for db, are added in their own dtype, and
# those in float64, where they lose no digits, however large the batch or the image.
SUMS = 32


@simd.sized_kernel(THREADS_FROM, of=lambda x, w, *rest: rest[-1].size * (w.size // w.shape[3]), tiled=True)
def conv2d_forward(x, w, b, stride, before, floor, y):
    """y = max(floor, conv(x, w) + b); `before` is (t, l).  A thread owns the rows of y of its band of an image."""
    N, H, W, C = x.shape
    I, J, _, K = w.shape
    _, P, Q, _ = y.shape
    (s, r), (top, left) = stride, before
    V = (Q - 1) * r + J
    pads = top > 0 or left > 0 or (P - 1) * s + I > H or V > W
    bands = simd.band_count(N, P, P * s * V * C)
    for task in prange(N * bands):
        n, band = task // bands, task % bands
        p0, p1 = band * P // bands, (band + 1) * P // bands
        if pads:
            source = simd.scratch(((p1 - p0 - 1) * s + I, V, C), x)
            with_zeros_around(x[n], p0 * s - top, left, source)
        else:
            source = x[n, p0 * s :]
        row = source.shape[1] * C
        for p in range(p0, p1):
            tile(
                (Q, K, I, J * C),
                source, (p - p0) * s * row, (r * C, row, 1),
                w, 0, (J * C * K, K),
                b, 0, 0,
                y, ((n * P + p) * Q) * K, K,
                floor,
            )  # fmt: skip


@simd.kernel()
def rows_at_once(Q, K):
    """How many rows of dz (P, Q, K) stay in the L1 cache (24 KB) while all tiles of dw pass over them."""
    return max(1, 6144 // (Q * K))


@simd.kernel()
def backward_weights_of_image(source, dz, stride, count, zeros, dw, wide):
    """dw += the sum over the places of one image; `source` is x with its zeros around.

    `count` is how many sums are in dw so far; where it is 0, dw is written over.  Returns the new one.  SUMS of them go
    into wide, in float64, unless that is empty.
    """
    P, Q, K = dz.shape
    I, J, C, _ = dw.shape
    s, r = stride
    row = source.shape[1] * C
    none = dz.dtype.type(-np.inf)
    step = rows_at_once(Q, K)
    for p in range(0, P, step):
        for i in range(I):
            size, a_step, b_step = (J * C, K, min(step, P - p), Q), (1, s * row, r * C), (Q * K, K)
            at, a, b = i * J * C * K, (p * s + i) * row, p * Q * K
            if count == 0:
                tile(size, source, a, a_step, dz, b, b_step, zeros, 0, 0, dw, at, K, none)
            else:
                tile(size, source, a, a_step, dz, b, b_step, dw, at, K, dw, at, K, none)
        count += 1
        if wide.size and count == SUMS:
            simd.add_to(wide, simd.piece(dw, 0, dw.size), False)
            count = 0
    return count


@simd.kernel()
def sum_windows(sums, J, left, row, dx):
    """Row `row` of dx (H, W, C), stride 1, from sums (Q + 2 J - 2, J C): what each place gives to the columns under it.

    Place q's line is the (q + J - 1)-th, between zeros, and with room for a vector behind them: vectors read on into
    the next line, and write on into the next pixel, which is written over next.  Near the end of dx they are masked.
    """
    _, W, C = dx.shape
    masked, run = (row + 1) * W * C + width(dx) > dx.size, J * C
    to = simd.piece(dx, row * W * C, W * C if masked else W * C + width(dx))
    for g in range(W):
        at = (g + left + J - 1) * run
        total = load(sums, at)
        for j in range(1, J):
            total = total + load(sums, at - j * (run - C))
        if masked:
            store_some(total, to, g * C, (W - g) * C)
        else:
            store(total, to, g * C)


@simd.kernel()
def backward_input_of_image(dz, wt, narrow, stride, before, zeros, sums, dx):
    """dx of one image, from dz (P, Q, K) and the kernel with its axes swapped, wt (I, J, K, C).

    `narrow`: C channels would not fill a vector, so wt is (I, K, J, C), and one tile has all j.
    (64, 14, 14, 6) under 5 x 5 x 16 takes 180 microseconds so, instead of 450.
    """
    P, Q, K = dz.shape
    H, W, C = dx.shape
    I, J = wt.shape[0], wt.size // (wt.shape[0] * K * C)
    (s, r), (top, left) = stride, before
    none, nothing, flat = dz.dtype.type(-np.inf), dz.dtype.type(0), simd.piece(dx, 0, H * W * C)
    run = J * C
    for m in range(0 if narrow else H * W * C):
        flat[m] = nothing
    for h in range(H):
        # The rows i, i + s, ... of the window that reach row h, from row p of dz upwards.
        p = min(P - 1, (h + top) // s)
        i = h + top - p * s
        rows = min(p + 1, (I - 1 - i) // s + 1)
        if rows <= 0:
            for m in range(h * W * C, (h + 1) * W * C):
                flat[m] = nothing
            continue
        if narrow:
            tile(
                (Q, run, rows, K),
                dz, p * Q * K, (K, -Q * K, 1),
                wt, i * K * run, (s * K * run, run),
                zeros, 0, 0,
                sums, (J - 1) * run, run,
                none,
            )  # fmt: skip
            sum_windows(sums, J, left, h, dx)
            continue
        for j in range(J):
            q0 = max(0, -((j - left) // r))  # the first and last place whose column j is within the image
            q1 = min(Q - 1, (W - 1 + left - j) // r)
            if q1 < q0:
                continue
            at = (h * W + q0 * r + j - left) * C
            tile(
                (q1 - q0 + 1, C, rows, K),
                dz, (p * Q + q0) * K, (K, -Q * K, 1),
                wt, (i * J + j) * K * C, (s * J * K * C, C),
                dx, at, r * C,
                dx, at, r * C,
                none,
            )  # fmt: skip


@simd.sized_kernel(THREADS_FROM, of=lambda x, w, dy, *_: dy.size * (w.size // w.shape[3]), tiled=True)
def conv2d_backward(x, w, dy, y, is_relu, stride, before, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx.  `is_relu`: y is a ReLU's output and dy its gradient, so dz = dy where y > 0.

    The images are shared out in chunks fixed by the shapes; a chunk has sums of its own, added in order at the end, so
    the result has the same bits for any number of threads.
    """
    N, H, W, C = x.shape
    I, J, _, K = w.shape
    _, P, Q, _ = dy.shape
    (s, r), (top, left) = stride, before
    U, V = (P - 1) * s + I, (Q - 1) * r + J
    pads = top > 0 or left > 0 or U > H or V > W
    chunks = min(N, 16, max(4, 2**23 // w.size))  # at most 32 MB of sums, or four times the kernel
    dw_of = np.empty((chunks, I, J, C, K), x.dtype)
    db_of = np.empty((chunks, K))
    sums_of_chunk = -(-N // max(chunks, 1)) * -(-P // rows_at_once(Q, K))
    wide_of = np.zeros((chunks, w.size if sums_of_chunk > SUMS else 0))
    none = x.dtype.type(-np.inf)
    one, zeros = np.empty(1, x.dtype), np.empty(max(Q * K, J * C), x.dtype)
    one[0] = 1
    for k in range(zeros.size):
        zeros[k] = 0
    narrow = r == 1 and J > 1 and width(x) > C and width(x) // 2 != C
    wt = np.empty((I, K, J, C) if narrow else (I, J, K, C), x.dtype)
    if input_grad:
        for i in range(I):
            for j in range(J):
                if narrow:
                    transpose(w, (i * J + j) * C * K, K, wt, i * K * J * C + j * C, J * C, C, K)
                else:
                    transpose(w, (i * J + j) * C * K, K, wt, (i * J + j) * C * K, C, C, K)
    for chunk in prange(chunks):
        n0, n1 = chunk * N // chunks, (chunk + 1) * N // chunks
        padded = simd.scratch((U if pads else 0, V, C), x)
        rectified_dy = simd.scratch((P if is_relu else 0, Q, K), x)
        sums = simd.scratch(((Q + 2 * J - 2) * J * C + width(x) if narrow else 0,), x)
        for m in range(sums.size):
            sums[m] = 0
        bias_sums, biases = simd.scratch((Q * K,), x), simd.piece(db_of, chunk * K, K)
        for k in range(K):
            biases[k] = 0
        count, dw_here = 0, dw_of[chunk]
        wide = simd.piece(wide_of, chunk * wide_of.shape[1], wide_of.shape[1])
        for n in range(n0, n1):
            dz, source = dy[n], x[n]
            if is_relu:
                rectified(dy, y, n * P * Q * K, P * Q * K, simd.piece(rectified_dy, 0, P * Q * K))
                dz = rectified_dy
            if pads:
                with_zeros_around(source, -top, left, padded)
                source = padded
            count = backward_weights_of_image(source, dz, stride, count, zeros, dw_here, wide)
            # The bias is a weight whose input is always 1.  Rows are added to a row, and its places only after SUMS
            # images: a place after the other, each sum would wait for the one before.
            size, start = (1, Q * K, 1, P), zeros if (n - n0) % SUMS == 0 else bias_sums
            tile(size, one, 0, (0, 0, 0), dz, 0, (0, Q * K), start, 0, 0, bias_sums, 0, 0, none)
            if (n + 1 - n0) % SUMS == 0 or n + 1 == n1:
                for q in range(Q):
                    place = simd.piece(bias_sums, q * K, K)
                    for k in range(K):
                        biases[k] += place[k]
            if input_grad:
                backward_input_of_image(dz, wt, narrow, stride, before, zeros, sums, dx[n])
        part = simd.piece(dw_here, 0, dw_here.size)
        if count > 0:
            simd.add_to(wide, part, False)
        simd.rounded(wide, part)
    simd.sum_of_chunks(dw_of, dw)
    for k in range(K):
        total = 0.0
        for chunk in range(chunks):
            total += db_of[chunk, k]
        db[k] = total


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
