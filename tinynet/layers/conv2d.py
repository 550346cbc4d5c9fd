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

A vector holds the filters of a place, and six fill 6 lanes of 16.  So of few filters, T places share a vector:

    z of T places:  (Q / T) x (T K), summed over I rows of (J + T - 1) C numbers: the windows of all T together

where the kernel stands T times, each time a column further and K lanes on, and zeros elsewhere.  6 filters of 5 x 5,
two places a vector, take 6 steps where they took 10.  dw is summed like that too, and folded at the end.  The stride
must be 1.  An inf or NaN in x reaches all T places, since the zeros multiply it too.

A 3 x 3 window with stride 1, at least 32 channels and filters, and P and Q that 4 divides is done with 4 times fewer
multiplications, in winograd.py.

One image's zeros, dz and sums stay in a core's L2 cache from one step to the next: the whole backward pass goes over
memory once, in one launch.
"""

import numpy as np
from numba import prange

from tinynet import simd
from tinynet.layers import activations, winograd
from tinynet.layers.activations import rectified
from tinynet.layers.base import Layer, Parameter, pair, positive_int
from tinynet.layers.initialization import initial_weights
from tinynet.layers.padding import places, with_zeros_around
from tinynet.tile import tile
from tinynet.transpose import transpose
from tinynet.vectors import lanes_of


def places_together(filters, window, stride, Q, lanes):
    """T: how many places of a row share a vector of so many lanes; `window` is (I, J, C)."""
    most, J = min(lanes // filters, Q), window[1]
    copies = most * (J + most - 1) / J  # of the kernel, to be written at each call
    return most if most > 1 and stride == (1, 1) and J > 1 and copies * np.prod(window) * filters <= 16384 else 1


@simd.kernel()
def side_by_side(w, T):
    """The kernel w (I, J, C, K) T times, each a column further and K filters on: (I, J + T - 1, C, T K)."""
    I, J, C, K = w.shape
    wide = np.zeros((I, J + T - 1, C, T * K), w.dtype)
    for i in range(I):
        for j in range(J):
            for c in range(C):
                for t in range(T):
                    for k in range(K):
                        wide[i, j + t, c, t * K + k] = w[i, j, c, k]
    return wide


@simd.kernel(parallel=True, tiled=True)
def conv2d_forward(x, w, b, stride, before, T, floor, y):
    """y = max(floor, conv(x, w) + b); `before` is (t, l).  A thread owns the rows of y of its band of an image.

    T places of a row share a vector.  With T > 1 a single tile does a whole band: V is a multiple of T, so that the
    groups of T run on from one row into the next, and what they find between two rows is thrown away.
    """
    N, H, W, C = x.shape
    I, J, _, K = w.shape
    _, P, Q, _ = y.shape
    (s, r), (top, left) = stride, before
    groups = (Q + T - 1) // T
    V = (Q - 1) * r + J if T == 1 else (groups * T - 1 + J + T - 1) // T * T
    pads = top > 0 or left > 0 or (P - 1) * s + I > H or (V > W if T == 1 else V != W)
    wide, biases = w, b
    if T > 1:
        wide, biases = side_by_side(w, T), np.empty(T * K, x.dtype)
        for k in range(T * K):
            biases[k] = b[k % K]
    # Bands, so that a single image keeps several threads busy, and that a large one's stay in the cache.
    bands = min(P, max((8 + N - 1) // max(N, 1), P * s * V * (C if T == 1 else max(C, K)) // 65536))
    for task in prange(N * bands):
        n, band = task // bands, task % bands
        p0, p1 = band * P // bands, (band + 1) * P // bands
        if pads:
            source = simd.scratch(((p1 - p0 - 1) * s + I, V, C), x)
            with_zeros_around(x[n], p0 * s - top, left, source)
        else:
            source = x[n, p0 * s :]
        row = source.shape[1] * C
        if T > 1:
            run, sums = wide.shape[1] * C, simd.scratch(((p1 - p0) * V * K,), x)
            tile(
                ((p1 - p0 - 1) * V // T + groups, T * K, I, run),
                source, 0, (T * C, row, 1),
                wide, 0, (run * T * K, T * K),
                biases, 0, 0,
                sums, 0, T * K,
                floor,
            )  # fmt: skip
            for p in range(p0, p1):
                to, some = simd.piece(y, (n * P + p) * Q * K, Q * K), simd.piece(sums, (p - p0) * V * K, Q * K)
                for m in range(Q * K):
                    to[m] = some[m]
            continue
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
def backward_weights_of_image(source, dz, stride, first, zeros, T, dw):
    """dw += the sum over the places of one image (= where it is the first); `source` is x with its zeros around.

    dw (I, J + T - 1, C, T K) has the sums of every T-th place apart, where the kernel side_by_side has them.
    """
    P, Q, K = dz.shape
    I, J, C, _ = dw.shape
    s, r = stride
    groups, width = Q // T, T * K
    row = source.shape[1] * C
    none = dz.dtype.type(-np.inf)
    # A few rows of dz at a time, so that they stay in the L1 cache (24 KB) while all tiles of dw pass over them.
    step = max(1, 6144 // (Q * K))
    for p in range(0, P, step):
        for i in range(I):
            size, a_step, b_step = (J * C, width, min(step, P - p), groups), (1, s * row, T * r * C), (Q * K, width)
            at, a, b = i * J * C * width, (p * s + i) * row, p * Q * K
            if first and p == 0:
                tile(size, source, a, a_step, dz, b, b_step, zeros, 0, 0, dw, at, width, none)
            else:
                tile(size, source, a, a_step, dz, b, b_step, dw, at, width, dw, at, width, none)
            q = groups * T
            if q < Q:  # what is left of a row, to the sums of the first of T
                size, a, b = ((J - T + 1) * C, K, min(step, P - p), Q - q), a + q * r * C, b + q * K
                tile(size, source, a, (1, s * row, r * C), dz, b, (Q * K, K), dw, at, width, dw, at, width, none)


@simd.kernel()
def fold(wide, dw):
    """dw (I, J, C, K) = the sum of what belongs together in wide (I, J + T - 1, C, T K)."""
    I, J, C, K = dw.shape
    for i in range(I):
        for j in range(J):
            for c in range(C):
                for k in range(K):
                    dw[i, j, c, k] = 0
                    for t in range(wide.shape[3] // K):
                        dw[i, j, c, k] += wide[i, j + t, c, t * K + k]


@simd.kernel()
def backward_input_of_image(dz, wt, narrow, stride, before, zeros, line, sums, dx):
    """dx of one image, from dz (P, Q, K) and the kernel with its axes swapped, wt (I, J, K, C).

    `narrow`: C channels would not fill a vector, so wt is (I, K, J, C), and one tile has all j: sums (Q, J C).  What
    belongs to the columns of a row of dx is then added up in line, a row with its zeros.
    (64, 14, 14, 6) under 5 x 5 x 16 takes 230 microseconds so, instead of 450.
    """
    P, Q, K = dz.shape
    H, W, C = dx.shape
    I, J = wt.shape[0], wt.size // (wt.shape[0] * K * C)
    (s, r), (top, left) = stride, before
    none, nothing, flat = dz.dtype.type(-np.inf), dz.dtype.type(0), simd.piece(dx, 0, H * W * C)
    run = J * C
    for m in range(H * W * C):
        flat[m] = nothing
    for h in range(H):
        # The rows i, i + s, ... of the window that reach row h, from row p of dz upwards.
        p = min(P - 1, (h + top) // s)
        i = h + top - p * s
        rows = min(p + 1, (I - 1 - i) // s + 1)
        if rows <= 0:
            continue
        if narrow:
            for m in range(line.size):
                line[m] = nothing
            tile(
                (Q, run, rows, K),
                dz, p * Q * K, (K, -Q * K, 1),
                wt, i * K * run, (s * K * run, run),
                zeros, 0, 0,
                sums, 0, run,
                none,
            )  # fmt: skip
            for first in range(J):  # runs that overlap far apart: what was just stored can't be loaded again at once
                for q in range(first, Q, J):
                    place, some = simd.piece(line, q * r * C, run), simd.piece(sums, q * run, run)
                    for m in range(run):
                        place[m] += some[m]
            inside = simd.piece(line, left * C, W * C)
            for m in range(W * C):
                flat[h * W * C + m] = inside[m]
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


@simd.kernel(parallel=True, tiled=True)
def conv2d_backward(x, w, dy, y, is_relu, stride, before, T, input_grad, dw, db, dx):
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
    dw_of = np.empty((chunks, I, J + T - 1, C, T * K), x.dtype)
    db_of = np.empty((chunks, Q, K), x.dtype)
    none = x.dtype.type(-np.inf)
    one, zeros = np.empty(1, x.dtype), np.empty(max(Q * K, J * C, T * K), x.dtype)
    one[0] = 1
    for k in range(zeros.size):
        zeros[k] = 0
    narrow = J > 1 and C < 16 and C != 8
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
        line = simd.scratch((max(V, W + left) * C,), x)
        sums = simd.scratch((Q * J * C,), x)
        for n in range(n0, n1):
            dz, source = dy[n], x[n]
            if is_relu:
                rectified(dy, y, n * P * Q * K, P * Q * K, simd.piece(rectified_dy, 0, P * Q * K))
                dz = rectified_dy
            if pads:
                with_zeros_around(source, -top, left, padded)
                source = padded
            backward_weights_of_image(source, dz, stride, n == n0, zeros, T, dw_of[chunk])
            # The bias is a weight whose input is always 1.  Rows are added to a row, and its places only at the end: a
            # place after the other, each sum would wait for the one before.
            start, at = (zeros, 0) if n == n0 else (simd.piece(db_of, 0, chunks * Q * K), chunk * Q * K)
            size = 1, Q * K, 1, P
            tile(size, one, 0, (0, 0, 0), dz, 0, (0, Q * K), start, at, 0, db_of, chunk * Q * K, 0, none)
            if input_grad:
                backward_input_of_image(dz, wt, narrow, stride, before, zeros, line, sums, dx[n])
    if T == 1:
        simd.sum_of_chunks(dw_of, dw)
    else:
        total = np.empty(dw_of.shape[1:], x.dtype)
        simd.sum_of_chunks(dw_of, total)
        fold(total, dw)
    for k in range(K):
        db[k] = 0
    for chunk in range(chunks):
        for q in range(Q):
            for k in range(K):
                db[k] += db_of[chunk, q, k]


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
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ValueError(f'Conv2D: padding must be "valid", "same" or a whole number, got {padding!r}')
        else:
            padding = pair(padding, "Conv2D: padding", least=0)
        self.padding = padding
        self.activation_name, self.activation = activation, activations.activation(activation, "Conv2D")
        self.bias, self.init = bool(bias), init
        self._x = self._kept = None

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
        self._together = places_together(K, (I, J, C), self.stride, Q, lanes_of(self.dtype))
        self._by_winograd = winograd.fits(self.kernel_size, self.stride, self.output_shape, C)
        return self.output_shape

    def forward(self, x, training=False):
        x = self.checked(x)
        w = self.parameters[0].value
        b = self.parameters[1].value if self.bias else self._no_bias
        y = np.empty((len(x), *self.output_shape), self.dtype)
        floor = self.dtype.type(0 if self.activation_name == "relu" else -np.inf)
        if self._by_winograd:
            winograd.winograd_forward(x, w, b, self._before, floor, y)
        else:
            conv2d_forward(x, w, b, self.stride, self._before, self._together, floor, y)
        kept = y if self.activation is not None else None
        if self.activation is not None and self.activation_name != "relu":
            if self.activation.keeps == "input":
                y = self.activation.forward(y)
            else:
                self.activation.forward_in_place(y)
        if training:
            self._x, self._kept = x, kept
        return y

    @property
    def keeps_output(self):
        return self.activation is not None and self.activation.keeps == "output"

    def backward(self, dy, input_grad=True):
        x, w = self.kept("_x"), self.parameters[0].value
        dz = self.checked_gradient(dy, len(x))
        is_relu = self.activation_name == "relu"
        if self.activation is not None and not is_relu:
            dz = self.activation.backward(dz, self._kept)
        db = self.parameters[1].grad if self.bias else np.empty_like(self._no_bias)
        dx = np.empty_like(x) if input_grad else np.empty((0, 0, 0, 0), self.dtype)
        y = self._kept if is_relu else dz
        results = self.parameters[0].grad, db, dx
        if self._by_winograd:
            winograd.winograd_backward(x, w, dz, y, is_relu, self._before, input_grad, *results)
        else:
            conv2d_backward(x, w, dz, y, is_relu, self.stride, self._before, self._together, input_grad, *results)
        return dx if input_grad else None

    def formula(self):
        sums = "conv(x, w) + b" if self.bias else "conv(x, w)"
        return f"y = {self.activation_name}({sums})" if self.activation else f"y = {sums}"

    def backward_formula(self):
        dz = "dz" if self.activation else "dy"
        first = f"dz = {self.activation_name}'(z) dy, " if self.activation else ""
        db = f"db = sum {dz}, " if self.bias else ""
        spread = "" if self.stride == (1, 1) else f", {dz} spread by the stride"
        return f"{first}dw = conv(x, {dz}), {db}dx = conv({dz}, w flipped){spread}"
