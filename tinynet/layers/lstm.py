"""LSTM: goes through a sequence with a memory c, and gates that say what enters it, what stays, and what is shown.

    x_t (I,)    h_t, c_t (H,)    w (I, 4H)    u (H, 4H)    b (4H,)        c' and h' are those of the step before

    z = x_t w + h' u + b          the four parts of z, H numbers each, belong to i, f, g, o
    i = sigmoid(z_i)              input gate: how much of g enters the memory
    f = sigmoid(z_f)              forget gate: how much of the memory stays
    g = tanh(z_g)                 what could enter
    o = sigmoid(z_o)              output gate: how much of the memory is shown
    c_t = f c' + i g
    h_t = o q,  q = tanh(c_t)     h_t is the output y_t, too

All products but those with w and u are number by number.  At the first step h' and c' are 0, or a state carried over.

Backward.  Go from the last step to the first.  At step t ask of each number: which later ones did it touch, and times
what?  Two gradients come from step t+1: dh, what h_t did there, and dc, what c_t did there.  After the last step both
are 0, or dh is the gradient of the last h, where that alone is returned.

    h_t     is y_t, and touched step t+1:                   a    = dy_t + dh
    o       touched h_t, times q:                           do   = a q
    q       touched h_t, times o:                           dq   = a o
    c_t     touched q, times 1 - q^2, and step t+1:         e    = dc + a o (1 - q^2)
    i       touched c_t, times g:                           di   = e g
    g       touched c_t, times i:                           dg   = e i
    f       touched c_t, times c':                          df   = e c'
    c'      touched c_t, times f:                           dc   = e f             which goes on to step t-1

    z_i     touched i, times i (1 - i); z_f and z_o likewise; z_g touched g, times 1 - g^2:

            dz = [e g i (1 - i),  e c' f (1 - f),  e i (1 - g^2),  a q o (1 - o)]

    w, u, b touched z of every step, times x_t, h' and 1:   dw = sum_t x_t.T dz_t      du = sum_t h'.T dz_t
                                                            db = sum_t dz_t            summed over all sequences, too
    x_t     touched every number of z, times w:             dx_t = dz w.T
    h'      likewise, times u:                              dh = dz u.T            which goes on to step t-1

Here x_t, h' and dz_t are rows, (1, I), (1, H) and (1, 4H), so x_t.T dz_t is (I, 4H).  A state that was carried over
from an earlier call is a constant: no gradient goes back beyond it (truncated backpropagation through time).

Along the memory a gradient is multiplied by f alone, at each step: where the gate is open, f near 1, it neither
vanishes nor grows.  That is what the memory is for.

Sources: Hochreiter and Schmidhuber 1997; the forget gate, and why its bias starts at 1, Gers, Schmidhuber and Cummins
2000, Jozefowicz, Zaremba and Sutskever 2015; the order of the gates and the range of the first weights are PyTorch's.
"""

import numpy as np

from tinynet.kernels import recurrent as kernels
from tinynet.kernels.compile import either
from tinynet.layers.recurrent import Recurrent, rows_in_time, sigmoid


def lstm_forward_plain(x, begins, w, u, b, h, c):
    """h and c (D, N, H) are the states before the first step; recurrent.py says what begins and the axis D are."""
    (D, N, H), R = h.shape, len(x)
    y, gates, h_before, c_before = np.empty((R, D * H)), np.empty((D, R, 4, H)), *np.empty((2, D, R, H))
    h, c = h.astype(np.float64), c.astype(np.float64)
    for d, n in np.ndindex(D, N):
        for r in rows_in_time(begins, n, d):
            h_before[d, r], c_before[d, r] = h[d, n], c[d, n]
            z = x[r] @ w[d] + h[d, n] @ u[d] + b[d]
            z_i, z_f, z_g, z_o = np.split(z, 4)
            i, f, g, o = gates[d, r] = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
            c[d, n] = f * c[d, n] + i * g
            h[d, n] = o * np.tanh(c[d, n])
            y[r, d * H : (d + 1) * H] = h[d, n]
    return y, h, c, gates, h_before, c_before


