"""GRU: goes through a sequence with a state h, and two gates that say what of it is kept and what is read.

    x_t (I,)    h_t (H,)    w (I, 3H)    u (H, 3H)    b (3H,)    b_n (H,)        h' is that of the step before

    r = sigmoid(x_t w_r + h' u_r + b_r)         reset gate: how much of the state the candidate reads
    z = sigmoid(x_t w_z + h' u_z + b_z)         update gate: how much of the state stays
    m = h' u_n + b_n
    n = tanh(x_t w_n + b_w + r m)               candidate: what could come in its place
    h_t = (1 - z) n + z h'                      is the output y_t, too

w_r, w_z and w_n are the three parts of w, H columns each; so with u; b is [b_r, b_z, b_w].  All products but those with
w and u are number by number.  At the first step h' is 0, or a state carried over.

Here r multiplies the product with u, as in PyTorch and cuDNN; in the paper, it multiplies h' before.

Backward.  Go from the last step to the first.  At step t ask of each number: which later ones did it touch, and times
what?  From step t+1 comes dh, what h_t did there; after the last step it is 0, or the gradient of the last h, where
that alone is returned.  s_r, s_z and s_n stand for what sigmoid and tanh are taken of, and v for the products h' u.

    h_t     is y_t, and touched step t+1:               a    = dy_t + dh
    n       touched h_t, times 1 - z:                   dn   = a (1 - z)
    z       touched h_t, times h' - n:                  dz   = a (h' - n)
    s_n     touched n, times 1 - n^2:                   ds_n = dn (1 - n^2)
    s_z     touched z, times z (1 - z):                 ds_z = dz z (1 - z)
    r       touched s_n, times m:                       dr   = ds_n m
    s_r     touched r, times r (1 - r):                 ds_r = dr r (1 - r)
    m       touched s_n, times r:                       dm   = ds_n r

    w, b    touched s of every step, times x_t and 1:   dw = sum_t x_t.T ds       db = sum_t ds
    u, b_n  touched s_r, s_z and m, times h' and 1:     du = sum_t h'.T dv        db_n = sum_t dm
            with ds = [ds_r, ds_z, ds_n] and dv = [ds_r, ds_z, dm], summed over all sequences, too
    x_t     touched all of s, times w:                  dx_t = ds w.T
    h'      touched h_t, times z, and s_r, s_z and m,
            times u:                                    dh = a z + dv u.T         which goes on to step t-1

Here x_t, h', ds and dv are rows, so x_t.T ds is (I, 3H).  A state carried over from an earlier call is a constant.

Sources: Cho et al. 2014; the reset gate after the product, and the range of the first weights, are PyTorch's.
"""

import numpy as np

from tinynet.kernels import recurrent as kernels
from tinynet.kernels.compile import either
from tinynet.layers.recurrent import Recurrent, rows_in_time, sigmoid


def gru_forward_plain(x, begins, w, u, b, b_n, h):
    """h (D, N, H) is the state before the first step; recurrent.py says what begins and the axis D are."""
    (D, N, H), R = h.shape, len(x)
    y, gates, h_before = np.empty((R, D * H)), np.empty((D, R, 4, H)), np.empty((D, R, H))
    h = h.astype(np.float64)
    for d, i in np.ndindex(D, N):
        for t in rows_in_time(begins, i, d):
            h_before[d, t] = h[d, i]
            x_r, x_z, x_n = np.split(x[t] @ w[d] + b[d], 3)
            h_r, h_z, h_n = np.split(h[d, i] @ u[d], 3)
            r, z, m = sigmoid(x_r + h_r), sigmoid(x_z + h_z), h_n + b_n[d]
            n = np.tanh(x_n + r * m)
            gates[d, t] = r, z, n, m
            h[d, i] = (1 - z) * n + z * h[d, i]
            y[t, d * H : (d + 1) * H] = h[d, i]
    return y, h, gates, h_before


