"""GRU: goes through a sequence with a state h, and two gates that say what of it is kept and what is read.

    x_t (I,)    h_t, r, z, m, g (H,)    w (I, 3H)    u (H, 3H)    b (3H,)    b_m (H,)        r, z, m, g: those of step t

    a_r = x_t w_r + h_(t-1) u_r + b_r      r = sigmoid(a_r)     reset gate: how much of the state the candidate reads
    a_z = x_t w_z + h_(t-1) u_z + b_z      z = sigmoid(a_z)     update gate: how much of the state stays
    m   = h_(t-1) u_g + b_m
    a_g = x_t w_g + b_g + r m              g = tanh(a_g)        candidate: what could come in its place
    h_t = (1 - z) g + z h_(t-1)            is the output y_t, too

w_r, w_z and w_g are the three parts of w, H columns each; so with u; b is [b_r, b_z, b_g].  All products but those with
w and u are number by number.  At the first step h_(t-1) is 0, or a state that is carried over from an earlier call.

Here r multiplies the product with u, as in PyTorch and cuDNN; in the paper, it multiplies h_(t-1) before.

Backward.  Go from the last step to the first.  At step t ask of each number: which later ones did it touch, and times
what?  After the last step nothing comes: da_(t+1), dm_(t+1) and dh_(t+1) are 0 there.

    h_t     is y_t, and touched h_(t+1), times z_(t+1),     dh_t = dy_t + dh_(t+1) z_(t+1) + dhu_(t+1) u.T
            and a_r, a_z and m of step t+1, times u:        with dhu = [da_r, da_z, dm], for the product h u
            (where the last h alone is returned, its gradient is dy_t of the last step, and the other dy_t are 0)
    g       touched h_t, times 1 - z:                       dg   = dh_t (1 - z)
    z       touched h_t, times h_(t-1) - g:                 dz   = dh_t (h_(t-1) - g)
    a_g     touched g, times 1 - g^2:                       da_g = dg (1 - g^2)
    a_z     touched z, times z (1 - z):                     da_z = dz z (1 - z)
    r       touched a_g, times m:                           dr   = da_g m
    a_r     touched r, times r (1 - r):                     da_r = dr r (1 - r)
    m       touched a_g, times r:                           dm   = da_g r

    w, b    touched a of every step, times x_t and 1:       dw = sum_t x_t.T da_t         db = sum_t da_t
    u       touched a_r, a_z and m, times h_(t-1):          du = sum_t h_(t-1).T dhu_t
    b_m     touched m of every step, times 1:               db_m = sum_t dm_t
    x_t     touched all of a = [a_r, a_z, a_g], times w:    dx_t = da_t w.T

Here x_t, h_(t-1), da_t and dhu_t are rows, so x_t.T da_t is (I, 3H); and what belongs to the parameters is summed over
all sequences, too.  A state that was carried over is a constant.

Sources: Cho et al. 2014; the reset gate after the product, and the range of the first weights, are PyTorch's.
"""

import numpy as np

from tinynet.kernels import recurrent as kernels
from tinynet.kernels.compile import either
from tinynet.layers.recurrent import Recurrent, rows_in_time, sigmoid


def gru_forward_plain(x, begins, w, u, b, b_m, h):
    """h (D, N, H) is the state before the first step; recurrent.py says what begins and the axis D are."""
    (D, N, H), R = h.shape, len(x)
    y, gates, h_before = np.empty((R, D * H)), np.empty((D, R, 4, H)), np.empty((D, R, H))
    h = h.astype(np.float64)
    for d, n in np.ndindex(D, N):
        for row in rows_in_time(begins, n, d):
            h_before[d, row] = h[d, n]
            x_r, x_z, x_g = np.split(x[row] @ w[d] + b[d], 3)
            h_r, h_z, h_g = np.split(h[d, n] @ u[d], 3)
            r, z, m = sigmoid(x_r + h_r), sigmoid(x_z + h_z), h_g + b_m[d]
            g = np.tanh(x_g + r * m)
            gates[d, row] = r, z, g, m
            h[d, n] = (1 - z) * g + z * h[d, n]
            y[row, d * H : (d + 1) * H] = h[d, n]
    return y, h, gates, h_before


