"""LSTM: goes through a sequence with a memory c, and gates that say what enters it, what stays, and what is shown.

    x_t (I,)    h_t, c_t, i, f, g, o (H,)    w (I, 4H)    u (H, 4H)    a, b (4H,)        a, i, f, g, o: those of step t

    a   = x_t w + h_(t-1) u + b      the four parts of a, H numbers each, belong to i, f, g, o
    i   = sigmoid(a_i)               input gate: how much of g enters the memory
    f   = sigmoid(a_f)               forget gate: how much of the memory stays
    g   = tanh(a_g)                  what could enter
    o   = sigmoid(a_o)               output gate: how much of the memory is shown
    c_t = f c_(t-1) + i g
    h_t = o tanh(c_t)                is the output y_t, too

All products but those with w and u are number by number.  At the first step h_(t-1) and c_(t-1) are 0, or a state that
is carried over from an earlier call.

Backward.  Go from the last step to the first.  At step t ask of each number: which later ones did it touch, and times
what?  After the last step nothing comes: da_(t+1) and dc_(t+1) are 0 there.

    h_t     is y_t, and touched a_(t+1), times u:               dh_t = dy_t + da_(t+1) u.T
            (where the last h alone is returned, its gradient is dy_t of the last step, and the other dy_t are 0)
    c_t     touched h_t, times o and tanh's slope, and          dc_t = dh_t o (1 - tanh(c_t)^2) + dc_(t+1) f_(t+1)
            c_(t+1), times f_(t+1):
    o       touched h_t, times tanh(c_t):                       do   = dh_t tanh(c_t)
    i       touched c_t, times g:                               di   = dc_t g
    g       touched c_t, times i:                               dg   = dc_t i
    f       touched c_t, times c_(t-1):                         df   = dc_t c_(t-1)

    a_i     touched i, times i (1 - i); a_f and a_o likewise; a_g touched g, times 1 - g^2:

            da_t = [di i (1 - i),  df f (1 - f),  dg (1 - g^2),  do o (1 - o)]

    w       touched a of every step, times x_t:                 dw   = sum_t x_t.T da_t
    u       likewise, times h_(t-1):                            du   = sum_t h_(t-1).T da_t
    b       likewise, times 1:                                  db   = sum_t da_t
    x_t     touched every number of a, times w:                 dx_t = da_t w.T

Here x_t, h_(t-1) and da_t are rows, (1, I), (1, H) and (1, 4H), so x_t.T da_t is (I, 4H); and dw, du and db are summed
over all sequences, too.  A state that was carried over is a constant: no gradient goes back beyond it (truncated
backpropagation through time).

Along the memory a gradient is multiplied by f alone, at each step: where the gate is open, f near 1, it neither
vanishes nor grows.  That is what the memory is for.  (Example 21 shows it.)

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
        for row in rows_in_time(begins, n, d):
            h_before[d, row], c_before[d, row] = h[d, n], c[d, n]
            a_i, a_f, a_g, a_o = np.split(x[row] @ w[d] + h[d, n] @ u[d] + b[d], 4)
            i, f, g, o = gates[d, row] = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
            c[d, n] = f * c[d, n] + i * g
            h[d, n] = o * np.tanh(c[d, n])
            y[row, d * H : (d + 1) * H] = h[d, n]
    return y, h, c, gates, h_before, c_before


def lstm_backward_plain(dy, dh, x, begins, w, u, gates, h_before, c_before):
    """dh (D, N, H) is the gradient of the last h, beside dy; dy may be left out, (0, D H)."""
    D, N, H = dh.shape
    dw, du, db, dx = np.zeros(w.shape), np.zeros(u.shape), np.zeros((D, 4 * H)), np.zeros(x.shape)
    for d, n in np.ndindex(D, N):
        dh_later, dc_later = dh[d, n], 0  # what comes back from step t+1
        for row in reversed(rows_in_time(begins, n, d)):
            i, f, g, o = gates[d, row].astype(np.float64)
            tanh_c = np.tanh(f * c_before[d, row] + i * g)
            dh_t = dh_later + (dy[row, d * H : (d + 1) * H] if len(dy) else 0)
            dc_t = dh_t * o * (1 - tanh_c**2) + dc_later
            di, df, dg, do = dc_t * g, dc_t * c_before[d, row], dc_t * i, dh_t * tanh_c
            da = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)])
            dw[d] += np.outer(x[row], da)
            du[d] += np.outer(h_before[d, row], da)
            db[d] += da
            dx[row] += da @ w[d].T
            dh_later, dc_later = da @ u[d].T, dc_t * f
    return dw, du, db, dx


lstm_forward = either(lstm_forward_plain, kernels.lstm_forward)
# The backward kernel takes more than the plain loops: da of all rows (D, R, .), which it uses as it likes.
lstm_backward = either(
    lstm_backward_plain,
    kernels.lstm_backward,
    lambda dy, dh, x, begins, w, u, gates, h_before, c_before, da: (
        dy, dh, x, begins, w, u, gates, h_before, c_before,
    ),
)  # fmt: skip


class LSTM(Recurrent):
    """Reads a sequence step by step, with a memory of so many units: x (N, T, I) -> y (N, T, units).

    y[n,t] is the state h after step t: what the layer keeps of the first t steps.  Gates, which it learns too, say at
    each step what enters the memory, what stays and what is shown.

    units               how many numbers the state has
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
        return "y = h = o tanh(c), c = f c_(t-1) + i g, i, f, o = sigmoid(a), g = tanh(a), a = x w + h_(t-1) u + b"

    def backward_formula(self):
        return "dw = sum x.T da, du = sum h_(t-1).T da, db = sum da, dx = da w.T, dh_(t-1) = da u.T, last step first"

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