def gru_backward_plain(dy, dh, x, begins, w, u, gates, h_before):
    """dh (D, N, H) is the gradient of the last h, beside dy; dy may be left out, (0, D H)."""
    D, N, H = dh.shape
    dw, du, dx = np.zeros(w.shape), np.zeros(u.shape), np.zeros(x.shape)
    db, db_n = np.zeros((D, 3 * H)), np.zeros((D, H))
    for d, i in np.ndindex(D, N):
        dh_t = dh[d, i]
        for t in reversed(rows_in_time(begins, i, d)):
            r, z, n, m = gates[d, t].astype(np.float64)
            a = dh_t + (dy[t, d * H : (d + 1) * H] if len(dy) else 0)
            ds_n, ds_z = a * (1 - z) * (1 - n * n), a * (h_before[d, t] - n) * z * (1 - z)
            ds_r, dm = ds_n * m * r * (1 - r), ds_n * r
            ds, dv = np.concatenate([ds_r, ds_z, ds_n]), np.concatenate([ds_r, ds_z, dm])
            dw[d] += np.outer(x[t], ds)
            du[d] += np.outer(h_before[d, t], dv)
            db[d] += ds
            db_n[d] += dm
            dx[t] += ds @ w[d].T
            dh_t = a * z + dv @ u[d].T
    return dw, du, db, db_n, dx


gru_forward = either(gru_forward_plain, kernels.gru_forward)
# The backward kernel takes more than the plain loops: room for the gradients of all rows (D, R, .).
gru_backward = either(
    gru_backward_plain,
    kernels.gru_backward,
    lambda dy, dh, x, begins, w, u, gates, h_before, room: (dy, dh, x, begins, w, u, gates, h_before),
)


class GRU(Recurrent):
    """y_t = h_t of a GRU of so many units: x (N, T, I) -> y (N, T, units).

    bidirectional       runs a second GRU from the end to the beginning: y (N, T, 2 units), its h after the first's
    return_sequences    False returns the last h alone, (N, units) or (N, 2 units); the second direction's last h is at
                        the first step

    Parameters "weight" (I, 3 units), "recurrent_weight" (units, 3 units), "bias" (3 units,), in the order r, z, n, and
    "recurrent_bias" (units,), which is b_n; of a second direction the same, "weight_reverse" and so on.  Weights start
    uniform in +-1/sqrt(units), biases at 0.

    forward takes the `lengths` (N,) of sequences that are padded at their end, and a `state`, a dict: {} at the start
    of a sequence.  It leaves h there, and goes on from it when it is called with the next steps.

    >>> tn.Sequential([tn.GRU(8, return_sequences=False)], input_shape=(5, 3)).output_shape
    (8,)
    """

    states = ("h",)

    def _steps_forward(self, *arrays):
        gru_forward(*arrays)

    def _steps_backward(self, *arrays):
        gru_backward(*arrays)

    def _start_values(self, I, H, uniform):
        return [
            ("weight", uniform(I, 3 * H)),
            ("recurrent_weight", uniform(H, 3 * H)),
            ("bias", np.zeros(3 * H)),
            ("recurrent_bias", np.zeros(H)),
        ]

    def formula(self):
        return "y = h = (1 - z) n + z h', r, z = sigmoid(x w + h' u + b), n = tanh(x w_n + b_w + r (h' u_n + b_n))"

    def backward_formula(self):
        return "dw = sum x.T ds, du = sum h'.T dv, dx = ds w.T, dh = a z + dv u.T, from the last step to the first"

    # What others ask of it.

    torch_names = ("GRU",)

    def onnx(self, graph, x):
        _, _, b, b_n = self._stacked("_value")
        of_h = np.concatenate([np.zeros_like(b[:, : 2 * self.units]), b_n], axis=1)
        return self._onnx(graph, x, [1, 0, 2], np.stack([b, of_h]), linear_before_reset=1)  # z, r, n

    def _torch_biases(self, b, b_n):
        first = 2 * self.units  # of r and z, whose biases are added

        def take(given):
            b[...] = given

        def add(given):
            b[:first] += given[:first]
            b_n[...] = given[first:]

        return [("bias_ih", b, take), ("bias_hh", np.concatenate([np.zeros_like(b[:first]), b_n]), add)]
