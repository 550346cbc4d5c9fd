"""One step of time of LSTM and GRU, number by number, in vectors: what comes after the product with the state.

    lstm_step, gru_step                      the gates, the new state, and what the backward pass will need
    lstm_step_backward, gru_step_backward    the gradient of a, and that of the state before, as far as it passes by a

Each is for the first `active` sequences of a block, in direction d; recurrent.py has the loop over time.

    a           a View (., 4 H), with a row for each sequence: what the gates are made of
    y (R, D H)  of direction d, the columns from d H on
    da          the gradient of a: (D, R, .), by the rows of x; das has it once more by those of the block

Vectors are read from the middle of rows: behind the last one of a, and of what is in a Block, there is room for one.
"""

from typing import Any, NamedTuple

from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.floats import exp
from tinynet.kernels.vectors import fma, load, load_some, select, splat, store, store_some, width


class Block(NamedTuple):
    """The sequences of a task, at one step of time."""

    places: Any  # (B,), the row of x where each is
    h: Any  # their states, or the gradients of these, in rows of `pitch` numbers, whole vectors
    c: Any
    pitch: Any


class Kept(NamedTuple):
    """What forward keeps for the backward pass; without rows, if there will be none."""

    gates: Any  # (D, R, 4, H)
    h_before: Any  # (D, R, H)
    c_before: Any  # likewise, and empty for GRU


@helper
def sigmoid(x):
    """1 / (1 + exp(-x)), of a vector, as in layers/activations.py."""
    e = exp(select(x < 0, x, 0 - x))
    return select(x < 0, e, 1) / (1 + e)


@helper
def tanh(x):
    """Of a vector, as in special.py: near 0 Lambert's fraction, elsewhere by an exponential."""
    a = select(x < 0, 0 - x, x)
    q = x * x
    e = exp(-2 * a)
    far = select(x < 0, e - 1, 1 - e)
    above = x * fma(q, fma(q, q + 378, 17325), 135135)
    below = fma(q, fma(q, fma(q, 28, 3150), 62370), 135135)
    near = a < 0.5
    return select(near, above, far) / select(near, below, 1 + e)


@helper
def get(a, i, count):
    """The vector from a.flat[i] on, of which the first `count` numbers are there."""
    return load(a, i) if count >= width(a) else load_some(a, i, count, 0)


@helper
def put(v, a, i, count):
    if count >= width(a):
        store(v, a, i)
    else:
        store_some(v, a, i, count)


# --- LSTM ---------------------------------------------------------------------------------------------------------


@kernel()
def lstm_step(active, d, block, a, y, kept):
    gates, h_before, c_before = kept
    (_, R, _, H), LANES, pitch = gates.shape, width(y), block.pitch
    D, keep = y.shape[1] // H, R > 0
    for j in range(active):
        r = block.places[j]
        for k in range(0, H, LANES):
            at, state, n = a.first + j * 4 * H + k, j * pitch + k, H - k
            i, f = sigmoid(load(a.array, at)), sigmoid(load(a.array, at + H))
            g, o = tanh(load(a.array, at + 2 * H)), sigmoid(load(a.array, at + 3 * H))
            before = load(block.c, state)
            c = fma(f, before, i * g)
            if keep:
                to, row = (d * R + r) * 4 * H + k, (d * R + r) * H + k
                put(i, gates, to, n)
                put(f, gates, to + H, n)
                put(g, gates, to + 2 * H, n)
                put(o, gates, to + 3 * H, n)
                put(load(block.h, state), h_before, row, n)
                put(before, c_before, row, n)
            h = o * tanh(c)
            store(c, block.c, state)
            store(h, block.h, state)
            put(h, y, (r * D + d) * H + k, n)


