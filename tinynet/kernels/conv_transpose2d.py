"""The transposed convolution, out of convolutions: forward is a convolution's way back, and backward its way forward.

    z[n,h,g,k] = b[k] + sum of x[n,p,q,c] w[i,j,k,c] over those p, q, i, j with p s + i - top = h, q r + j - left = g

Of the rows h of z take every s-th: h + top = m s + a, for a phase a < s.  They met the rows i = a + s i' of the window
alone, at p = m - i'.  So each phase (a, b) is a convolution with stride 1 of x, by the weights w[a::s, b::r] turned
around, with their last two axes swapped: no zeros between the rows of x, and no multiplication by them.
"""

import numpy as np

from tinynet.kernels.convolution import conv2d_backward, conv2d_forward


def conv_transpose2d_forward(x, w, b, stride, before, size, floor, z):
    """z (N, H, W, K) of x (N, P, Q, C), w (I, J, K, C) and b (K,): at least `floor`; before is (top, left)."""
    (s, r), (H, W) = stride, size
    for a in range(s):
        rows = phase(a, w.shape[0], s, before[0], H)
        for c in range(r):
            columns = phase(c, w.shape[1], r, before[1], W)
            turned = np.ascontiguousarray(w[a::s, c::r][::-1, ::-1].swapaxes(2, 3))
            part = z[:, rows.first :: s, columns.first :: r]
            if not part.size:
                continue
            if not turned.size:
                part[...] = np.maximum(b, floor)
                continue
            source = np.ascontiguousarray(x[:, rows.skipped :, columns.skipped :])
            out = np.empty(part.shape, z.dtype)
            zeros = rows.zeros, columns.zeros
            if source.size:
                conv2d_forward(source, turned, b, (1, 1), zeros, out.shape[1:3], floor, out)
            else:
                out[...] = np.maximum(b, floor)
            part[...] = out


class phase:
    """Along one axis: the first place of the phase a, and what its convolution has before its image, zeros or less."""

    def __init__(self, a, window, stride, before, extent):
        m = max(0, -((a - before) // stride))  # the first with m s + a - before >= 0
        reach = -(-(window - a) // stride) - 1 - m
        self.first, self.zeros, self.skipped = m * stride + a - before, max(0, reach), max(0, -reach)


def conv_transpose2d_backward(x, w, dz, stride, before, input_grad, dw, db, dx):
    """dw and db, unless dw is empty, and dx, if asked for.

    dx is the convolution of dz by w, and dw what that convolution says of w.
    """
    zeros = np.empty(x.shape[3], x.dtype)
    if dw.size:
        conv2d_backward(dz, w, x, x, False, stride, before, False, dw, zeros, np.empty((0, 0, 0, 0), x.dtype))
        db[...] = dz.reshape(-1, dz.shape[3]).sum(axis=0, dtype=np.float64)
    if input_grad:
        zeros[...] = 0
        conv2d_forward(dz, w, zeros, stride, before, x.shape[1:3], w.dtype.type(-np.inf), dx)