def gru_backward_plain(dy, dh, x, begins, w, u, gates, h_before):
    """dh (D, N, H) is the gradient of the last h, beside dy; dy may be left out, (0, D H)."""
    D, N, H = dh.shape
    dw, du, dx = np.zeros(w.shape), np.zeros(u.shape), np.zeros(x.shape)
    db, db_m = np.zeros((D, 3 * H)), np.zeros((D, H))
    for d, n in np.ndindex(D, N):
        dh_later = dh[d, n]  # what comes back from step t+1
        for row in reversed(rows_in_time(begins, n, d)):
            r, z, g, m = gates[d, row].astype(np.float64)
            dh_t = dh_later + (dy[row, d * H : (d + 1) * H] if len(dy) else 0)
            dg, dz = dh_t * (1 - z), dh_t * (h_before[d, row] - g)
            da_g, da_z = dg * (1 - g * g), dz * z * (1 - z)
            da_r, dm = da_g * m * r * (1 - r), da_g * r
            da, dhu = np.concatenate([da_r, da_z, da_g]), np.concatenate([da_r, da_z, dm])
            dw[d] += np.outer(x[row], da)
            du[d] += np.outer(h_before[d, row], dhu)
            db[d] += da
            db_m[d] += dm
            dx[row] += da @ w[d].T
            dh_later = dh_t * z + dhu @ u[d].T
    return dw, du, db, db_m, dx


gru_forward = either(gru_forward_plain, kernels.gru_forward)
# The backward kernel takes more than the plain loops: da and dm of all rows (D, R, .).
gru_backward = either(
    gru_backward_plain,
    kernels.gru_backward,
    lambda dy, dh, x, begins, w, u, gates, h_before, da: (dy, dh, x, begins, w, u, gates, h_before),
)


class GRU(Recurrent):
    """Reads a sequence step by step, with a state of so many units: x (N, T, I) -> y (N, T, units).

    y[n,t] is the state h after step t: what the layer keeps of the first t steps.  Two gates, which it learns too, say
    at each step what of the state is read and what stays.

    units               how many numbers the state has
    bidirectional       runs a second GRU from the end to the beginning: y (N, T, 2 units), its h after the first's
    return_sequences    False returns the last h alone, (N, units) or (N, 2 units); the second direction's last h is at
                        the first step

    Parameters "weight" (I, 3 units), "recurrent_weight" (units, 3 units), "bias" (3 units,), in the order r, z, g, and
    "recurrent_bias" (units,), which is b_m; of a second direction the same, "weight_reverse" and so on.  Weights start
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
        gates = "r, z = sigmoid(x w + h_(t-1) u + b), g = tanh(x w + b + r (h_(t-1) u + b_m))"
        return f"y = h = (1 - z) g + z h_(t-1), {gates}"

    def backward_formula(self):
        return "dw = sum x.T da, du = sum h_(t-1).T dhu, dx = da w.T, dh_(t-1) = dh z + dhu u.T, last step first"

    # What others ask of it.

    torch_names = ("GRU",)

    def onnx(self, graph, x):
        _, _, b, b_m = self._stacked("_value")
        of_h = np.concatenate([np.zeros_like(b[:, : 2 * self.units]), b_m], axis=1)
        return self._onnx(graph, x, [1, 0, 2], np.stack([b, of_h]), linear_before_reset=1)  # z, r, n

    def _torch_biases(self, b, b_m):
        first = 2 * self.units  # of r and z, whose biases are added

        def take(given):
            b[...] = given

        def add(given):
            b[:first] += given[:first]
            b_m[...] = given[first:]

        return [("bias_ih", b, take), ("bias_hh", np.concatenate([np.zeros_like(b[:first]), b_m]), add)]