@kernel()
def lstm_step_backward(active, d, block, dy, kept, da, das):
    gates, _, c_before = kept
    (D, R, _, H), LANES, pitch, row_of_da = gates.shape, width(da), block.pitch, da.shape[2]
    for j in range(active):
        r = block.places[j]
        for k in range(0, H, LANES):
            state, n, of = j * pitch + k, H - k, (d * R + r) * 4 * H + k
            i, f = get(gates, of, n), get(gates, of + H, n)
            g, o = get(gates, of + 2 * H, n), get(gates, of + 3 * H, n)
            before = get(c_before, (d * R + r) * H + k, n)
            tanh_c, dh = tanh(fma(f, before, i * g)), load(block.h, state)
            if dy.size > 0:
                dh = dh + get(dy, (r * D + d) * H + k, n)
            dc = load(block.c, state) + dh * o * (1 - tanh_c * tanh_c)
            da_i, da_f = dc * g * i * (1 - i), dc * before * f * (1 - f)
            da_g, da_o = dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)
            store(dc * f, block.c, state)
            store(splat(da, 0), block.h, state)
            to, row = (d * R + r) * row_of_da + k, j * row_of_da + k
            put(da_i, da, to, n)
            put(da_f, da, to + H, n)
            put(da_g, da, to + 2 * H, n)
            put(da_o, da, to + 3 * H, n)
            put(da_i, das, row, n)
            put(da_f, das, row + H, n)
            put(da_g, das, row + 2 * H, n)
            put(da_o, das, row + 3 * H, n)


# --- GRU ----------------------------------------------------------------------------------------------------------


@kernel()
def gru_step(active, d, block, a, y, kept):
    gates, h_before, _ = kept
    (_, R, _, H), LANES, pitch = gates.shape, width(y), block.pitch
    D, keep = y.shape[1] // H, R > 0
    for j in range(active):
        r = block.places[j]
        for k in range(0, H, LANES):
            at, state, n = a.first + j * 4 * H + k, j * pitch + k, H - k
            reset, z, m = sigmoid(load(a.array, at)), sigmoid(load(a.array, at + H)), load(a.array, at + 3 * H)
            g, before = tanh(fma(reset, m, load(a.array, at + 2 * H))), load(block.h, state)
            if keep:
                to = (d * R + r) * 4 * H + k
                put(reset, gates, to, n)
                put(z, gates, to + H, n)
                put(g, gates, to + 2 * H, n)
                put(m, gates, to + 3 * H, n)
                put(before, h_before, (d * R + r) * H + k, n)
            h = fma(z, before, (1 - z) * g)
            store(h, block.h, state)
            put(h, y, (r * D + d) * H + k, n)


@kernel()
def gru_step_backward(active, d, block, dy, kept, da, das):
    gates, h_before, _ = kept
    (D, R, _, H), LANES, pitch, row_of_da = gates.shape, width(da), block.pitch, da.shape[2]
    for j in range(active):
        r = block.places[j]
        for k in range(0, H, LANES):
            state, n, of = j * pitch + k, H - k, (d * R + r) * 4 * H + k
            reset, z = get(gates, of, n), get(gates, of + H, n)
            g, m = get(gates, of + 2 * H, n), get(gates, of + 3 * H, n)
            before, dh = get(h_before, (d * R + r) * H + k, n), load(block.h, state)
            if dy.size > 0:
                dh = dh + get(dy, (r * D + d) * H + k, n)
            da_g, da_z = dh * (1 - z) * (1 - g * g), dh * (before - g) * z * (1 - z)
            da_r, dm = da_g * m * reset * (1 - reset), da_g * reset
            store(dh * z, block.h, state)
            to, row = (d * R + r) * row_of_da + k, j * row_of_da + k
            put(da_r, da, to, n)
            put(da_z, da, to + H, n)
            put(da_g, da, to + 2 * H, n)
            put(dm, da, to + 3 * H, n)
            put(da_r, das, row, n)
            put(da_z, das, row + H, n)
            put(da_g, das, row + 2 * H, n)
            put(dm, das, row + 3 * H, n)
