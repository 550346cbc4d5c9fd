"""Groups and dilation: convolutions made of those without, in kernels/convolution.py.

Groups.  Each is a convolution of its own, of some channels by some filters; what belongs to one is copied so that it
lies behind each other.  Where each channel is a group, depthwise.py goes over the images as they are.

Dilation.  The position p looks at the rows p s - top + i d of the image.  Of positions that are d apart, p = d m + a,

    p s - top + i d  =  (a s - top) + (m s + i) d

are every d-th row from a s - top on: a window without dilation, at position m, over an image of every d-th row.  So
an image becomes d times e smaller ones, for the rows a < d and columns b < e, as many samples of one batch; their
outputs are put together again.  Backward likewise: a pixel that lies in several of them gets the sum.

Sources: dilation, Yu and Koltun 2016; groups, Krizhevsky et al. 2012.
"""

import numpy as np
from numba import prange

from tinynet.kernels import convolution, memory
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.conv_transpose2d import conv_transpose2d_forward
from tinynet.kernels.depthwise import depthwise_backward, depthwise_backward_input, depthwise_forward

THREADS_FROM = 65536  # numbers that are copied from which two threads beat one


def conv2d_forward(x, w, b, stride, before, dilation, groups, size, floor, y):
    """y (N, P, Q, K) = max(floor, z), z the convolution of x (N, H, W, C) and w (I, J, C / groups, K), plus b (K,).

    before is (top, left), the rows and columns of zeros there; size is (P, Q).
    """
    if groups == 1 and dilation == (1, 1):
        convolution.conv2d_forward(x, w, b, stride, before, size, floor, y)
    elif not len(x):
        return
    elif groups == 1:
        images, outputs = smaller(x, w, stride, before, dilation, size)
        convolution.conv2d_forward(images, w, b, stride, (0, 0), outputs.shape[1:3], floor, outputs)
        join_outputs(outputs, dilation, y)
    elif groups == x.shape[3]:
        x, w = by_channel(x, w)
        depthwise_forward(x, w, b, stride, before, dilation, floor, y)
    else:
        for channels, filters in parts_of(groups, x, w):
            own, out = np.ascontiguousarray(x[..., channels]), np.empty((*y.shape[:3], w.shape[3] // groups), y.dtype)
            weights, biases = np.ascontiguousarray(w[..., filters]), np.ascontiguousarray(b[filters])
            conv2d_forward(own, weights, biases, stride, before, dilation, 1, size, floor, out)
            y[..., filters] = out


def conv2d_backward(x, w, dy, y, is_relu, stride, before, dilation, groups, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx.  `is_relu`: y is a ReLU's output and dy its gradient, so dz = dy where y > 0."""
    if groups == 1 and dilation == (1, 1):
        convolution.conv2d_backward(x, w, dy, y, is_relu, stride, before, input_grad, dw, db, dx)
    elif not len(x):
        dw[...], db[...] = 0, 0
    elif groups == 1:
        images, dz = smaller(x, w, stride, before, dilation, dy.shape[1:3])
        split_outputs(dy, dilation, dz)
        ys = np.empty_like(dz) if is_relu else dz
        if is_relu:
            split_outputs(y, dilation, ys)
        dimages = np.empty_like(images) if input_grad else dx
        convolution.conv2d_backward(images, w, dz, ys, is_relu, stride, (0, 0), input_grad, dw, db, dimages)
        if input_grad:
            join_images(dimages, stride, before, dilation, dx)
    elif groups == x.shape[3]:
        many, flat = by_channel(x, w)
        dmany = np.empty_like(many) if input_grad else dx
        dflat = np.empty_like(flat)
        depthwise_backward(many, flat, dy, y, is_relu, stride, before, dilation, input_grad, dflat, db, dmany)
        dw[...] = dflat.reshape(dw.shape)
        if input_grad:
            dmany.reshape(*x.shape, -1).sum(axis=-1, out=dx)
    else:
        for channels, filters in parts_of(groups, x, w):
            some = [np.ascontiguousarray(array[..., filters]) for array in (w, dy, y if is_relu else dy)]
            own = np.ascontiguousarray(x[..., channels])
            dw_own, db_own = np.empty_like(some[0]), np.empty_like(db[filters])
            dx_own = np.empty_like(own) if input_grad else dx
            options = is_relu, stride, before, dilation, 1, input_grad
            conv2d_backward(own, *some, *options, dw_own, db_own, dx_own)
            dw[..., filters], db[filters] = dw_own, db_own
            if input_grad:
                dx[..., channels] = dx_own


def conv2d_backward_input(x, w, dz, stride, before, dilation, groups, dx):
    """dx alone, where w is frozen.  Of x only the shape counts.

    It is what a transposed convolution makes of dz: convolutions with stride 1, by the fastest way for their shapes.
    """
    if not len(x):
        return
    if groups == 1 and dilation == (1, 1):
        zeros, no_floor = np.zeros(x.shape[3], w.dtype), w.dtype.type(-np.inf)
        conv_transpose2d_forward(dz, w, zeros, stride, before, x.shape[1:3], no_floor, dx)
    elif groups == 1:
        shape, outputs = shapes_of_smaller(x, w, stride, dilation, dz.shape[1:3])
        dimages, dzs = np.empty(shape, w.dtype), np.empty(outputs, w.dtype)
        split_outputs(dz, dilation, dzs)
        conv2d_backward_input(dimages, w, dzs, stride, (0, 0), (1, 1), 1, dimages)
        join_images(dimages, stride, before, dilation, dx)
    elif groups == x.shape[3]:
        flat = w.reshape(*w.shape[:2], w.shape[3])
        dmany = np.empty((*x.shape[:3], w.shape[3]), w.dtype)
        depthwise_backward_input(flat, dz, stride, before, dilation, dmany)
        dmany.reshape(*x.shape, -1).sum(axis=-1, out=dx)
    else:
        for channels, filters in parts_of(groups, x, w):
            w_own, dz_own = (np.ascontiguousarray(array[..., filters]) for array in (w, dz))
            dx_own = np.empty((*x.shape[:3], w.shape[2]), w.dtype)
            conv2d_backward_input(dx_own, w_own, dz_own, stride, before, dilation, 1, dx_own)
            dx[..., channels] = dx_own


def parts_of(groups, x, w):
    """For each group its channels and its filters, as slices."""
    C, K = x.shape[3] // groups, w.shape[3] // groups
    return [(slice(g * C, (g + 1) * C), slice(g * K, (g + 1) * K)) for g in range(groups)]


def by_channel(x, w):
    """x with each channel as often as it has filters, and w (I, J, 1, K) without the axis of channels."""
    many = w.shape[3] // x.shape[3]
    return x if many == 1 else np.repeat(x, many, axis=3), w.reshape(*w.shape[:2], w.shape[3])


# --- dilation ---------------------------------------------------------------------------------------------------


def smaller(x, w, stride, before, dilation, size):
    """Images (N d e, U, V, C) of every d-th row and e-th column, and an array for their outputs (N d e, P, Q, K)."""
    images, outputs = (np.empty(shape, x.dtype) for shape in shapes_of_smaller(x, w, stride, dilation, size))
    split_images(x, stride, before, dilation, images)
    return images, outputs


def shapes_of_smaller(x, w, stride, dilation, size):
    (N, _, _, C), (I, J, _, K), (s, r), (d, e) = x.shape, w.shape, stride, dilation
    P, Q = -(-size[0] // d), -(-size[1] // e)
    return (N * d * e, (P - 1) * s + I, (Q - 1) * r + J, C), (N * d * e, P, Q, K)


@kernel()
def copy_pixel(source, at, C, to, place):
    """C numbers of source.flat, or zeros where `at` is negative."""
    out = memory.piece(to, place, C)
    if at < 0:
        for c in range(C):
            out[c] = 0
    else:
        given = memory.piece(source, at, C)
        for c in range(C):
            out[c] = given[c]


@sized_kernel(THREADS_FROM)
def split_images(x, stride, before, dilation, images):
    _, H, W, C = x.shape
    _, U, V, _ = images.shape
    (s, r), (top, left), (d, e) = stride, before, dilation
    for task in prange(images.shape[0] * U):
        image, u = task // U, task % U
        n, a, b = image // (d * e), image // e % d, image % e
        h = a * s - top + u * d
        for v in range(V):
            g = b * r - left + v * e
            at = ((n * H + h) * W + g) * C if 0 <= h < H and 0 <= g < W else -1
            copy_pixel(x, at, C, images, (task * V + v) * C)


@sized_kernel(THREADS_FROM)
def split_outputs(y, dilation, outputs):
    """outputs (N d e, P, Q, K) of y: 0 where they go on behind its last row or column."""
    _, H, W, K = y.shape
    _, P, Q, _ = outputs.shape
    d, e = dilation
    for task in prange(outputs.shape[0] * P):
        image, p = task // P, task % P
        n, h, b = image // (d * e), p * d + image // e % d, image % e
        for q in range(Q):
            g = q * e + b
            copy_pixel(y, ((n * H + h) * W + g) * K if h < H and g < W else -1, K, outputs, (task * Q + q) * K)


@sized_kernel(THREADS_FROM)
def join_outputs(outputs, dilation, y):
    _, H, W, K = y.shape
    _, P, Q, _ = outputs.shape
    d, e = dilation
    for task in prange(y.shape[0] * H):
        n, h = task // H, task % H
        for g in range(W):
            image = (n * d + h % d) * e + g % e
            copy_pixel(outputs, ((image * P + h // d) * Q + g // e) * K, K, y, (task * W + g) * K)


@sized_kernel(THREADS_FROM)
def join_images(images, stride, before, dilation, x):
    """x, of each pixel the sum over those of the smaller images that are made of it."""
    _, H, W, C = x.shape
    _, U, V, _ = images.shape
    (s, r), (top, left), (d, e) = stride, before, dilation
    for task in prange(x.shape[0] * H):
        n, h = task // H, task % H
        for g in range(W):
            pixel = memory.piece(x, (task * W + g) * C, C)
            for c in range(C):
                pixel[c] = 0
            for ab in range(d * e):
                u, v = h + top - ab // e * s, g + left - ab % e * r
                if u % d == 0 and v % e == 0 and 0 <= u < U * d and 0 <= v < V * e:
                    at = ((((n * d * e) + ab) * U + u // d) * V + v // e) * C
                    part = memory.piece(images, at, C)
                    for c in range(C):
                        pixel[c] += part[c]