def lstm_backward_plain(dy, dh, x, begins, w, u, gates, h_before, c_before):
    """dh (D, N, H) is the gradient of the last h, beside dy; dy may be left out, (0, D H)."""
    D, N, H = dh.shape
    dw, du, db, dx = np.zeros(w.shape), np.zeros(u.shape), np.zeros((D, 4 * H)), np.zeros(x.shape)
    for d, n in np.ndindex(D, N):
        dh_t, dc = dh[d, n], 0
        for r in reversed(rows_in_time(begins, n, d)):
            i, f, g, o = gates[d, r].astype(np.float64)
            q = np.tanh(f * c_before[d, r] + i * g)
            a = dh_t + (dy[r, d * H : (d + 1) * H] if len(dy) else 0)
            e = dc + a * o * (1 - q * q)
            di, df, dg, do = e * g, e * c_before[d, r], e * i, a * q
            dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)])
            dw[d] += np.outer(x[r], dz)
            du[d] += np.outer(h_before[d, r], dz)
            db[d] += dz
            dx[r] += dz @ w[d].T
            dh_t, dc = dz @ u[d].T, e * f
    return dw, du, db, dx


lstm_forward = either(lstm_forward_plain, kernels.lstm_forward)
# The backward kernel takes more than the plain loops, dz of all rows (D, R, .), which it uses as it likes.
lstm_backward = either(
    lstm_backward_plain,
    kernels.lstm_backward,
    lambda dy, dh, x, begins, w, u, gates, h_before, c_before, dz: (
        dy, dh, x, begins, w, u, gates, h_before, c_before,
    ),
)  # fmt: skip


class LSTM(Recurrent):
    """y_t = h_t of an LSTM of so many units: x (N, T, I) -> y (N, T, units).

    bidirectional       runs a second LSTM from the end to the beginning: y (N, T, 2 units), its h after the first's
    return_sequences    False returns the last h alone, (N, units) or (N, 2 units); the second direction's last h is at
                        the first step

    Parameters "weight" (I, 4 units), "recurrent_weight" (units, 4 units) and "bias" (4 units,), the gates in the order
    i, f, g, o; of a second direction the same, "weight_reverse" and so on.  Weights start uniform in +-1/sqrt(units),
    biases at 0, and those of the forget gates at 1.

    forward takes the `lengths` (N,) of sequences that are padded at their end, and a `state`, a dict: {} at the start
    of a sequence.  It leaves h and c there, and goes on from these when it is called with the next steps.

    >>> tn.Sequential([tn.LSTM(8, bidirectional=True)], input_shape=(5, 3)).output_shape
    (5, 16)
    """

    states = ("h", "c")

    def _steps_forward(self, *arrays):
        lstm_forward(*arrays)

    def _steps_backward(self, *arrays):
        lstm_backward(*arrays)

    def _start_values(self, I, H, uniform):
        bias = np.zeros(4 * H)
        bias[H : 2 * H] = 1
        return [("weight", uniform(I, 4 * H)), ("recurrent_weight", uniform(H, 4 * H)), ("bias", bias)]

    def formula(self):
        return "y = h = o tanh(c), c = f c' + i g, i, f, o = sigmoid(z), g = tanh(z), z = x w + h' u + b"

    def backward_formula(self):
        return "dw = sum x.T dz, du = sum h'.T dz, db = sum dz, dx = dz w.T, dh = dz u.T, from the last step on"

    # What others ask of it.

    torch_names = ("LSTM",)

    def onnx(self, graph, x):
        b = self._stacked("_value")[2]
        return self._onnx(graph, x, [0, 3, 1, 2], np.stack([b, np.zeros_like(b)]))  # i, o, f, g

    def _torch_biases(self, b):
        def add(given):
            b[...] += given

        def take(given):
            b[...] = given

        return [("bias_ih", b, take), ("bias_hh", np.zeros_like(b), add)]
